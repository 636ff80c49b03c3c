"""The best step along the gradient against the best step along its polar factor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steepest._common.files import Record
from steepest.apps.reproduce.quadratics.problem import gaussian, generator, orthogonal
from steepest.polar import Svd

# Figures 5 and 16 of arXiv 2602.11948.
CONDITION = 1e3
PROBLEM, START = 5, 16
"""Streams of random numbers."""


def draw(n: int, *, seed: int, instances: Sequence[int]) -> tuple[Tensor, Tensor]:
    """A = Q·diag(1, …, 1, κ)·Qᵀ, shape (n, n), and starts W₀, (batch, n, n), in float64.

    A is the same for every start of a seed, whichever of them are drawn.
    """
    curvature = torch.ones(n, dtype=torch.float64)
    curvature[-1] = CONDITION
    q = orthogonal(n, generator(seed, 0, PROBLEM))
    starts = [gaussian(n, generator(seed, instance, START)) for instance in instances]
    return (q * curvature) @ q.T, torch.stack(starts)


def best_step(a: Tensor, grad: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Exact line search on ½⟨W, AW⟩ along −D: the step ⟨D,G⟩/⟨D,AD⟩ and ⟨D,G⟩²/(2⟨D,AD⟩) less.

    Returns:
        Both of shape (batch,); zero where the gradient is.
    """
    slope = (direction * grad).sum(dim=(-2, -1))
    curvature = (direction * (a @ direction)).sum(dim=(-2, -1))
    step = torch.where(curvature > 0, slope / curvature, 0.0)
    return step, step * slope / 2


def greedy(*, n: int, steps: int, instances: Sequence[int], seed: int) -> Record:
    """Gaps ½⟨W, AW⟩ of gradient descent and of the better of both directions, step by step.

    `gain` is how much more the polar factor decreases the loss than the gradient would at the same
    point of the greedy path; `polar` counts the starts that took it.

    Args:
        n: rows and columns.
        steps: the number of steps.
        instances: the numbers of the starts.
        seed: the seed of A and of all starts.
    """
    a, start = draw(n, seed=seed, instances=instances)
    exact = Svd()
    gd, both = start, start.clone()
    rows = []
    for t in range(steps + 1):
        gradients = a @ gd, a @ both
        gaps = [(w * g).sum(dim=(-2, -1)) / 2 for w, g in zip((gd, both), gradients, strict=True)]
        down, _ = best_step(a, gradients[0], gradients[0])
        gd = gd - down[:, None, None] * gradients[0]
        candidates = gradients[1], exact(gradients[1])
        found = [best_step(a, gradients[1], d) for d in candidates]
        better = found[1][1] >= found[0][1]
        step = torch.where(better, found[1][0], found[0][0])[:, None, None]
        both = both - step * torch.where(better[:, None, None], candidates[1], candidates[0])
        rows.append(
            {
                "step": t,
                "GD": gaps[0].tolist(),
                "greedy": gaps[1].tolist(),
                "gain": (found[1][1] / found[0][1]).tolist(),
                "polar": int(better.sum()),
            }
        )
    return {"rows": rows}
