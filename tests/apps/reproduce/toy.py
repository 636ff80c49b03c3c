"""A reproduction that takes no time: the number of a cell is a function of its key."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from typer.testing import Result

from steepest.apps._figures import panels
from steepest.apps.reproduce.framework.claims import Claim, Outcome, UndecidedError
from steepest.apps.reproduce.framework.experiment import Cell, Reproduction, Settings

Invoke = Callable[..., Result]
Record = dict[str, Any]
measured: list[Record] = []


@dataclass(frozen=True, kw_only=True)
class ToySettings(Settings):
    sizes: tuple[int, ...] = (1, 2, 3)


def cells(settings: ToySettings) -> list[Cell]:
    keys = [{"size": n, "lr": 0.1, "seed": s} for s in settings.seeds for n in settings.sizes]
    return [Cell(key=key, cost=key["size"]) for key in keys]


def measure(settings: ToySettings, cell: Record) -> Record:
    measured.append(cell)
    return {"value": cell["size"] ** 2 + cell["seed"] / 10}


def at_scale(results: Sequence[Record], settings: Settings) -> list[Record]:
    """Made-up results that say they were measured with these settings."""
    return [{**r, "scale": settings.fixed()} for r in results]


def dies(cell: Record) -> Record:
    """Measure a cell; the process of one that `dies` kills itself."""
    if cell["dies"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return cell


def rows(results: Sequence[Record]) -> list[Record]:
    return [{"size": r["size"], "value": r["value"]} for r in results]


def draw(table: Sequence[Record]) -> Figure:
    figure, (axes,) = panels(["toy"], height=2)
    axes.plot([r["size"] for r in table], [r["value"] for r in table])
    return figure


def undecided(results: Sequence[Record]) -> Outcome:
    raise UndecidedError(f"{len(results)} results are too few")


def largest(bound: float) -> Callable[[Sequence[Record]], Outcome]:
    def check(results: Sequence[Record]) -> Outcome:
        top = max(r["value"] for r in results)
        return Outcome.of(top <= bound, f"{top:g}")

    return check


TOY = Reproduction(
    name="toy",
    title="Is a square small?",
    full=ToySettings(),
    quick=ToySettings(seeds=(0,), sizes=(1,)),
    cells=cells,
    measure=measure,
    claims=tuple(
        Claim(id=name, statement="n² | n", source="school", expected="small", check=check)
        for name, check in (("a", largest(100)), ("b", largest(1)), ("c", undecided))
    ),
    tables={"curve": rows, "extra": rows},
    pictures={"curve": draw},
)
