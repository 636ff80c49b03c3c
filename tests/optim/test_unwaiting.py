"""The step never waits for an accelerator: on a fake one, whose values cannot be looked at."""

import math

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

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
    optim,
    polar,
)
from steepest.optim.presets import FAMILY


def members(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


METHODS = [
    polar.Auto(error=0.05),
    polar.Auto(error=1e-3),
    polar.NewtonSchulz(),
    polar.NewtonSchulz(dtype=torch.bfloat16),
    polar.GramNewtonSchulz(),
    polar.GramNewtonSchulz(dtype=torch.float16),
]


def step_on_a_fake_accelerator(make, dtype=torch.float32, steps=2):
    """Any value that is looked at raises; so does a shape that depends on one."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        groups = on("cuda", dtype)
    # What is derived from shapes alone is real arithmetic on the host.
    optimizer = make(groups)
    with mode:
        for _ in range(steps):
            for p in members(optimizer):
                p.grad = torch.empty_like(p)
            optimizer.step()
            for p in members(optimizer):
                assert all(t.device.type == "cuda" for t in optimizer.state[p].values())
    return optimizer


def on(device, dtype):
    shapes = [(8, 8), (8, 8), (12, 4), (4, 12), (64, 256), (256, 64)]
    matrices = [nn.Parameter(torch.zeros(s, device=device, dtype=dtype)) for s in shapes]
    rest = [nn.Parameter(torch.zeros(8, device=device, dtype=dtype))]
    return [{"params": matrices}, {"params": rest, "adamw": True}]


@pytest.mark.parametrize(
    ("number", "dtype"),
    [*((i, torch.float32) for i in range(len(METHODS))), (0, torch.bfloat16)],
    ids=str,
)
def test_muon_never_waits_for_the_device(number, dtype, unchecked):
    step_on_a_fake_accelerator(lambda groups: Muon(groups, polar=METHODS[number]), dtype)


def on_the_device(groups):
    """One number there."""
    return groups[1]["params"][0].detach().sum()


WAITING = {"SOAPMuon"}
"""Optimizers that look at numbers, and say so."""

UNWAITING = {
    **{
        name: lambda groups, name=name: getattr(steepest, name)(groups, lr=0.1)
        for name in FAMILY
        if name not in WAITING
    },
    "lion": lambda groups: Lion(groups, lr=0.1, weight_decay=0.1),
    "tensor_lr": lambda groups: Muon(groups, lr=on_the_device(groups), adamw_lr=0.1),
    "half_momentum": lambda groups: Muon(groups, momentum_dtype=torch.bfloat16),
    "adjusted": lambda groups: Muon(groups, adjust_lr_fn="match_rms_adamw"),
    "wide_momentum": lambda groups: Muon(groups, momentum_dtype=torch.float64),
    "eight_bits": lambda groups: Muon(groups, momentum_dtype=torch.int8),
    "sgd": lambda groups: SGD(groups, lr=0.1, momentum=0.9),
    "sign_sgd": lambda groups: SignSGD(groups, lr=0.1),
    "normalized_sgd": lambda groups: NormalizedSGD(groups, lr=0.1),
    "spectral_descent": lambda groups: SpectralDescent(groups, lr=0.1),
    "polar_grad": lambda groups: PolarGrad(groups, lr=0.1),
    "dual": lambda groups: SteepestDescent(groups, norms.Spectral(polar=METHODS[0]), sharpness=2.0),
    "estimate": lambda groups: SteepestDescent(groups[:1], norms.LInf(), sharpness="estimate"),
    "scion": lambda groups: Scion(groups, lr=0.1),
    "lion_k": lambda groups: LionK(groups, lr=0.1, K=maps.SmoothNuclear(0.1, polar=METHODS[0])),
    "implicit": lambda groups: Muon(groups, decay="implicit"),
    "cautious": lambda groups: Muon(groups, decay="cautious"),
    "projected": lambda groups: Lion(groups, lr=0.1, weight_decay=0.1, constraint="project"),
    "rows": lambda groups: SteepestDescent(groups, norms.RowNorm(), lr=0.1),
    "operator": lambda groups: SteepestDescent(groups, norms.Operator("rms", math.inf), lr=0.1),
}


@pytest.mark.parametrize("make", UNWAITING.values(), ids=UNWAITING.keys())
def test_no_optimizer_waits_for_the_device(make, unchecked):
    step_on_a_fake_accelerator(make)


def test_no_optimizer_is_missing(unchecked):
    made = {type(make(on("cpu", torch.float32))).__name__ for make in UNWAITING.values()}
    assert made == set(optim.PRESETS) - WAITING | {"LionK", "SteepestDescent"}


def test_the_policy_that_raises_has_to_wait(unchecked):
    """That the fake accelerator notices."""
    with pytest.raises(DataDependentOutputException):
        step_on_a_fake_accelerator(lambda groups: Muon(groups, nonfinite="raise"))
