"""The table of all optimizers, and a small model for their contract."""

import math

import pytest
import torch
from torch import nn

from steepest import (
    SGD,
    Lion,
    LionK,
    Muon,
    NormalizedSGD,
    PolarGrad,
    Scion,
    SignSGD,
    SpectralDescent,
    SteepestDescent,
    maps,
    norms,
)
from steepest.polar import Svd

OPTIMIZERS = {
    "muon": lambda params, **kw: Muon(params, **{"lr": 0.05, "rest_lr": 0.01, **kw}),
    "muon_svd": lambda params, **kw: Muon(
        params, **{"lr": 0.05, "rest_lr": 0.01, "polar": Svd(), "nesterov": False, **kw}
    ),
    "muon_torch": lambda params, **kw: Muon(
        params, **{"lr": 0.05, "rest_lr": 0.01, "ns_steps": 5, **kw}
    ),
    "muon_rms": lambda params, **kw: Muon(
        params, **{"lr": 0.05, "adjust_lr_fn": "match_rms_adamw", "rest_weight_decay": 0.1, **kw}
    ),
    "schatten": lambda params, **kw: SteepestDescent(
        params, norms.Schatten(4), **{"lr": 0.05, "momentum": 0.9, "rest_lr": 0.01, **kw}
    ),
    "rows": lambda params, **kw: SteepestDescent(
        params,
        norms.Operator("rms", math.inf),
        **{"lr": 0.05, "momentum": 0.9, "rest_lr": 0.01, **kw},
    ),
    "sgd": lambda params, **kw: SGD(params, **{"lr": 0.5, "rest_lr": 0.01, **kw}),
    "normalized_sgd": lambda params, **kw: NormalizedSGD(
        params, **{"lr": 0.1, "rest_lr": 0.01, **kw}
    ),
    "sign_sgd": lambda params, **kw: SignSGD(params, **{"lr": 0.01, "rest_lr": 0.01, **kw}),
    "lion": lambda params, **kw: Lion(params, **{"lr": 0.01, "rest_lr": 0.01, **kw}),
    "spectral_descent": lambda params, **kw: SpectralDescent(
        params, **{"lr": 0.2, "rest_lr": 0.01, **kw}
    ),
    "scion": lambda params, **kw: Scion(
        params, **{"lr": 0.05, "head_scale": 2.0, "rest_lr": 0.01, **kw}
    ),
    "polar_grad": lambda params, **kw: PolarGrad(params, **{"lr": 0.3, "rest_lr": 0.01, **kw}),
    "lion_k": lambda params, momentum=0.9, **kw: LionK(
        params,
        **{"lr": 0.05, "K": maps.SmoothNuclear(1e-3), "betas": (momentum, momentum), **kw},
    ),
    "projected": lambda params, weight_decay=0.1, **kw: Muon(
        params,
        weight_decay=weight_decay,
        constraint="project" if weight_decay else None,
        **{"lr": 0.05, "rest_lr": 0.01, **kw},
    ),
}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


class Model(nn.Module):
    """An embedding, a convolution, two hidden layers of one shape, a gain and a head."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.up = nn.Linear(8, 12)
        self.norm = nn.LayerNorm(12)
        self.down = nn.Linear(12, 8)
        self.head = nn.Linear(8, 10)

    def forward(self, tokens):
        x = self.embedding(tokens)
        x = x + self.conv(x.transpose(1, 2)).transpose(1, 2)
        return self.head(x + self.down(self.norm(self.up(x)).relu()))


def model(seed=0):
    torch.manual_seed(seed)
    return Model()


def loss(m, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 10, (4, 6), generator=generator)
    dtype = m.head.weight.dtype
    return nn.functional.cross_entropy(m(tokens).to(dtype).flatten(0, 1), tokens.flatten())


def train(m, optimizer, steps=3, start=0):
    for t in range(start, start + steps):
        optimizer.zero_grad()
        loss(m, t).backward()
        optimizer.step()


def parameters(m):
    return [p.detach().clone() for p in m.parameters()]


def assert_equal(a, b):
    assert len(a) == len(b) > 0
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
