"""½‖W‖² with steps of one size: signed singular values on a grid, and what leaves it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Optimizer

from steepest._common.files import Record
from steepest.apps.reproduce.quadratics.methods import MOMENTUM, muon, nuclear, vanishing
from steepest.apps.reproduce.quadratics.noise import Additive, NoisyPolar
from steepest.apps.reproduce.quadratics.problem import Problem, descend, generator
from steepest.polar import JORDAN, NewtonSchulz, Svd

ALPHA = 0.05
NOISE = 0.1
STREAM = 6

Builder = Callable[[Parameter, float, int], Optimizer]


def _noisy(param: Parameter, lr: float, seed: int) -> Optimizer:
    draws = tuple(generator(seed, i, STREAM) for i in range(len(param)))
    return muon(param, lr=lr, polar=NoisyPolar(Svd(), NOISE, Additive(), draws))


WAYS: Mapping[str, Builder] = {
    "exact": lambda param, lr, _: muon(param, lr=lr),
    "exact, momentum": lambda param, lr, _: muon(param, lr=lr, momentum=MOMENTUM),
    "noisy": _noisy,
    "Newton–Schulz": lambda param, lr, _: muon(param, lr=lr, polar=NewtonSchulz(JORDAN)),
    "nuclear-norm step": lambda param, _, __: nuclear(param, sharpness=float(param.shape[-1])),
    "vanishing lr": lambda param, lr, _: muon(param, lr=lr),
    "momentum, diagonal": lambda param, lr, _: muon(param, lr=lr, momentum=MOMENTUM),
}
"""Ways to step; the last one is from a diagonal W₀, whose singular vectors no rounding turns."""

LEFT = 1e-9
"""The distance from the grid, in α, that counts as having left it."""


def distance(x: Tensor, alpha: float) -> Tensor:
    """The distance from each entry to the nearest point of αZ."""
    return (x - alpha * torch.round(x / alpha)).abs()


def follow(way: str, *, n: int, steps: int, instances: Sequence[int], seed: int) -> Record:
    """Signed singular values diag(UᵀWV) of a run, with U and V of W₀.

    Returns:
        `off`: how far they ever were from σ(0) + αZ, in α, and `left`, the first step at which that
        is above `LEFT`; `turned`: the largest entry off the diagonal of UᵀWV, in α; the smallest
        loss and the floor ½Σ dist(σ(0), αZ)² of each instance; rows with the loss, the floor and
        the three smallest singular values of the first.
    """
    problem = Problem.isotropic(n, seed=seed, instances=instances)
    if way == "momentum, diagonal":
        problem = replace(problem, start=torch.diag_embed(torch.linalg.svdvals(problem.start)))
    u, sigma, vh = torch.linalg.svd(problem.start)
    worst: Record = {"off": 0.0, "turned": 0.0, "left": None}
    rows = []
    floor = distance(sigma, ALPHA).square().sum(dim=-1) / 2

    def watch(t: int, w: Tensor) -> None:
        core = u.mT @ w @ vh.mT
        signed = core.diagonal(dim1=-2, dim2=-1)
        aside = (core - torch.diag_embed(signed)).abs().max().item()
        off = distance(signed - sigma, ALPHA).max().item()
        worst["off"] = max(worst["off"], off / ALPHA)
        if worst["left"] is None and off > LEFT * ALPHA:
            worst["left"] = t
        worst["turned"] = max(worst["turned"], aside / ALPHA)
        row = {"step": t, "loss": w[0].square().sum().item() / 2, "floor": floor[0].item()}
        rows.append({**row, **{f"s{i}": signed[0, -1 - i].item() for i in range(3)}})

    path = descend(
        problem,
        lambda param: WAYS[way](param, ALPHA, seed),
        steps=steps,
        schedule=(lambda t: vanishing(t, steps)) if way == "vanishing lr" else None,
        watch=watch,
    )
    return {
        **worst,
        "lowest": path.loss.amin(dim=0).tolist(),
        "floor": floor.tolist(),
        "rows": rows,
    }


EPSILONS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
GD_LR = 0.1
LARGEST = 0.5


def rates(smallest: float) -> list[float]:
    """Step sizes from 0.5 on, ten a decade.

    Examples:
        >>> [round(lr, 2) for lr in rates(0.3)]
        [0.5, 0.4, 0.32]
    """
    count = math.floor(10 * math.log10(LARGEST / smallest) + 1e-9) + 1
    return [LARGEST * 10 ** (-i / 10) for i in range(count)]


def steps_to(losses: Tensor, epsilon: float) -> list[int | None]:
    """The first step at which each loss is at most ε of the first; None if it never is.

    Args:
        losses: shape (steps + 1, batch).
        epsilon: ε.

    Examples:
        >>> steps_to(torch.tensor([[1.0, 1.0], [0.5, 0.9], [0.1, 0.8]]), 0.5)
        [1, None]
    """
    there = losses <= epsilon * losses[0]
    first = there.int().argmax(dim=0).tolist()
    return [t if reached else None for t, reached in zip(first, there.any(dim=0), strict=True)]


def reach(method: str, lr: float, *, n: int, instances: Sequence[int], seed: int) -> Record:
    """Steps of Muon or GD on ½‖W‖² until the loss is ε of the first, for every ε."""
    problem = Problem.isotropic(n, seed=seed, instances=instances)
    if method == "GD":
        path = descend(problem, lambda param: SGD([param], lr), steps=round(8 / lr))
    else:
        # ‖W₀‖₂ is near 2: later, a signed singular value only goes to and fro.
        path = descend(problem, lambda param: muon(param, lr=lr), steps=round(2.4 / lr) + 2)
    return {"steps": {f"{e:g}": steps_to(path.loss, e) for e in EPSILONS}}
