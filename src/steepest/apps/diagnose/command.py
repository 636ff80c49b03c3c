"""`steepest diagnose`: a training as one page, and as a summary on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from steepest._common.errors import invalid
from steepest._common.files import write_atomic
from steepest.apps._figures import plot_style
from steepest.apps._terminal import fail, os_text, say
from steepest.apps.diagnose.measure import CheckpointMeasurements, measure
from steepest.apps.diagnose.page import render
from steepest.apps.diagnose.report import Diagnosed, page_of, show
from steepest.apps.diagnose.source import Subject, corpus_of, find
from steepest.apps.train.data import Corpus

PAGE = "diagnosis.html"
INTERRUPTED = 130

Where = Annotated[
    Path,
    typer.Argument(
        metavar="PATH",
        help="A run of `steepest train`, one of its trials, a checkpoint, or a folder with the "
        "monitor.jsonl of a training of your own.",
        show_default=False,
    ),
]
Out = Annotated[Path | None, typer.Option(help="The page to write.", show_default=f"PATH/{PAGE}")]
Data = Annotated[
    Path | None,
    typer.Option(help="The text of the training, if it has moved.", show_default="where it lay"),
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
        raise invalid("out", str(out), "give a file name in a folder that exists")
    return out


def diagnose(
    path: Where,
    out: Out = None,
    data: Data = None,
    windows: Windows = 4,
    optimizer: Optimizers = None,
    seed: Seed = None,
) -> None:
    """Show what a training has done: spectra, ranks, sharpness, activations, in one page."""
    console = Console()
    try:
        subjects = find(path, optimizers=optimizer or [], seed=seed)
        target = place(path, out)
        diagnosed = _diagnosed(subjects, data, windows, console)
        note = f"Made by steepest {version('steepest')} diagnose."
        with plot_style():
            page = page_of(path, diagnosed, note)
        write_atomic(target, render(page))
    except ValueError as error:
        raise fail(error) from None
    except OSError as error:
        raise fail(os_text(error)) from None
    except KeyboardInterrupt:
        say(console, "Stopped. No page has been written.")
        raise typer.Exit(INTERRUPTED) from None
    show(page, console)
    say(console, f"Page: {target}")


def _diagnosed(
    subjects: Sequence[Subject], data: Path | None, windows: int, console: Console
) -> list[Diagnosed]:
    """The subjects, each with what can be computed at its checkpoint."""
    first = next((s for s in subjects if s.checkpoint is not None), None)
    # The subjects of a run have one text.
    corpus = None if first is None else corpus_of(first, data)
    return [(s, _computed(s, corpus, windows, console)) for s in subjects]


def _computed(
    subject: Subject, corpus: Corpus | None, windows: int, console: Console
) -> CheckpointMeasurements | None:
    """Compute what there is at the checkpoint of a subject, with a line that says what goes on."""
    trainer = None if corpus is None else subject.trainer(corpus)
    if trainer is None:
        return None
    say(console, f"{subject.name}: computing at step {trainer.step}")
    with console.status(subject.name) as status:

        def report(what: str) -> None:
            status.update(f"{subject.name}: {what}")

        return measure(trainer, windows=windows, seed=trainer.trial.seed, report=report)
