"""Carry an experiment out: measure what is missing, write its tables and pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import typer
from rich.console import Console

from steepest._common.files import Record, write_atomic, write_json
from steepest.apps._figures import plot_style, png
from steepest.apps._terminal import INTERRUPTED, say
from steepest.apps.reproduce.framework.experiment import Cell, Experiment, S
from steepest.apps.reproduce.framework.progress import CellProgress
from steepest.apps.reproduce.framework.store import Store
from steepest.apps.reproduce.framework.workers import workers


@contextmanager
def interruptible(console: Console) -> Iterator[None]:
    """Say on Ctrl-C how to go on.

    Raises:
        typer.Exit: it was interrupted.
    """
    try:
        yield
    except KeyboardInterrupt:
        say(console, "Stopped. What is finished is kept: the same command goes on from there.")
        raise typer.Exit(INTERRUPTED) from None


def measure(
    experiment: Experiment[S], settings: S, store: Store, console: Console, *, jobs: int = 1
) -> list[Record]:
    """The results of every cell, its key included, in the order of the cells.

    Args:
        experiment: the experiment to carry out.
        settings: the settings, which say how large it is.
        store: keeps what is finished.
        console: the console for the progress.
        jobs: processes that measure at the same time.

    Raises:
        OSError: the disk is full; what was measured before is kept.
    """
    cells, later = list(experiment.cells(settings)), experiment.follow_up
    number, cost = later.expected(settings) if later else (0, 0.0)
    todo = _missing(cells, store)
    results: list[Record] = []
    with (
        CellProgress(console, cells=len(todo) + number, cost=_cost(todo) + cost) as progress,
        workers(jobs, alone=not experiment.parallel) as do,
    ):
        while cells:
            for cell, result in do(partial(experiment.measure, settings), todo):
                store.add(cell.key, result)
                name = "  ".join(f"{k} {v}" for k, v in cell.key.items())
                progress.advance(name, cell.cost)
            results += [{**c.key, **(store.get(c.key) or {})} for c in cells]
            cells = list(later.cells(settings, results)) if later else []
            todo = _missing(cells, store)
            progress.skip(len(cells) - len(todo), _cost(cells) - _cost(todo))
    return results


def _missing(cells: Sequence[Cell], store: Store) -> list[Cell]:
    """The cells that are not finished."""
    return [c for c in cells if store.get(c.key) is None]


def _cost(cells: Sequence[Cell]) -> float:
    return sum(c.cost for c in cells)


def csv_text(rows: Sequence[Record]) -> str:
    """Equal records as CSV; None is an empty field."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def write_tables(experiment: Experiment[S], results: Sequence[Record], folder: Path) -> None:
    """Write the tables, and the pictures that are drawn from them.

    Raises:
        OSError: the disk is full.
    """
    for name, make in experiment.tables.items():
        rows = make(results)
        write_json(folder / f"{name}.json", rows)
        write_atomic(folder / f"{name}.csv", csv_text(rows).encode())
        if name in experiment.pictures:
            with plot_style():
                write_atomic(folder / f"{name}.png", png(experiment.pictures[name](rows)))
