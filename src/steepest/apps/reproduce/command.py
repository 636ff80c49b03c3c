"""`steepest reproduce`: which experiments, where to, and how large."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from steepest._common.errors import invalid
from steepest.apps._terminal import fail, os_text, say
from steepest.apps.reproduce.framework.experiment import Reproduction, Settings
from steepest.apps.reproduce.framework.reproduce import reproduce as carry_out
from steepest.apps.reproduce.table import REPRODUCTIONS, find

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
Scale = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Of quadratics paper or quick, of the others full or quick.",
        show_default="the larger",
    ),
]
Figures = Annotated[
    list[str] | None,
    typer.Option("--figure", help="One figure or table alone, such as 4 or table-1 (repeatable)."),
]
Families = Annotated[
    list[str] | None, typer.Option("--family", help="One family of problems alone (repeatable).")
]
Instances = Annotated[int | None, typer.Option(help="Initialisations of each problem.")]
Jobs = Annotated[
    int | None,
    typer.Option(help="Processes that measure at the same time.", show_default="one a core"),
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
    """The folder for the results of a reproduction; quick ones have another by default."""
    if out is not None:
        return out / name if everything else out
    return PARENT / (f"{name}-quick" if quick else name)


def sized(
    r: Reproduction[Any],
    *,
    scale: str | None,
    quick: bool,
    seeds: list[int] | None,
    families: list[str] | None,
    instances: int | None,
) -> Settings:
    """The settings that the command line asks for.

    Raises:
        ValueError: a scale, a family or a setting that this reproduction does not have.
    """
    if scale is not None and scale not in r.scales:
        raise invalid("scale", scale, f"choose from {', '.join(r.scales)}")
    if quick and scale not in (None, "quick"):
        raise invalid("scale", scale, "leave out --quick")
    settings: Settings = r.scales["quick" if quick else scale or r.scale]
    known = {f.name for f in fields(settings)}
    given: dict[str, Any] = {
        "seeds": tuple(seeds) if seeds else None,
        "families": tuple(families) if families else None,
        "instances": instances,
    }
    for name, value in given.items():
        if value is not None and name not in known:
            raise invalid(name, value, f"{r.name} has none; choose from {', '.join(sorted(known))}")
    return replace(settings, **{k: v for k, v in given.items() if v is not None})


def cores(r: Reproduction[Any], wanted: int | None) -> int:
    """The number of processes that measure the cells.

    Raises:
        ValueError: fewer than one, or several for cells that use all cores themselves.
    """
    if wanted is not None and (wanted < 1 or (wanted > 1 and not r.parallel)):
        remedy = "give a whole number >= 1" if wanted < 1 else f"each cell of {r.name} uses all"
        raise invalid("jobs", wanted, remedy)
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return wanted or (available or 1 if r.parallel else 1)


def reproduce(
    name: Name = None,
    out: Out = None,
    quick: Quick = False,
    scale: Scale = None,
    figure: Figures = None,
    family: Families = None,
    instances: Instances = None,
    seed: Seeds = None,
    jobs: Jobs = None,
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
            settings = sized(
                r, scale=scale, quick=quick, seeds=seed, families=family, instances=instances
            )
            carry_out(
                r,
                settings,
                folder(each, out=out, quick=quick or scale == "quick", everything=everything),
                console,
                parts=[r.part(part) for part in figure or ()],
                jobs=cores(r, jobs),
            )
    except ValueError as error:
        raise fail(error) from None
    except OSError as error:
        raise fail(os_text(error)) from None
    except KeyboardInterrupt:
        say(console, "Stopped. What is finished is kept: the same command goes on from there.")
        raise typer.Exit(INTERRUPTED) from None
