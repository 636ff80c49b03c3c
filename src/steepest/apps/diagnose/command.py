"""`steepest diagnose`: a run, or two of them, as one page, and as a summary on the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from steepest._common.files import write_atomic
from steepest.apps._figures import plot_style
from steepest.apps._terminal import fail, os_text, say
from steepest.apps.diagnose.measure import CheckpointMeasurements, estimate, measure
from steepest.apps.diagnose.page import render
from steepest.apps.diagnose.progress import DiagnosisProgress
from steepest.apps.diagnose.report import Diagnosed, page_of, show
from steepest.apps.diagnose.source import Subject, corpus_of, find, refused

PAGE = "diagnosis.html"
INTERRUPTED = 130
WINDOWS = 4

Where = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH [PATH]",
        help="A run of `steepest train`, one of its trials, a checkpoint, or a folder with the "
        "monitor.jsonl of a run of your own. Two of them are compared.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None, typer.Option(help="The page to write.", show_default=f"{PAGE} in the first PATH")
]
Data = Annotated[
    Path | None,
    typer.Option(help="The text of the run, if it has moved.", show_default="where it lay"),
]
Windows = Annotated[int, typer.Option(help="Windows of text that the loss is measured on.", min=1)]
Optimizers = Annotated[
    list[str] | None,
    typer.Option(
        "--optimizer",
        metavar="NAME",
        help="Only this one of a run (repeatable).",
        show_default="all",
    ),
]
Seed = Annotated[
    int | None, typer.Option(help="Which seed of a run.", show_default="its first", min=0)
]


def place(path: Path, out: Path | None) -> Path:
    """The place of the page: beside a checkpoint, into a folder.

    Raises:
        ValueError: it would be written over a folder, or into one that does not exist.
    """
    if out is None:
        return path.with_name(PAGE) if path.is_file() else path / PAGE
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise refused(f"--out {out}", "give a file name in a folder that exists")
    return out


def diagnose(
    paths: Where,
    out: Out = None,
    data: Data = None,
    windows: Windows = WINDOWS,
    optimizer: Optimizers = None,
    seed: Seed = None,
) -> None:
    """Show what is wrong with a run and what to change, or compare two runs, in one page."""
    console = Console()
    target: Path | None = None
    try:
        groups = subjects_of(paths, optimizers=optimizer or [], seed=seed)
        target = place(paths[0], out)
        diagnosed = _diagnosed(groups, data, windows, console)
        command = command_of(paths, data, windows, optimizer or [], seed)
        with plot_style():
            page = page_of(diagnosed, line=line_of(paths), command=command)
        write_atomic(target, render(page))
    except ValueError as error:
        raise fail(error) from None
    except OSError as error:
        raise fail(os_text(error)) from None
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
