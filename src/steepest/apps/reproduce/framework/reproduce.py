"""Carry a reproduction out: measure what is missing, write tables, pictures and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from steepest._common.files import Record, write_atomic, write_json
from steepest.apps._terminal import say
from steepest.apps.reproduce.framework.claims import ledger
from steepest.apps.reproduce.framework.experiment import Reproduction, S
from steepest.apps.reproduce.framework.measure import measure, write_tables
from steepest.apps.reproduce.framework.store import Store

CLAIMS = "claims.json"
LEDGER = "ledger.md"


def write_results(
    reproduction: Reproduction[S], results: Sequence[Record], folder: Path
) -> list[Record]:
    """Write tables, pictures, `claims.json` and `ledger.md`.

    Returns:
        The content of `claims.json`.

    Raises:
        OSError: the disk is full.
    """
    write_tables(reproduction, results, folder)
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
    say(console, reproduction.title, f"Folder: {folder}")
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
    say(console, f"Claims: {folder / CLAIMS}, {folder / LEDGER}", f"Pictures: {pictures}")
    return claims
