"""Hitting times in n dimensions: what the errors of real schedules do to the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from steepest._common.files import Record
from steepest.apps.reproduce.quadratics.grid import steps_to
from steepest.apps.reproduce.quadratics.methods import muon, nuclear, vanishing
from steepest.apps.reproduce.quadratics.noise import (
    Additive,
    ErrorProfile,
    NoisyPolar,
    PerSingularValue,
    Shaped,
)
from steepest.apps.reproduce.quadratics.problem import Problem, descend, generator
from steepest.polar import CANS, JORDAN, POLAR_EXPRESS, YOU, Svd

PROFILES: Mapping[str, ErrorProfile] = {
    "additive": Additive(),
    "per singular value": PerSingularValue(),
    "Jordan": Shaped(JORDAN),
    "You": Shaped(YOU),
    "Polar Express": Shaped(POLAR_EXPRESS),
    "CANS": Shaped(CANS),
}
RANDOM = ("additive", "per singular value")
SIZES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
# Half of a schedule's error, and all of it.
PARTS = (0.5, 1.0)
RULES = ("nuclear-norm step", "vanishing lr")
PROBLEMS = ("isotropic", "uniform", "geometric", "min_spiked")
THRESHOLDS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
ALPHA = 0.03
STREAM = 7


def cases() -> list[tuple[str, float]]:
    """(profile, size) of every run on one problem; "exact" and the two rules have size 0."""
    found = [("exact", 0.0), *((rule, 0.0) for rule in RULES)]
    for name in PROFILES:
        found += [(name, size) for size in (SIZES if name in RANDOM else PARTS)]
    return found


def _build(
    profile: str, sigma: float, problem: Problem, seed: int
) -> Callable[[Parameter], Optimizer]:
    if profile == "nuclear-norm step":
        return lambda param: nuclear(param, sharpness=1.0)
    if profile not in PROFILES:
        return lambda param: muon(param, lr=ALPHA)
    draws = tuple(generator(seed, i, STREAM) for i in range(len(problem.start)))
    polar = NoisyPolar(Svd(), sigma, PROFILES[profile], draws)
    return lambda param: muon(param, lr=ALPHA, polar=polar)


def errors(
    family: str,
    profile: str,
    sigma: float,
    *,
    n: int,
    steps: int,
    instances: Sequence[int],
    seed: int,
) -> Record:
    """Muon with α = 0.03 from W₀: steps to each threshold, the smallest loss, and where it stays.

    Losses are parts of the first. `plateau` is the median of the last quarter of the steps,
    `distance` the largest ‖W₀ − W*‖₂.
    """
    if family == "isotropic":
        problem = Problem.isotropic(n, seed=seed, instances=instances)
    else:
        problem = Problem.draw(family, n, seed=seed, instances=instances, dtype=torch.float64)
    if profile == "nuclear-norm step":
        problem = problem.over(problem.sharpness)
    schedule = (lambda t: vanishing(t, steps)) if profile == "vanishing lr" else None
    path = descend(problem, _build(profile, sigma, problem, seed), steps=steps, schedule=schedule)
    part = path.loss / path.loss[0]
    return {
        "steps": {f"{e:g}": steps_to(path.loss, e) for e in THRESHOLDS},
        "lowest": part.amin(dim=0).tolist(),
        "plateau": part[-(steps // 4) :].median(dim=0).values.tolist(),
        "distance": problem.distance,
    }
