"""Carry out the reproductions that were asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from steepest._common.errors import invalid
from steepest.apps._console import Terminal
from steepest.apps._folder import held
from steepest.apps.reproduce.framework.experiment import Reproduction, Settings
from steepest.apps.reproduce.framework.measure import interruptible
from steepest.apps.reproduce.framework.reproduce import reproduce
from steepest.apps.reproduce.framework.workers import processes
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
        ValueError: a reproduction has no such setting, or another process is at work in its folder.
        OSError: a file could not be written.
    """
    console = Terminal()
    with interruptible(console):
        for name in names:
            r = find(name)
            settings = sized(r, scale=scale, quick=quick, **chosen)
            place = folder(name, out=out, quick=quick or scale == "quick", everything=everything)
            parts = [r.part(part) for part in figures]
            number = processes(r, jobs)
            with held(place):
                reproduce(r, settings, place, console, parts=parts, jobs=number)
