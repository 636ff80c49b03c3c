"""Optimizers and learning-rate schedules of the comparison, all on public paths."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch.nn import Parameter
from torch.optim import SGD, Adam, Optimizer

from steepest import MatrixView, SteepestDescent
from steepest.norms import Spectral
from steepest.polar import JORDAN, GramEigh, NewtonSchulz, PolarMethod, Svd

# What the vanishing schedule ends at, as a part of the learning rate.
LAST = 1e-3
MOMENTUM = 0.9

# Exact for float32 gradients down to n·eps·σ₁, which is where their own rounding begins.
EXACT = GramEigh()


def muon(
    param: Parameter, *, lr: float, momentum: float = 0.0, polar: PolarMethod | None = None
) -> Optimizer:
    """Muon with Nesterov's momentum, without decay and without a factor for the shape.

    Args:
        param: a stack of matrices.
        lr: spectral norm per step.
        momentum: the momentum of the average.
        polar: its polar factors; None means those of a decomposition.
    """
    norm = Spectral(polar=polar or Svd())
    return SteepestDescent(_stack(param), norm, lr, momentum=momentum, nesterov=momentum > 0)


def nuclear(param: Parameter, *, sharpness: float, polar: PolarMethod | None = None) -> Optimizer:
    """Steepest descent in the spectral norm with steps ‖G‖_*/sharpness, as the theory has them."""
    return SteepestDescent(_stack(param), Spectral(polar=polar or Svd()), sharpness=sharpness)


def _stack(param: Parameter) -> list[dict[str, Any]]:
    """The one group of a parameter of shape (batch, n, n)."""
    return [{"params": [param], "views": [MatrixView(batch=(0,), rows=(1,), cols=(2,))]}]


@dataclass(frozen=True)
class ComparedOptimizer:
    """An optimizer of the comparison.

    Args:
        build: the maker, from a parameter, a learning rate and a momentum.
        momenta: those that it is run with.
        cost: the time of a step on a 128 × 128 matrix, in milliseconds.
        rates: its learning rates; none means those of the comparison.
        unit: whether it is shown the loss over its smoothness constant in the spectral norm.
    """

    build: Callable[[Parameter, float, float], Optimizer]
    momenta: tuple[float, ...] = (0.0,)
    cost: float = 0.1
    rates: tuple[float, ...] = ()
    unit: bool = False


METHODS: Mapping[str, ComparedOptimizer] = {
    "GD": ComparedOptimizer(lambda param, lr, _: SGD([param], lr)),
    "Adam": ComparedOptimizer(lambda param, lr, _: Adam([param], lr), cost=0.2),
    "Muon": ComparedOptimizer(
        lambda param, lr, mu: muon(param, lr=lr, momentum=mu, polar=EXACT),
        (0.0, MOMENTUM),
        1.8,
    ),
    "Muon NS5": ComparedOptimizer(
        lambda param, lr, mu: muon(param, lr=lr, momentum=mu, polar=NewtonSchulz(JORDAN)),
        (0.0, MOMENTUM),
        0.7,
    ),
    "Muon nuclear": ComparedOptimizer(
        lambda param, lr, _: nuclear(param, sharpness=1 / lr, polar=EXACT),
        cost=1.8,
        rates=(1.0,),
        unit=True,
    ),
}


def constant(_: int, __: int) -> float:
    """1."""
    return 1.0


def vanishing(t: int, steps: int) -> float:
    """A cosine from 1 at the first step to `LAST` at the end.

    Examples:
        >>> vanishing(0, 500), round(vanishing(500, 500), 6)
        (1.0, 0.001)
    """
    return LAST + (1 - LAST) * (1 + math.cos(math.pi * t / steps)) / 2


SCHEDULES: Mapping[str, Callable[[int, int], float]] = {
    "constant": constant,
    "vanishing": vanishing,
}
