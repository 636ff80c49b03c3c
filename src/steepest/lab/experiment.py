"""What a reproduction is: cells to measure, tables and pictures of them, claims to judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from matplotlib.figure import Figure

from steepest._files import Record
from steepest._types import invalid
from steepest.lab.claims import Claim


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What fixes the results of an experiment; each one adds its own.

    Args:
        seeds: each cell is measured once with each seed, which fixes weights and batches.
        steps: optimizer steps of one training.
        batch: samples in a step.

    Raises:
        ValueError: a number below its range, or a seed twice.
    """

    seeds: tuple[int, ...] = (0, 1)
    steps: int = 100
    batch: int = 128

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise invalid(name, getattr(self, name), "give a whole number >= 1")
        distinct = len(set(self.seeds)) == len(self.seeds) > 0
        if not distinct or not all(0 <= s < 2**63 for s in self.seeds):
            raise invalid("seed", self.seeds, "give whole numbers from 0 to 2^63 - 1, each once")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The smallest part of an experiment that is measured, and kept, on its own.

    Args:
        key: what tells it from others, such as optimizer, width, lr and seed.
        cost: about how long it takes, in a unit of the experiment's own.
    """

    key: Record
    cost: float


S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, kw_only=True)
class Reproduction(Generic[S]):
    """A published result, measured again.

    Args:
        name: what the command line calls it.
        title: what it asks, in a line.
        full: settings of the documented results.
        quick: settings of a small version, under a minute.
        cells: what has to be measured.
        measure: the experiment on one cell, a function of its arguments alone; its numbers, None
            for one that is not finite.
        claims: what the results are held against.
        tables: each a list of equal records made from the results: `NAME.csv` and `NAME.json`.
        pictures: drawn from the table of the same name alone: `NAME.png`.
        unit: what the samples of a batch are.
    """

    name: str
    title: str
    full: S
    quick: S
    cells: Callable[[S], Sequence[Cell]]
    measure: Callable[[S, Record], Record]
    claims: tuple[Claim, ...]
    tables: Mapping[str, Callable[[Sequence[Record]], list[Record]]]
    pictures: Mapping[str, Callable[[Sequence[Record]], Figure]]
    unit: str = "digits"
