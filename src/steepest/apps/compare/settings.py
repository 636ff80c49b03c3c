"""How large a comparison is: the models, the runs, and the budget of every optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from steepest._common.errors import invalid
from steepest.apps.compare.names import BASELINE, REFERENCE, TASKS, TUNING_SEED
from steepest.apps.reproduce.framework.experiment import Settings
from steepest.apps.train.tuned import TUNED


@dataclass(frozen=True, kw_only=True)
class CompareSettings(Settings):
    """The runs and their sizes; see `Settings`, whose `steps` and `batch` are those of text.

    Rows, tasks and final seeds may change from one call to the next: what is finished stays.

    Args:
        optimizers: rows of the table of `steepest train`, in its order.
        tasks: the tasks of `names.TASKS`, in their order.
        layers: blocks of the GPT.
        width: the width of its residual stream.
        heads: attention heads in each block.
        context: characters that a prediction may look back on.
        eval_windows: validation windows of text.
        digit_steps: steps of a run on digits.
        digit_batch: digits in a step.
        digit_width: the width of the hidden layers for digits.
        digit_layers: the number of these layers.
        lr_points: learning rates in the grid of a row that has an AdamW learning rate.
        adamw_points: AdamW learning rates in its grid.
        decays: weight decays in the grid, 1 or 2.
        tuning_seeds: seeds that each setting of the grid is tried with.
        evaluations: evaluations of a final run, on the way and at its end.
        rounds: rounds in which all rows take turns to be timed.
        round_steps: steps of one turn, so that work that is due every few steps is counted.

    Raises:
        ValueError: a number below its range, too few seeds, or one that tuning has.
    """

    choices: ClassVar[frozenset[str]] = frozenset({"seeds", "optimizers", "tasks"})

    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 600
    batch: int = 16
    optimizers: tuple[str, ...] = tuple(TUNED)
    tasks: tuple[str, ...] = tuple(TASKS)
    layers: int = 2
    width: int = 64
    heads: int = 2
    context: int = 64
    eval_windows: int = 256
    digit_steps: int = 120
    digit_batch: int = 128
    digit_width: int = 128
    digit_layers: int = 2
    lr_points: int = 3
    adamw_points: int = 3
    decays: int = 2
    tuning_seeds: int = 2
    evaluations: int = 24
    rounds: int = 12
    round_steps: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.seeds) < 2:
            raise invalid("seed", self.seeds[0], "give two or more: one has no interval")
        if max(self.seeds) >= TUNING_SEED:
            raise invalid("seed", max(self.seeds), "give smaller ones: tuning has those from 2^31")
        if self.decays not in (1, 2):
            raise invalid("decays", self.decays, "give 1 or 2")

    @property
    def budget(self) -> int:
        """Settings in the grid of every row."""
        return self.lr_points * self.adamw_points * self.decays


def rows_of(chosen: tuple[str, ...]) -> tuple[str, ...]:
    """The rows of the table to compare, with the two that the others are held against.

    Examples:
        >>> rows_of(("scion",))
        ('muon', 'adamw', 'scion')
    """
    return tuple(name for name in TUNED if name in (*chosen, BASELINE, REFERENCE))


SIZES: Mapping[str, CompareSettings] = {
    "standard": CompareSettings(),
    "short": CompareSettings(steps=300, adamw_points=1, tuning_seeds=1),
    "full": CompareSettings(
        steps=1500,
        layers=4,
        width=128,
        heads=4,
        context=128,
        digit_steps=240,
        # The table's settings were found on this model, and a run takes minutes.
        adamw_points=1,
        tuning_seeds=1,
    ),
    "quick": CompareSettings(
        seeds=(0, 1),
        steps=10,
        batch=8,
        layers=1,
        width=32,
        context=32,
        eval_windows=32,
        digit_steps=10,
        digit_batch=32,
        digit_width=32,
        adamw_points=1,
        decays=1,
        tuning_seeds=1,
        evaluations=5,
        rounds=3,
        round_steps=2,
    ),
}
"""The sizes by the names of `names.SCALES`."""
