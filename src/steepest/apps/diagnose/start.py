"""Diagnose a run, or two of them: one page, and a summary on the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import typer
from rich.console import Console

from steepest._common.files import write_atomic
from steepest.apps._console import Terminal
from steepest.apps._figures import plot_style
from steepest.apps._folder import is_special
from steepest.apps._terminal import INTERRUPTED, say
from steepest.apps.diagnose.command import PAGE, WINDOWS
from steepest.apps.diagnose.measure import CheckpointMeasurements, estimate, measure
from steepest.apps.diagnose.page import render
from steepest.apps.diagnose.progress import DiagnosisProgress
from steepest.apps.diagnose.report import Diagnosed, page_of, show
from steepest.apps.diagnose.source import Subject, corpus_of, find, refused


def place(path: Path, out: Path | None) -> Path:
    """The place of the page: beside a checkpoint, into a folder.

    Raises:
        ValueError: it would be written over a folder or a device, or into a folder that does not
            exist.
    """
    if out is None:
        return path.with_name(PAGE) if path.is_file() else path / PAGE
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise refused(f"--out {out}", "give a file name in a folder that exists")
    if is_special(out):
        raise refused(f"--out {out}", "is a pipe or a device; give a file name")
    return out


def start(
    *,
    paths: Sequence[Path],
    out: Path | None,
    data: Path | None,
    windows: int,
    optimizer: Sequence[str],
    seed: int | None,
) -> None:
    """Carry out `steepest diagnose`.

    Args:
        paths: one run, or two to compare.
        out: the page to write; None is `PAGE` in the first path.
        data: the text, where it has moved.
        windows: windows of text that the loss is measured on.
        optimizer: the optimizers of a run to look at; all of them if none is named.
        seed: the seed of a run; None is its first.

    Raises:
        ValueError: there is nothing to show, or what there is does not fit together.
        OSError: a file could not be read or written.
        typer.Exit: Ctrl-C.
    """
    console = Terminal()
    try:
        groups = subjects_of(paths, optimizers=optimizer, seed=seed)
        target = place(paths[0], out)
        diagnosed = _diagnosed(groups, data, windows, console)
        command = command_of(paths, data, windows, optimizer, seed)
        with plot_style():
            page = page_of(diagnosed, line=line_of(paths), command=command)
        write_atomic(target, render(page))
    except KeyboardInterrupt:
        say(console, "Stopped. No page has been written.")
        raise typer.Exit(INTERRUPTED) from None
    try:
        show(page, console)
        say(console, f"Page: {target}")
    except KeyboardInterrupt:
        say(console, f"Stopped. The page has been written: {target}")
        raise typer.Exit(INTERRUPTED) from None


def subjects_of(
    paths: Sequence[Path], *, optimizers: Sequence[str], seed: int | None
) -> list[list[Subject]]:
    """The subjects of one path, or of two, whose names then say which.

    Raises:
        ValueError: more than two paths, one of them twice, or as `find`.
        OSError: a file cannot be read.
    """
    if len(paths) > 2:
        raise refused(" ".join(map(str, paths)), "give one run, or two to compare")
    groups = [find(path, optimizers=optimizers, seed=seed) for path in paths]
    if len(groups) == 1:
        return groups
    first, second = ({s.place for s in group} for group in groups)
    if first & second:
        raise refused(
            f"{paths[0]} and {paths[1]}",
            "they are the same, or one is a part of the other; give two different runs, or one",
        )
    return [
        [replace(subject, name=f"{letter}: {subject.name}") for subject in group]
        for letter, group in zip("AB", groups, strict=True)
    ]


def line_of(paths: Sequence[Path]) -> str:
    """The paths as they were given, in a line."""
    if len(paths) == 1:
        return f"From {paths[0]}"
    return f"A is {paths[0]}, B is {paths[1]}"


def command_of(
    paths: Sequence[Path],
    data: Path | None,
    windows: int,
    optimizers: Sequence[str],
    seed: int | None,
) -> str:
    """The call that computes the same again, with what was not left at its default."""
    words = ["steepest", "diagnose", *map(str, paths)]
    words += [] if data is None else ["--data", str(data)]
    words += [] if windows == WINDOWS else ["--windows", str(windows)]
    words += [word for name in optimizers for word in ("--optimizer", name)]
    words += [] if seed is None else ["--seed", str(seed)]
    return shlex.join(words)


def _diagnosed(
    groups: Sequence[Sequence[Subject]], data: Path | None, windows: int, console: Console
) -> list[list[Diagnosed]]:
    """The subjects, each with what can be computed at its checkpoint."""
    count = sum(s.checkpoint is not None for group in groups for s in group)
    with DiagnosisProgress(console, subjects=count) as progress:
        return [[(s, _computed(s, data, windows, progress)) for s in group] for group in groups]


def _computed(
    subject: Subject, data: Path | None, windows: int, progress: DiagnosisProgress
) -> CheckpointMeasurements | None:
    """Compute what there is at the checkpoint of a subject, and say what goes on."""
    if subject.checkpoint is None:
        return None
    trainer = subject.trainer(corpus_of(subject, data))
    if trainer is None:
        return None
    progress.begin(f"{subject.name}, step {trainer.step}", estimate(trainer, windows=windows))
    return measure(trainer, windows=windows, seed=trainer.trial.seed, report=progress.stage)
