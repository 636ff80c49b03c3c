"""Steps along entries take as many calls of torch for many parameters as for few."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from steepest import SGD, Lion, LionK, SignSGD, SteepestDescent, maps, norms

OPTIMIZERS = {
    "sgd": lambda ps: SGD(ps, lr=0.1),
    "sgd, momentum": lambda ps: SGD(ps, lr=0.1, momentum=0.9, weight_decay=0.1),
    "sign": lambda ps: SignSGD(ps, lr=0.1),
    "nesterov": lambda ps: SteepestDescent(ps, norms.LInf(), 0.1, momentum=0.9, nesterov=True),
    "lion": lambda ps: Lion(ps, lr=0.1),
    "lion-k": lambda ps: LionK(ps, lr=0.1, K=maps.L1Map()),
}
VIEWS = {torch.ops.aten.view.default, torch.ops.aten.detach.default}
"""They compute nothing."""


class Calls(TorchDispatchMode):
    """The operators that are called inside, as torch sees them from without."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func not in VIEWS:
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def calls(make, count):
    """The operators of the third step of so many parameters."""
    gen = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(4, 5, generator=gen)) for _ in range(count)]
    optimizer = make(params)
    for _ in range(3):
        for p in params:
            p.grad = torch.randn(4, 5, generator=gen)
        with Calls() as seen:
            optimizer.step()
    return seen.names


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_no_operator_is_called_for_each_parameter(make):
    few, many = calls(make, 2), calls(make, 40)
    assert few and many == few


def test_the_counter_sees_a_loop():
    with Calls() as seen:
        for x in torch.ones(5):
            x.sign()
    assert seen.names.count("aten::sign") == 5
