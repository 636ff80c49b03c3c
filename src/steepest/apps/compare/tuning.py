"""The settings that a row is tried with: as many for each, however many it can choose from.

A grid comes first: learning rates, weight decays and, for a row that has one, learning rates of
AdamW. A row without spends its runs on more learning rates. Then every row has four settings more:
beyond the edge of the grid if the best learning rate lies on it, or else between the best and its
neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

from steepest.apps.compare.settings import CompareSettings
from steepest.apps.reproduce.framework.training import classifier
from steepest.apps.train.config import OptimizerConfig
from steepest.apps.train.optimizers import recipe

SHRINK = 0.004
"""The part of a weight that a step at a row's own lr takes away in the grid: muon's, 0.04 · 0.1."""

REFINEMENTS = 4
"""Settings of every row after its grid."""

RATES: Mapping[str, str] = {"lr": "lr", "adamw_lr": "AdamW lr"}
"""The settings whose grid may be too narrow, and what they are called."""

TriedLosses = Mapping[OptimizerConfig, float | None]
"""The mean loss of each setting; None if one of its runs diverged."""


def ladder(points: int) -> tuple[float, ...]:
    """Factors around 1 in equal ratios: of 2 for up to 3 of them, of √2 up to 9, then of 2^¼.

    Examples:
        >>> ladder(3)
        (0.5, 1.0, 2.0)
        >>> [round(f, 2) for f in ladder(9)]
        [0.25, 0.35, 0.5, 0.71, 1.0, 1.41, 2.0, 2.83, 4.0]
    """
    ratio = 1.0 if points <= 3 else 0.5 if points <= 9 else 0.25
    middle = (points - 1) / 2
    return tuple(2.0 ** (ratio * (i - middle)) for i in range(points))


def _short(value: float) -> float:
    """Four digits, so that a setting can be read and typed."""
    return float(f"{value:.4g}")


@cache
def takes_decay(name: str) -> bool:
    """Whether a row of the table takes a weight decay."""
    row = recipe(name)
    try:
        row.build(classifier(4, 1, seed=0), replace(row.tuned, weight_decay=SHRINK / row.tuned.lr))
    except ValueError:
        return False
    return True


def decays(settings: CompareSettings, name: str) -> tuple[float, ...]:
    """The weight decays of a row: its own, and one that makes a step shrink weights by `SHRINK`.

    Where its own does that, up to a factor of 2, the other one is 0.
    """
    tuned = recipe(name).tuned
    other = _short(SHRINK / tuned.lr)
    if other / 2 <= tuned.weight_decay <= 2 * other:
        other = 0.0
    wanted = settings.decays if takes_decay(name) else 1
    return (tuned.weight_decay, other)[:wanted]


def grid(settings: CompareSettings, name: str) -> list[OptimizerConfig]:
    """The first settings of a row, `settings.budget` of them, around its own."""
    tuned = recipe(name).tuned
    rest: list[float | None] = [None]
    if tuned.adamw_lr is not None:
        rest = [_short(tuned.adamw_lr * f) for f in ladder(settings.adamw_points)]
    shrink = decays(settings, name)
    lrs = [_short(tuned.lr * f) for f in ladder(settings.budget // (len(rest) * len(shrink)))]
    return [
        replace(tuned, lr=lr, weight_decay=decay, adamw_lr=adamw_lr)
        for lr, decay, adamw_lr in product(lrs, shrink, rest)
    ]


def best(losses: TriedLosses) -> OptimizerConfig:
    """The setting with the lowest loss; one that has diverged is worse than any other."""
    finite = {c: math.inf if loss is None else loss for c, loss in losses.items()}
    return min(finite, key=finite.__getitem__)


def _values(losses: TriedLosses, field: str) -> list[float]:
    """The values of a setting that were tried, in their order of size."""
    return sorted({value for c in losses if (value := getattr(c, field)) is not None})


def _beyond(value: float, tried: Sequence[float], count: int) -> list[float]:
    """Values that follow the best one: further out by factors of 2, or up to its neighbours."""
    i = tried.index(value)
    if i == 0:
        return [value / 2.0**k for k in range(1, count + 1)]
    if i == len(tried) - 1:
        return [value * 2.0**k for k in range(1, count + 1)]
    parts = [k / (count // 2 + 1) for k in range(1, count // 2 + 1)]
    return [value * (tried[j] / value) ** part for j in (i - 1, i + 1) for part in parts]


def refined(losses: TriedLosses) -> list[OptimizerConfig]:
    """The `REFINEMENTS` settings of a row that follow its grid.

    They differ from the best of the grid in one learning rate each: half of them in lr, half in
    AdamW's; all of them in lr where there is one of AdamW's or none.

    Args:
        losses: the loss of each setting of the grid.
    """
    chosen = best(losses)
    tried = {field: _values(losses, field) for field in RATES}
    free = [field for field, values in tried.items() if len(values) > 1]
    found = []
    for field in free:
        value: float = getattr(chosen, field)
        for other in _beyond(value, tried[field], REFINEMENTS // len(free)):
            changed: dict[str, Any] = {field: _short(other)}
            found.append(replace(chosen, **changed))
    return found


def edges(losses: TriedLosses) -> str:
    """Name the learning rates of the best setting that lie at an end of all that were tried."""
    chosen, found = best(losses), []
    for field, word in RATES.items():
        values = _values(losses, field)
        for side, end in (("smallest", 0), ("largest", -1)):
            if len(values) > 1 and getattr(chosen, field) == values[end]:
                found.append(f"{side} {word}")
    return ", ".join(found)
