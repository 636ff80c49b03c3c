"""`steepest compare`: its flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from steepest.apps._flags import OneOf, Place, Whole, flag, start
from steepest.apps.compare.names import BASELINE, REFERENCE, SCALES, TASKS, TUNING_SEED
from steepest.apps.reproduce.command import SIZE, WHAT, Jobs, Quick
from steepest.apps.train.tuned import TUNED

EXAMPLES = (
    ("compare --quick", "A small version, which shows that everything runs."),
    ("compare --optimizer scion --task text", "One row beside the two that are always there."),
    ("compare --scale full --out night", "The model of `steepest train`, a night."),
)

Tasks = Annotated[
    list[str] | None,
    flag(
        f"What to train (repeatable): {', '.join(TASKS)}.",
        "--task",
        kind=OneOf(TASKS, several=True),
        default="all",
        group=WHAT,
    ),
]
Optimizers = Annotated[
    list[str] | None,
    flag(
        f"Row to compare, beside {BASELINE} and {REFERENCE} (repeatable): {', '.join(TUNED)}.",
        "--optimizer",
        kind=OneOf(TUNED, several=True),
        default="all",
        group=WHAT,
    ),
]
Scale = Annotated[
    str | None,
    flag(f"{', '.join(SCALES)}.", kind=OneOf(SCALES), default=SCALES[0], group=SIZE),
]
Seeds = Annotated[
    list[int] | None,
    flag(
        "Seed of a final run of every row; two or more (repeatable).",
        "--seed",
        kind=Whole(0, TUNING_SEED - 1),
        default="0, 1 and 2, with --quick 0 and 1",
        group=SIZE,
    ),
]
Steps = Annotated[
    int | None,
    flag(
        "Optimizer steps of a run on any task.", kind=Whole(), default="set by --scale", group=SIZE
    ),
]
Out = Annotated[
    Path | None,
    flag("Folder of the results.", kind=Place(), default="comparisons/SCALE", metavar="FOLDER"),
]


def compare(
    task: Tasks = None,
    optimizer: Optimizers = None,
    quick: Quick = False,
    scale: Scale = None,
    seed: Seeds = None,
    steps: Steps = None,
    jobs: Jobs = None,
    out: Out = None,
) -> None:
    """Compare all optimizers, each tuned with one budget; the same command goes on."""
    start(
        "compare",
        tasks=task or (),
        optimizers=optimizer or (),
        quick=quick,
        scale=scale,
        seeds=seed or (),
        steps=steps,
        jobs=jobs,
        out=out,
    )
