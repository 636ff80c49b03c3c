"""`steepest reproduce`: which experiments, where to, and how large."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from steepest._terminal import fail, os_text, say
from steepest._types import invalid
from steepest.lab.reproduce import reproduce as carry_out
from steepest.lab.table import REPRODUCTIONS, find

PARENT = Path("reproductions")
INTERRUPTED = 130

Name = Annotated[str | None, typer.Argument(metavar="NAME", help=f"{', '.join(REPRODUCTIONS)}.")]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the results, with --all of their folders.",
        show_default="reproductions/NAME, with --quick reproductions/NAME-quick",
    ),
]
Quick = Annotated[bool, typer.Option("--quick", help="A small version, under a minute.")]
Seeds = Annotated[
    list[int] | None,
    typer.Option(
        "--seed",
        help="Fixes weights and batches (repeatable).",
        show_default="0 and 1, with --quick 0",
    ),
]
List = Annotated[bool, typer.Option("--list", help="Say what there is to reproduce.")]
All = Annotated[bool, typer.Option("--all", help="Every one of them, in turn.")]


def chosen(name: str | None, *, everything: bool) -> list[str]:
    """The names of what to reproduce.

    Raises:
        ValueError: no name, a wrong one, or one beside --all.
    """
    if everything:
        if name is not None:
            raise invalid("NAME", name, "leave it out, or leave out --all")
        return list(REPRODUCTIONS)
    if name is None:
        raise invalid("NAME", name, f"choose from {', '.join(REPRODUCTIONS)}, or give --all")
    return [find(name).name]


def folder(name: str, *, out: Path | None, quick: bool, everything: bool) -> Path:
    """Where the results of one reproduction go; quick ones do not meet the others by default."""
    if out is not None:
        return out / name if everything else out
    return PARENT / (f"{name}-quick" if quick else name)


def reproduce(
    name: Name = None,
    out: Out = None,
    quick: Quick = False,
    seed: Seeds = None,
    list_: List = False,
    everything: All = False,
) -> None:
    """Measure published claims again; the same command goes on after an interruption."""
    console = Console()
    if list_:
        for r in REPRODUCTIONS.values():
            say(console, f"{r.name}: {r.title}")
        return
    try:
        for each in chosen(name, everything=everything):
            r = find(each)
            settings = r.quick if quick else r.full
            if seed:
                settings = replace(settings, seeds=tuple(seed))
            carry_out(
                r, settings, folder(each, out=out, quick=quick, everything=everything), console
            )
    except ValueError as error:
        raise fail(error) from None
    except OSError as error:
        raise fail(os_text(error)) from None
    except KeyboardInterrupt:
        say(console, "Stopped. What is finished is kept: the same command goes on from there.")
        raise typer.Exit(INTERRUPTED) from None
