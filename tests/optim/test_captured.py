"""A step may be captured: what its operators do again, on the same memory, is the next step.

A CUDA graph runs the kernels of one step again, with the addresses that they had, and nothing of
Python. Here the operators are run again on the tensors that they had.
"""

import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from steepest import Muon, SteepestDescent, norms, polar
from steepest._common import numerics
from steepest.optim import momentum
from tools.gpu_check import parts

aten = torch.ops.aten
CPU = torch.device("cpu")
SHAPES = [(8, 8), (8, 8), (12, 4), (4, 12)]
MAKES = {
    **parts.OPTIMIZERS,
    # On a GPU that is the choice of Auto.
    "Muon, float16": lambda g, lr: Muon(
        g, lr=lr, polar=polar.GramNewtonSchulz(parts.HALVES, torch.float16)
    ),
    "SteepestDescent, sharpness": lambda g, _: SteepestDescent(g, norms.L2(), sharpness=2.0),
}


class Operators(TorchDispatchMode):
    """The operators of a step with all their tensors, to be run again."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in (aten._local_scalar_dense.default, aten.is_nonzero.default), "a look"
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def again(self):
        for func, args, kwargs, out in self.calls:
            for old, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                # A view, and what an operator writes into, are there already.
                shared = isinstance(old, torch.Tensor) and (
                    old.untyped_storage().data_ptr() == new.untyped_storage().data_ptr()
                )
                if isinstance(old, torch.Tensor) and not shared:
                    old.copy_(new)


class Replayed:
    """An optimizer whose steps after the third are the operators of that one again."""

    def __init__(self, stepped):
        self.stepped, self.steps, self.operators = stepped, 0, Operators()

    def step(self):
        self.steps += 1
        if self.steps <= 2:
            self.stepped.step()
        elif self.steps == 3:
            with self.operators:
                self.stepped.step()
        else:
            self.operators.again()


@pytest.fixture
def _as_on_a_device(monkeypatch, unchecked):
    """Nothing lies in the memory of the host, where a look costs nothing."""
    plain = numerics.is_known
    for name, module in list(sys.modules.items()):
        if name.startswith("steepest.") and getattr(module, "is_known", None) is plain:
            monkeypatch.setattr(module, "is_known", lambda _: False)
    monkeypatch.setattr(numerics, "PLAIN", ())
    monkeypatch.setattr(momentum, "SMALLEST", 1)
    monkeypatch.setattr(momentum, "SHORTEST", 1)


@pytest.mark.usefixtures("_as_on_a_device")
@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES.keys())
def test_the_operators_of_a_step_again_are_the_next_step(make):
    good, reason, _ = parts.same_steps(make, lambda s: Replayed(s).step, CPU, SHAPES)
    assert good, reason


@pytest.mark.usefixtures("_as_on_a_device")
def test_a_learning_rate_that_is_a_number_stays_in_the_graph():
    """So the test above sees what a graph cannot follow."""

    def make(groups, lr):
        return Muon(groups, lr=float(lr), adamw_lr=lr)

    def wrap(stepped):
        replayed = Replayed(stepped)

        def step():
            stepped.param_groups[0]["lr"] = 0.1 if replayed.steps < 4 else 0.01
            replayed.step()

        return step

    good, _, numbers = parts.same_steps(make, wrap, CPU, SHAPES)
    # The plain one keeps 0.1 as the graph does.
    assert good, numbers


@pytest.mark.usefixtures("_as_on_a_device")
def test_a_look_is_noticed():
    stepped = Muon(parts.groups(CPU, SHAPES), nonfinite="raise")
    parts.give(stepped, 0)
    with pytest.raises(AssertionError, match="a look"), Operators():
        stepped.step()
