"""Carry a reproduction out: measure what is missing, write tables, pictures and verdicts."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from steepest._common.files import Record, write_atomic, write_json
from steepest.apps._figures import plot_style, png
from steepest.apps._terminal import say
from steepest.apps.reproduce.framework.claims import ledger
from steepest.apps.reproduce.framework.experiment import Reproduction, S
from steepest.apps.reproduce.framework.progress import CellProgress
from steepest.apps.reproduce.framework.store import Store
from steepest.apps.reproduce.framework.workers import workers

CLAIMS = "claims.json"
LEDGER = "ledger.md"


def measure(
    reproduction: Reproduction[S], settings: S, store: Store, console: Console, *, jobs: int = 1
) -> list[Record]:
    """The results of every cell, its key included, in the order of the cells.

    Args:
        reproduction: the reproduction to measure.
        settings: the settings, which say how large it is.
        store: keeps what is finished.
        console: the console for the progress.
        jobs: processes that measure at the same time.

    Raises:
        OSError: the disk is full; what was measured before is kept.
    """
    cells = reproduction.cells(settings)
    todo = [c for c in cells if store.get(c.key) is None]
    work = workers(jobs if todo else 1, alone=not reproduction.parallel)
    with (
        CellProgress(console, cells=len(todo), cost=sum(c.cost for c in todo)) as progress,
        work as do,
    ):
        for cell, result in do(partial(reproduction.measure, settings), todo):
            store.add(cell.key, result)
            name = "  ".join(f"{k} {v}" for k, v in cell.key.items())
            progress.advance(name, cell.cost)
    return [{**c.key, **(store.get(c.key) or {})} for c in cells]


def csv_text(rows: Sequence[Record]) -> str:
    """Equal records as CSV; None is an empty field."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def write_results(
    reproduction: Reproduction[S], results: Sequence[Record], folder: Path
) -> list[Record]:
    """Write tables, pictures, `claims.json` and `ledger.md`.

    Returns:
        The content of `claims.json`.

    Raises:
        OSError: the disk is full.
    """
    for name, make in reproduction.tables.items():
        rows = make(results)
        write_json(folder / f"{name}.json", rows)
        write_atomic(folder / f"{name}.csv", csv_text(rows).encode())
        if name in reproduction.pictures:
            with plot_style():
                write_atomic(folder / f"{name}.png", png(reproduction.pictures[name](rows)))
    claims = [claim.judge(results) for claim in reproduction.claims]
    write_atomic(folder / LEDGER, ledger(claims).encode())
    write_json(folder / CLAIMS, claims)
    return claims


def complete(reproduction: Reproduction[S], settings: S, store: Store) -> list[str]:
    """The parts of which nothing is missing."""
    return [
        name
        for name, part in reproduction.parts.items()
        if all(store.get(cell.key) is not None for cell in part.cells(settings))
    ]


def reproduce(
    reproduction: Reproduction[S],
    settings: S,
    folder: Path,
    console: Console,
    *,
    parts: Sequence[str] = (),
    jobs: int = 1,
) -> list[Record]:
    """Measure what `folder` does not hold yet, then write and show the verdicts.

    Args:
        reproduction: the reproduction to measure.
        settings: the settings, which say how large it is.
        folder: the folder of the results.
        console: the console to write on.
        parts: the parts to measure, by name; none means everything. Tables, pictures and claims are
            those of all parts that `folder` then holds.
        jobs: processes that measure at the same time.

    Returns:
        The content of `claims.json`.

    Raises:
        ValueError: the folder belongs to something else, or there are no digits.
        OSError: a file could not be written; the cells that are finished are kept.
    """
    store = Store(folder, name=reproduction.name, settings=asdict(settings), fixed=settings.fixed())
    say(console, f"{reproduction.title}\nFolder: {folder}")
    if parts:
        measure(reproduction.only(parts), settings, store, console, jobs=jobs)
        reproduction = reproduction.only(complete(reproduction, settings, store))
    results = measure(reproduction, settings, store, console, jobs=jobs)
    claims = write_results(reproduction, results, folder)
    table = Table("claim", "expected", "measured", "verdict")
    for claim in claims:
        table.add_row(*(claim[k] for k in ("id", "expected", "measured", "verdict")))
    console.print(table)
    pictures = ", ".join(str(folder / f"{name}.png") for name in reproduction.pictures)
    say(console, f"Claims: {folder / CLAIMS}, {folder / LEDGER}\nPictures: {pictures}")
    return claims
