"""The table of all optimizers, and a small model for their contract."""

import math

import pytest
import torch

import steepest
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
from steepest.optim import momentum
from steepest.optim.presets import FAMILY
from steepest.polar import Svd
from steepest.testing.optimizers import loss as loss
from steepest.testing.optimizers import model as model
from steepest.testing.optimizers import parameters as parameters
from steepest.testing.optimizers import same
from steepest.testing.optimizers import train as train

OPTIMIZERS = {
    "muon": lambda params, **kw: Muon(params, **{"lr": 0.05, "adamw_lr": 0.01, **kw}),
    "muon_svd": lambda params, **kw: Muon(
        params, **{"lr": 0.05, "adamw_lr": 0.01, "polar": Svd(), "nesterov": False, **kw}
    ),
    "muon_torch": lambda params, **kw: Muon(
        params, **{"lr": 0.05, "adamw_lr": 0.01, "ns_steps": 5, **kw}
    ),
    "muon_rms": lambda params, **kw: Muon(
        params, **{"lr": 0.05, "adjust_lr_fn": "match_rms_adamw", "adamw_weight_decay": 0.1, **kw}
    ),
    "muon_8bit": lambda params, **kw: Muon(
        params, **{"lr": 0.05, "adamw_lr": 0.01, "momentum_dtype": torch.int8, **kw}
    ),
    "schatten": lambda params, **kw: SteepestDescent(
        params, norms.Schatten(4), **{"lr": 0.05, "momentum": 0.9, "adamw_lr": 0.01, **kw}
    ),
    "rows": lambda params, **kw: SteepestDescent(
        params,
        norms.Operator("rms", math.inf),
        **{"lr": 0.05, "momentum": 0.9, "adamw_lr": 0.01, **kw},
    ),
    "sgd": lambda params, **kw: SGD(params, **{"lr": 0.5, "adamw_lr": 0.01, **kw}),
    "normalized_sgd": lambda params, **kw: NormalizedSGD(
        params, **{"lr": 0.1, "adamw_lr": 0.01, **kw}
    ),
    "sign_sgd": lambda params, **kw: SignSGD(params, **{"lr": 0.01, "adamw_lr": 0.01, **kw}),
    "lion": lambda params, momentum=None, **kw: Lion(
        params,
        betas=None if momentum is None else (momentum, momentum),
        **{"lr": 0.01, "adamw_lr": 0.01, **kw},
    ),
    "spectral_descent": lambda params, **kw: SpectralDescent(
        params, **{"lr": 0.2, "adamw_lr": 0.01, **kw}
    ),
    "scion": lambda params, **kw: Scion(
        params, **{"lr": 0.05, "head_scale": 2.0, "adamw_lr": 0.01, **kw}
    ),
    "polar_grad": lambda params, **kw: PolarGrad(params, **{"lr": 0.3, "adamw_lr": 0.01, **kw}),
    "lion_k": lambda params, momentum=0.9, **kw: LionK(
        params,
        **{"lr": 0.05, "K": maps.SmoothNuclear(1e-3), "betas": (momentum, momentum), **kw},
    ),
    "projected": lambda params, weight_decay=0.1, **kw: Muon(
        params,
        weight_decay=weight_decay,
        constraint="project" if weight_decay else None,
        **{"lr": 0.05, "adamw_lr": 0.01, **kw},
    ),
}
OPTIMIZERS |= {
    name: lambda params, name=name, **kw: getattr(steepest, name)(
        params, **{"lr": 0.05, "adamw_lr": 0.01, **kw}
    )
    for name in FAMILY
}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


@pytest.fixture
def all_in_eight_bits(monkeypatch):
    """The small model has no tensor that is large enough for 8 bits."""
    monkeypatch.setattr(momentum, "SMALLEST", 1)
    monkeypatch.setattr(momentum, "SHORTEST", 1)


def assert_equal(a, b):
    assert same(a, b)
