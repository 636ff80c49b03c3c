"""Measure the benches that were asked for, or a table of costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console

from steepest._common.errors import invalid
from steepest._common.files import read_json, write_json
from steepest.apps._console import Terminal
from steepest.apps._folder import held, is_special
from steepest.apps._terminal import INTERRUPTED, say
from steepest.apps.bench.calibrate import SIZES
from steepest.apps.bench.calibrate import calibrate as measure_table
from steepest.apps.bench.execute import RESULTS, BenchPlan, execute
from steepest.apps.bench.machine import CPU
from steepest.apps.bench.sets import BENCHES, chosen
from steepest.polar import CostTable, processor_class

TABLE = "table.json"
QUICK_SETS = ("gpt-128",)
QUICK_SIZES = SIZES[:3]


def read_table(path: Path) -> CostTable:
    """The table in a file.

    Raises:
        ValueError: the file cannot be read, or holds something else.
    """
    if is_special(path):
        raise invalid("table", str(path), "is a pipe or a device; give a file")
    try:
        return CostTable.from_json(read_json(path))
    except OSError as error:
        raise invalid("table", str(path), error.strerror or str(error)) from None
    except ValueError as error:
        raise invalid("table", str(path), f"no table of `--calibrate`: {error}") from None


def chosen_benches(*, methods: bool, steps: bool) -> tuple[str, ...]:
    """The benches of the two flags; both without any."""
    wanted = {"methods": methods, "steps": steps}
    return tuple(b for b in BENCHES if wanted[b] or not any(wanted.values()))


def _calibrated(out: Path, console: Console, *, quick: bool) -> Path:
    """Measure a table and write it."""
    say(console, f"processor of class {processor_class(CPU)}")
    table = measure_table(
        sizes=QUICK_SIZES if quick else SIZES, say=lambda name: say(console, f"measuring {name}")
    )
    write_json(out / TABLE, table.to_json())
    return out / TABLE


def start(
    *,
    set_: Sequence[str] | None,
    methods: bool,
    steps: bool,
    threads: int | None,
    quick: bool,
    out: Path,
    calibrate: bool,
    table: Path | None,
    **plan: Any,
) -> None:
    """Carry out `steepest bench`; the other arguments are those of `BenchPlan`.

    Raises:
        typer.Exit: it was interrupted.
        ValueError: the table is none, a value is out of its range, or another process is at work
            in the folder.
        OSError: a file could not be read or written.
    """
    console = Terminal()
    if threads is not None:
        torch.set_num_threads(threads)
    before = _written(out / RESULTS)
    try:
        if calibrate:
            with held(out):
                say(console, str(_calibrated(out, console, quick=quick)))
            return
        asked = BenchPlan(
            sets=chosen(set_ or (QUICK_SETS if quick else ())),
            benches=chosen_benches(methods=methods, steps=steps),
            quick=quick,
            table=read_table(table) if table else None,
            **plan,
        )
        with held(out):
            for path in execute(asked, out, console):
                say(console, str(path))
    except KeyboardInterrupt:
        kept = _written(out / RESULTS) != before
        where = f"Finished benches are in {out / RESULTS}." if kept else "No bench was finished."
        say(console, f"Stopped. {where}")
        raise typer.Exit(INTERRUPTED) from None


def _written(path: Path) -> int | None:
    """The time at which a file was written last, None without it."""
    return path.stat().st_mtime_ns if path.exists() else None
