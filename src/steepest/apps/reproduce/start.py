"""Carry out the reproductions that were asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from steepest._common.errors import invalid
from steepest.apps._terminal import INTERRUPTED, say
from steepest.apps.reproduce.framework.experiment import Reproduction, Settings
from steepest.apps.reproduce.framework.reproduce import reproduce
from steepest.apps.reproduce.table import find

PARENT = Path("reproductions")
FLAGS: Mapping[str, str] = {"seeds": "seed", "families": "family"}
"""The flag of a setting, where it is not its name."""


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
        raise invalid("scale", scale, f"{r.name} has {', '.join(r.scales)}")
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
            raise invalid(FLAGS.get(name, name), value, f"{r.name} has no {name}; leave it out")
    return replace(settings, **{k: v for k, v in given.items() if v is not None})


def cores(r: Reproduction[Any], wanted: int | None) -> int:
    """The number of processes that measure the cells.

    Raises:
        ValueError: fewer than one, or several for cells that use all cores themselves.
    """
    if wanted is not None and (wanted < 1 or (wanted > 1 and not r.parallel)):
        remedy = (
            "give a whole number >= 1"
            if wanted < 1
            else f"each cell of {r.name} uses all cores; leave it out"
        )
        raise invalid("jobs", wanted, remedy)
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return wanted or (available or 1 if r.parallel else 1)


def start(
    *,
    names: Sequence[str],
    figures: Sequence[str],
    quick: bool,
    scale: str | None,
    jobs: int | None,
    out: Path | None,
    everything: bool,
    **chosen: Any,
) -> None:
    """Carry out `steepest reproduce`; the other arguments are those of `sized`.

    Raises:
        typer.Exit: it was interrupted.
        ValueError: a reproduction has no such setting.
        OSError: a file could not be written.
    """
    console = Console()
    try:
        for name in names:
            r = find(name)
            settings = sized(r, scale=scale, quick=quick, **chosen)
            place = folder(name, out=out, quick=quick or scale == "quick", everything=everything)
            parts = [r.part(part) for part in figures]
            reproduce(r, settings, place, console, parts=parts, jobs=cores(r, jobs))
    except KeyboardInterrupt:
        say(console, "Stopped. What is finished is kept: the same command goes on from there.")
        raise typer.Exit(INTERRUPTED) from None
