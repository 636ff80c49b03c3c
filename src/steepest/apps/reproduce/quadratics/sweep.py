"""Every optimizer with every learning rate on every family of quadratics."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from steepest._common.files import Record
from steepest.apps.reproduce.quadratics.methods import METHODS, SCHEDULES
from steepest.apps.reproduce.quadratics.problem import Problem, descend

# Steps at which losses are kept, besides the marks.
KEPT = 40
MARKS = (10, 2, 1)
"""The win tables look at T/10, T/2 and T."""


def marks(steps: int) -> list[int]:
    """The steps at which the win tables compare.

    Examples:
        >>> marks(500)
        [50, 250, 500]
    """
    return [max(1, steps // part) for part in MARKS]


def kept(steps: int) -> list[int]:
    """The steps whose losses are kept: first and last, marks, and between them ever fewer."""
    between = np.geomspace(1, steps, KEPT).round().astype(int).tolist()
    return sorted({0, steps, *marks(steps), *between})


def _numbers(values: Sequence[float]) -> list[float | None]:
    """Six digits, which is what float32 has; None for what is not finite."""
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in values]


def sweep(cell: Record, *, n: int, steps: int) -> Record:
    """Losses of some instances at the steps of `kept`.

    Args:
        cell: `family`, `method`, `momentum`, `schedule`, `lr`, `seed`, and the instances from
            `first` on, `count` of them.
        n: rows and columns.
        steps: the number of steps.

    Returns:
        `t`: these steps; `loss`: of each instance at each of them; `best`: its smallest loss up to
        each mark; `grad`: the norm of its last gradient; `distance`: the largest ‖W₀ − W*‖₂.
    """
    instances = range(cell["first"], cell["first"] + cell["count"])
    problem = Problem.draw(
        cell["family"], n, seed=cell["seed"], instances=instances, dtype=torch.float32
    )
    method, factor = METHODS[cell["method"]], SCHEDULES[cell["schedule"]]
    scale = problem.sharpness if method.unit else torch.ones(len(problem.start))
    path = descend(
        problem.over(scale),
        lambda param: method.build(param, cell["lr"], cell["momentum"]),
        steps=steps,
        schedule=lambda t: factor(t, steps),
    )
    losses = (scale * path.loss).nan_to_num(nan=math.inf)
    lowest = losses.cummin(dim=0).values
    return {
        "t": kept(steps),
        "loss": [_numbers(each) for each in losses[kept(steps)].T.tolist()],
        "best": [_numbers(each) for each in lowest[marks(steps)].T.tolist()],
        "grad": _numbers((scale * path.grad[-1]).tolist()),
        "distance": problem.distance,
    }
