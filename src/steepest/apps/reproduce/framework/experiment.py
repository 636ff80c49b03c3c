"""The parts of an experiment: cells to measure, tables, pictures, and claims if it has any."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import wraps
from typing import Any, ClassVar, Generic, TypeVar

from matplotlib.figure import Figure

from steepest._common.errors import invalid
from steepest._common.files import Record
from steepest.apps.reproduce.framework.claims import Claim


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings that fix the results of an experiment; each one adds its own.

    Args:
        seeds: each cell is measured once with each seed, which fixes weights and batches.
        steps: optimizer steps of one run.
        batch: samples in a step.

    Raises:
        ValueError: a number below its range, or a seed twice.
    """

    # Fields that choose cells and change none: they may differ from one call to the next.
    choices: ClassVar[frozenset[str]] = frozenset()

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

    def fixed(self) -> Record:
        """The settings that every result depends on: all fields but the choices."""
        return {k: v for k, v in asdict(self).items() if k not in self.choices}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The smallest part of an experiment that is measured, and kept, on its own.

    Args:
        key: the values that tell it from others, such as optimizer, width, lr and seed.
        cost: the time that it takes, roughly, in a unit of the experiment's own.
        alone: whether nothing else may run while it is measured, as where times are compared; it
            has all threads.
    """

    key: Record
    cost: float
    alone: bool = False


S = TypeVar("S", bound=Settings)


Measure = Callable[[S, Record], Record]


def says_its_scale(measure: Measure[S]) -> Measure[S]:
    """The same experiment; every result has the settings it depends on, as `scale`.

    What a claim needs is looked up there, wherever the results come from.
    """

    @wraps(measure)
    def measured(settings: S, cell: Record) -> Record:
        return {**measure(settings, cell), "scale": settings.fixed()}

    return measured


@dataclass(frozen=True, kw_only=True)
class Part(Generic[S]):
    """A figure or a table of a publication: what has to be measured for it, and what it shows.

    Args:
        cells: the cells to measure; parts may share cells.
        table: its numbers, made from the results: a list of equal records.
        picture: drawn from the table alone; None for a table.
        claims: the claims that are read off it.
    """

    cells: Callable[[S], Sequence[Cell]]
    table: Callable[[Sequence[Record]], list[Record]]
    picture: Callable[[Sequence[Record]], Figure] | None = None
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FollowUp(Generic[S]):
    """Cells that depend on the results of others.

    Args:
        cells: the cells that are due after the results of all cells before them; none at the end.
        expected: the number of all of them and the sum of their costs.
    """

    cells: Callable[[S, Sequence[Record]], Sequence[Cell]]
    expected: Callable[[S], tuple[int, float]]


@dataclass(frozen=True, kw_only=True)
class Experiment(Generic[S]):
    """Cells to measure, and what is made of their results.

    Args:
        name: the name on the command line.
        title: the question in a line.
        cells: the cells to measure.
        measure: the experiment on one cell, a function of its arguments alone; its numbers, None
            for one that is not finite.
        tables: each a list of equal records made from the results: `NAME.csv` and `NAME.json`.
        pictures: drawn from the table of the same name alone: `NAME.png`.
        follow_up: the cells that depend on the results of these; None if there are none.
        parallel: whether cells are so small that each is measured by one thread, in as many
            processes as there are cores.
    """

    name: str
    title: str
    cells: Callable[[S], Sequence[Cell]]
    measure: Measure[S]
    tables: Mapping[str, Callable[[Sequence[Record]], list[Record]]]
    pictures: Mapping[str, Callable[[Sequence[Record]], Figure]]
    follow_up: FollowUp[S] | None = None
    parallel: bool = False


@dataclass(frozen=True, kw_only=True)
class Reproduction(Experiment[S]):
    """A published result, measured again; its `measure` `says_its_scale`.

    Args:
        full: settings of the documented results.
        quick: settings of a small version, under a minute.
        claims: the claims that the results are held against.
        unit: the word for the samples of a batch.
        scale: the word for the size of `full`.
        parts: the figures and tables that can be had alone; the rest is then their `sum_of`.
        shown: the pictures of the documentation; none means all.
    """

    full: S
    quick: S
    claims: tuple[Claim, ...]
    unit: str = "digits"
    scale: str = "full"
    parts: Mapping[str, Part[S]] = field(default_factory=dict)
    shown: tuple[str, ...] = ()

    @property
    def scales(self) -> Mapping[str, S]:
        """Its sizes by name."""
        return {self.scale: self.full, "quick": self.quick}

    def part(self, name: str) -> str:
        """The name of a part as the table of parts has it: `4` is `figure-4`.

        Raises:
            ValueError: there is no such part.
        """
        for known in (name, f"figure-{name}"):
            if known in self.parts:
                return known
        there = f"choose from {', '.join(self.parts)}" if self.parts else f"{self.name} has none"
        raise invalid("figure", name, there)

    def only(self, names: Iterable[str]) -> Reproduction[S]:
        """The same reproduction with these parts alone, in their order."""
        wanted = set(names)
        parts = {k: part for k, part in self.parts.items() if k in wanted}
        return replace(self, parts=parts, **sum_of(parts))


def sum_of(parts: Mapping[str, Part[S]]) -> dict[str, Any]:
    """Cells, claims, tables and pictures of a reproduction that has these parts.

    A cell that several parts need is measured once. The table of a part is given the results of
    all parts, and finds its own.
    """

    def cells(settings: S) -> list[Cell]:
        found = {tuple(c.key.items()): c for p in parts.values() for c in p.cells(settings)}
        return list(found.values())

    return {
        "cells": cells,
        "claims": tuple(claim for part in parts.values() for claim in part.claims),
        "tables": {k: part.table for k, part in parts.items()},
        "pictures": {k: part.picture for k, part in parts.items() if part.picture is not None},
    }
