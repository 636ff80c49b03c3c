"""`steepest diagnose`: its flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steepest.apps._flags import OneOf, Place, Whole, flag, start
from steepest.apps.train.tuned import TUNED

PAGE = "diagnosis.html"
WINDOWS = 4
LOWER = "the work: fewer --windows"
EXAMPLES = (
    ("diagnose runs/one", "What was wrong with a run, and what to change."),
    ("diagnose runs/one runs/two --out compared.html", "Two runs side by side."),
    ("diagnose runs/one/muon/seed-0/step-000500.pt", "A run as it was at a checkpoint."),
)
WHICH, HOW = "Which run", "How"

Where = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH",
        help="A run of `steepest train`, one of its trials, a checkpoint, or a folder with the "
        "monitor.jsonl of a run of your own. Two of them are compared.",
        parser=Place(),
        show_default=False,
    ),
]
Optimizers = Annotated[
    list[str] | None,
    flag(
        "Only this optimizer of the run (repeatable).",
        "--optimizer",
        kind=OneOf(TUNED, several=True),
        default="all",
        group=WHICH,
    ),
]
Seed = Annotated[
    int | None,
    flag("Which seed of a run.", kind=Whole(0, 2**63 - 1), default="its first", group=WHICH),
]
Data = Annotated[
    Path | None,
    flag(
        "The text of the run, if it has moved.",
        default="where it was",
        group=HOW,
        metavar="FILE",
    ),
]
Windows = Annotated[
    int, flag("Windows of text that the loss is measured on.", kind=Whole(), group=HOW)
]
Out = Annotated[
    Path | None,
    flag(
        "The page to write.",
        kind=Place(),
        default=f"{PAGE} in the first PATH",
        group=HOW,
        metavar="FILE",
    ),
]


def diagnose(
    paths: Where,
    optimizer: Optimizers = None,
    seed: Seed = None,
    data: Data = None,
    windows: Windows = WINDOWS,
    out: Out = None,
) -> None:
    """Show what is wrong with a run and what to change, or compare two runs, on one page."""
    start(
        "diagnose",
        paths=paths,
        out=out,
        data=data,
        windows=windows,
        optimizer=optimizer or [],
        seed=seed,
    )
