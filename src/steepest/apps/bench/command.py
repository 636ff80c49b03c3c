"""`steepest bench`: its flags."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

from steepest._common.errors import invalid
from steepest.apps._flags import Number, OneOf, Place, Whole, flag, start
from steepest.apps.bench.sets import DATA, PATIENCE, SETS

LOWER = "the size of the matrices: another --set"
EXAMPLES = (
    ("bench --quick", "Everything small, under a minute."),
    ("bench --set gpt-128 --steps --threads 1", "Optimizer steps of one model, on one core."),
    ("bench --calibrate --out here", "Measure the costs by which Auto chooses, on this machine."),
    ("bench --table here/table.json", "Let Auto choose by them."),
)
# Ours: more threads than any machine has.
THREADS = 10_000
WHAT, HOW, WHERE = "What is measured", "How", "Files"

Set = Annotated[
    list[str] | None,
    flag(
        f"Set of matrices to measure (repeatable): {', '.join(SETS)}.",
        "--set",
        kind=OneOf(SETS, several=True),
        default="all, with --quick gpt-128",
        group=WHAT,
    ),
]
Methods = Annotated[bool, flag("Polar methods only.", "--methods", group=WHAT)]
Steps = Annotated[bool, flag("Optimizer steps only.", "--steps", group=WHAT)]
Data = Annotated[
    str, flag(f"Matrices to measure errors on: {', '.join(DATA)}.", kind=OneOf(DATA), group=WHAT)
]
Resolution = Annotated[
    float,
    flag(
        "With --data gradients, errors are over σ ≥ resolution·σ₁.",
        kind=Number("a number in (0, 1)", lambda x: 0 < x < 1),
        group=WHAT,
    ),
]
Quick = Annotated[bool, flag("A small version, under a minute.", "--quick", group=HOW)]
Rounds = Annotated[
    int | None,
    flag(
        "Timed rounds per contender, after the warm-up.",
        kind=Whole(),
        default="11 to 41, with --quick 3",
        group=HOW,
    ),
]
Threads = Annotated[
    int | None,
    flag("CPU threads.", kind=Whole(1, THREADS), default="torch's choice", group=HOW),
]
Seed = Annotated[
    int,
    flag("Fixes the matrices, the order and the runs.", kind=Whole(0, 2**63 - 1), group=HOW),
]
Patience = Annotated[
    float,
    flag(
        "A contender whose first step takes longer gets no further one.",
        kind=Number("seconds > 0, inf for no limit", lambda x: x > 0 and not math.isnan(x)),
        group=HOW,
        metavar="SECONDS",
    ),
]
Out = Annotated[
    Path,
    flag(
        "Folder for the results; made if it is missing.",
        kind=Place(),
        group=WHERE,
        metavar="FOLDER",
    ),
]
Calibrate = Annotated[
    bool,
    flag("Measure a table of costs into OUT/table.json instead.", "--calibrate", group=WHERE),
]
Table = Annotated[
    Path | None,
    flag(
        "Let Auto choose by the costs in this file.",
        kind=Place(),
        default="shipped costs",
        group=WHERE,
        metavar="FILE",
    ),
]


def bench(
    set_: Set = None,
    methods: Methods = False,
    steps: Steps = False,
    data: Data = "spectrum",
    resolution: Resolution = 3e-3,
    quick: Quick = False,
    rounds: Rounds = None,
    threads: Threads = None,
    seed: Seed = 0,
    patience: Patience = PATIENCE,
    out: Out = Path("bench"),
    calibrate: Calibrate = False,
    table: Table = None,
) -> None:
    """Time polar methods and optimizer steps on the matrices of real models, with their errors."""
    given = locals()
    if calibrate and (set_ or rounds or methods or steps or table):
        raise invalid("calibrate", True, "it measures no bench: leave the other flags out")
    start("bench", **given)
