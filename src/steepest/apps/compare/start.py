"""Carry out the comparison that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from steepest._common.errors import invalid
from steepest._common.files import write_atomic
from steepest.apps._console import Terminal
from steepest.apps._folder import held
from steepest.apps._terminal import say
from steepest.apps.compare.experiment import COMPARISON
from steepest.apps.compare.names import SCALES, TASKS
from steepest.apps.compare.report import markdown, show
from steepest.apps.compare.settings import SIZES, CompareSettings, rows_of
from steepest.apps.compare.stages import expected, first_cells
from steepest.apps.compare.tasks import check_data
from steepest.apps.reproduce.framework.measure import interruptible, measure, write_tables
from steepest.apps.reproduce.framework.store import Store
from steepest.apps.reproduce.framework.workers import processes

PARENT = Path("comparisons")
TABLE = "table.md"


def sized(
    *,
    scale: str,
    tasks: Sequence[str],
    optimizers: Sequence[str],
    seeds: Sequence[int],
    steps: int | None,
) -> CompareSettings:
    """The settings that the command line asks for.

    Raises:
        ValueError: a setting out of its range.
    """
    changes: dict[str, Any] = {}
    if optimizers:
        changes["optimizers"] = rows_of(tuple(optimizers))
    if tasks:
        changes["tasks"] = tuple(task for task in TASKS if task in tasks)
    if seeds:
        changes["seeds"] = tuple(seeds)
    if steps is not None:
        changes.update(steps=steps, digit_steps=steps)
    return replace(SIZES[scale], **changes)


def scale_of(scale: str | None, *, quick: bool) -> str:
    """The name of the size.

    Raises:
        ValueError: two sizes were asked for.
    """
    if quick and scale not in (None, "quick"):
        raise invalid("scale", scale, "leave out --quick")
    return "quick" if quick else scale or SCALES[0]


def compare(settings: CompareSettings, folder: Path, console: Console, *, jobs: int) -> None:
    """Measure what `folder` does not hold yet, then write and show the tables.

    Raises:
        ValueError: the folder belongs to something else, or data is missing.
        OSError: a file could not be written; the cells that are finished are kept.
    """
    check_data(settings)
    store = Store(folder, name=COMPARISON.name, settings=asdict(settings), fixed=settings.fixed())
    cells = len(first_cells(settings)) + expected(settings)[0]
    say(
        console,
        f"{COMPARISON.title}: {len(settings.optimizers)} rows, {' and '.join(settings.tasks)}, "
        f"{cells} cells",
        f"Folder: {folder}",
    )
    results = measure(COMPARISON, settings, store, console, jobs=jobs)
    write_tables(COMPARISON, results, folder)
    rows = COMPARISON.tables["comparison"](results)
    write_atomic(folder / TABLE, markdown(rows).encode())
    show(rows, console)
    say(console, f"Table: {folder / TABLE}", f"Picture: {folder / 'comparison.png'}")


def start(
    *, quick: bool, scale: str | None, jobs: int | None, out: Path | None, **chosen: Any
) -> None:
    """Carry out `steepest compare`; the other arguments are those of `sized`.

    Raises:
        typer.Exit: it was interrupted.
        ValueError: a flag has a value that the comparison cannot take, or another process is at
            work in the folder.
        OSError: a file could not be written.
    """
    console = Terminal()
    name = scale_of(scale, quick=quick)
    settings = sized(scale=name, **chosen)
    with interruptible(console):
        place = out or PARENT / name
        number = processes(COMPARISON, jobs)
        with held(place):
            compare(settings, place, console, jobs=number)
