"""`steepest eject`: its flags."""

from __future__ import annotations

from typing import Annotated

import typer

from steepest.apps._flags import Number, OneOf, flag, start
from steepest.apps._terminal import fail

NAMES = (
    *("sgd", "normalizedsgd", "signsgd", "lion"),
    *("spectraldescent", "muon", "polargrad", "scion"),
    *("normuon", "adamuon", "muon2", "muoneq", "muonplus", "aurora", "soapmuon"),
    *("hyperball", "muown", "muonfloor", "muonbrake"),
)
DESIGNED, JORDAN = POLARS = ("designed", "jordan")
DTYPES = ("float32", "bfloat16")
ERROR = 0.05
EXAMPLES = (
    ("eject muon", "Muon and AdamW, into muon.py."),
    ("eject muon --polar jordan --out -", "The same with the five steps of torch.optim.Muon."),
    ("eject scion --error 0.01 --out optim/scion.py", "More exact polar factors."),
    ("eject --list", "What there is."),
)
WHAT, POLAR = "What is written", "Polar factors"
KIND = OneOf(NAMES)

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help=f"{', '.join(NAMES)}.",
        parser=KIND,
        autocompletion=KIND.complete,
        show_default=False,
    ),
]
List = Annotated[bool, flag("List the optimizers.", "--list", group=WHAT)]
Out = Annotated[
    str | None,
    flag("The file to write; - prints it.", default="NAME.py", group=WHAT, metavar="FILE"),
]
Force = Annotated[bool, flag("Write over a file that exists.", "--force", group=WHAT)]
Error = Annotated[
    float | None,
    flag(
        "Largest |σ − 1| of a polar factor, of the singular values that its comment names.",
        kind=Number("a number from 1e-6 to 1", lambda x: 1e-6 <= x < 1),
        default=str(ERROR),
        group=POLAR,
    ),
]
Dtype = Annotated[
    str | None,
    flag(
        "Type they are computed in; with float32, parameters in float64 stay in that.",
        kind=OneOf(DTYPES),
        default=f"{DTYPES[0]}, with --polar {JORDAN} {DTYPES[1]}",
        group=POLAR,
    ),
]
Polar = Annotated[
    str,
    flag(
        f"Newton–Schulz steps {DESIGNED} for --error, or those of torch.optim.Muon, {JORDAN}.",
        kind=OneOf(POLARS),
        group=POLAR,
    ),
]


def eject(
    name: Name = None,
    list_: List = False,
    out: Out = None,
    force: Force = False,
    error: Error = None,
    dtype: Dtype = None,
    polar: Polar = DESIGNED,
) -> None:
    """Write an optimizer as one file that needs torch alone, to read, to edit and to keep."""
    if name is None and not list_:
        raise fail(f"name an optimizer: {', '.join(NAMES)}; --list describes them")
    start(
        "eject",
        name=None if list_ else name,
        out=out,
        force=force,
        error=error,
        dtype=dtype,
        polar=polar,
    )
