"""`steepest bench`: which benches, on which matrices, and where the results go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from steepest._common.errors import invalid
from steepest._common.files import write_json
from steepest.apps._terminal import fail, os_text, say
from steepest.apps.bench.calibrate import SIZES
from steepest.apps.bench.calibrate import calibrate as measure_table
from steepest.apps.bench.execute import BENCHES, DATA, PATIENCE, RESULTS, BenchPlan, execute
from steepest.apps.bench.machine import CPU
from steepest.apps.bench.sets import SETS, chosen
from steepest.polar import CostTable, processor_class

TABLE = "table.json"
QUICK_SETS = ("gpt-128",)
QUICK_SIZES = SIZES[:3]
INTERRUPTED = 130

Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help=f"Measure on it (repeatable): {', '.join(SETS)}.",
        metavar="NAME",
        show_default="all, with --quick gpt-128",
    ),
]
Rounds = Annotated[
    int | None,
    typer.Option(
        help="Turns of each contender that count.", show_default="11 to 41, with --quick 3"
    ),
]
Data = Annotated[
    str, typer.Option(help=f"What errors are measured on: {', '.join(DATA)}.", metavar="NAME")
]
Resolution = Annotated[
    float, typer.Option(help="With gradients, errors are stated over σ ≥ resolution·σ₁.")
]
Methods = Annotated[bool, typer.Option("--methods", help="Polar methods only.")]
Steps = Annotated[bool, typer.Option("--steps", help="Optimizer steps only.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads.", show_default="torch's choice")]
Seed = Annotated[int, typer.Option(help="Fixes the matrices, the order and the trainings.", min=0)]
Patience = Annotated[
    float, typer.Option(help="Seconds after which the first step of a contender is its last one.")
]
Quick = Annotated[bool, typer.Option("--quick", help="A small version, under a minute.")]
Out = Annotated[Path, typer.Option(help="Folder for the results; made if it is missing.")]
Calibrate = Annotated[
    bool, typer.Option("--calibrate", help=f"Measure a table of costs into OUT/{TABLE} instead.")
]
Table = Annotated[
    Path | None,
    typer.Option(help="Let Auto choose by the costs in this file.", show_default="shipped costs"),
]


def read_table(path: Path) -> CostTable:
    """The table in a file.

    Raises:
        ValueError: the file holds something else.
        OSError: it cannot be read.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return CostTable.from_json(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def chosen_benches(*, methods: bool, steps: bool) -> tuple[str, ...]:
    """The benches of the two flags; both without any."""
    wanted = {"methods": methods, "steps": steps}
    return tuple(b for b in BENCHES if wanted[b] or not any(wanted.values()))


def _threads(threads: int | None) -> None:
    if threads is not None:
        if threads < 1:
            raise invalid("threads", threads, "give a whole number >= 1")
        torch.set_num_threads(threads)


def _calibrated(out: Path, console: Console, *, quick: bool) -> Path:
    """Measure a table and write it."""
    out.mkdir(parents=True, exist_ok=True)
    say(console, f"processor of class {processor_class(CPU)}")
    table = measure_table(
        sizes=QUICK_SIZES if quick else SIZES, say=lambda name: say(console, f"measuring {name}")
    )
    write_json(out / TABLE, table.to_json())
    return out / TABLE


def bench(
    set_: Set = None,
    rounds: Rounds = None,
    data: Data = "spectrum",
    resolution: Resolution = 3e-3,
    methods: Methods = False,
    steps: Steps = False,
    threads: Threads = None,
    seed: Seed = 0,
    patience: Patience = PATIENCE,
    quick: Quick = False,
    out: Out = Path("bench"),
    calibrate: Calibrate = False,
    table: Table = None,
) -> None:
    """Time polar methods and optimizer steps on the matrices of real models, with their errors."""
    console = Console()
    try:
        _threads(threads)
        if calibrate:
            if set_ or rounds or methods or steps or table:
                raise invalid("calibrate", True, "it measures no bench: leave the other flags out")
            say(console, str(_calibrated(out, console, quick=quick)))
            return
        plan = BenchPlan(
            sets=chosen(set_ or (QUICK_SETS if quick else ())),
            benches=chosen_benches(methods=methods, steps=steps),
            rounds=rounds,
            data=data,
            resolution=resolution,
            seed=seed,
            quick=quick,
            patience=patience,
            table=read_table(table) if table else None,
        )
        for path in execute(plan, out, console):
            say(console, str(path))
    except ValueError as error:
        raise fail(error) from None
    except OSError as error:
        raise fail(os_text(error)) from None
    except KeyboardInterrupt:
        say(console, f"Stopped. Finished benches, if any, are in {out / RESULTS}.")
        raise typer.Exit(INTERRUPTED) from None
