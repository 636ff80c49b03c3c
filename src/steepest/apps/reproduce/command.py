"""`steepest reproduce`: its flags, and the list of what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steepest._common.errors import invalid
from steepest.apps._flags import OneOf, Place, Whole, flag, start
from steepest.apps._terminal import USAGE
from steepest.apps.reproduce.names import SCALES, TITLES

EXAMPLES = (
    ("reproduce --list", "What there is to reproduce."),
    ("reproduce lr-transfer --quick", "A small version of one."),
    ("reproduce quadratics --figure 4", "One figure of a paper."),
    ("reproduce --all --quick --out small", "A small version of every one."),
)
WHAT, SIZE = "What is measured", "How much"
KIND = OneOf(TITLES)

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help=f"{', '.join(TITLES)}.",
        parser=KIND,
        autocompletion=KIND.complete,
        show_default=False,
    ),
]
All = Annotated[bool, flag("Every one of them, in turn.", "--all", group=WHAT)]
List = Annotated[bool, flag("List what there is to reproduce.", "--list", group=WHAT)]
Figures = Annotated[
    list[str] | None,
    flag(
        "One figure or table alone, such as 4 or table-1 (repeatable).",
        "--figure",
        default="all",
        group=WHAT,
        metavar="NAME",
    ),
]
Families = Annotated[
    list[str] | None,
    flag(
        "One family of problems alone (repeatable).",
        "--family",
        default="all",
        group=WHAT,
        metavar="NAME",
    ),
]
Quick = Annotated[bool, flag("A small version, under a minute.", "--quick", group=SIZE)]
Scale = Annotated[
    str | None,
    flag(
        "paper or quick for quadratics, full or quick for the others.",
        kind=OneOf(SCALES),
        default="the larger",
        group=SIZE,
    ),
]
Seeds = Annotated[
    list[int] | None,
    flag(
        "Fixes weights and batches (repeatable).",
        "--seed",
        kind=Whole(0, 2**63 - 1),
        default="0 and 1, with --quick 0",
        group=SIZE,
    ),
]
Instances = Annotated[
    int | None,
    flag("Initialisations of each problem.", kind=Whole(), default="set by --scale", group=SIZE),
]
Jobs = Annotated[
    int | None,
    # Ours: more processes than any machine has cores.
    flag("Processes that measure at once.", kind=Whole(1, 10_000), default="one per core"),
]
Out = Annotated[
    Path | None,
    flag(
        "Folder of the results, with --all of their folders.",
        kind=Place(),
        default="reproductions/NAME, with --quick reproductions/NAME-quick",
        metavar="FOLDER",
    ),
]


def chosen(name: str | None, *, everything: bool) -> list[str]:
    """The names of what to reproduce.

    Raises:
        ValueError: a name beside --all.
    """
    if everything:
        if name is not None:
            raise invalid("NAME", name, "leave it out, or leave out --all")
        return list(TITLES)
    return [] if name is None else [name]


def reproduce(
    name: Name = None,
    everything: All = False,
    list_: List = False,
    figure: Figures = None,
    family: Families = None,
    quick: Quick = False,
    scale: Scale = None,
    seed: Seeds = None,
    instances: Instances = None,
    jobs: Jobs = None,
    out: Out = None,
) -> None:
    """Measure published claims again; the same command goes on after an interruption."""
    names = chosen(name, everything=everything)
    if list_ or not names:
        for each, title in TITLES.items():
            typer.echo(f"{each}: {title}")
        if list_:
            return
        # The list is help; that nothing was reproduced is for a script to see.
        typer.echo("Name one of them, or give --all.", err=True)
        raise typer.Exit(USAGE)
    start(
        "reproduce",
        names=names,
        figures=figure or (),
        families=family,
        quick=quick,
        scale=scale,
        seeds=seed,
        instances=instances,
        jobs=jobs,
        out=out,
        everything=everything,
    )
