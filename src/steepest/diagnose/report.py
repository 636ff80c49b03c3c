"""From subjects to the page and to the summary on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as Lines

from steepest._files import Record
from steepest.diagnose import pictures
from steepest.diagnose.computed import computed
from steepest.diagnose.measure import Measured
from steepest.diagnose.page import Page, Part, Section
from steepest.diagnose.recorded import curves, recorded, sides_of
from steepest.diagnose.records import warnings
from steepest.diagnose.source import Subject, settings_of

Diagnosed = tuple[Subject, Measured | None]


def newest(records: Sequence[Record], key: str) -> float | None:
    """The last number under a key."""
    return next((r[key] for r in reversed(records) if r.get(key) is not None), None)


def line_of(subject: Subject) -> str:
    """A training in one line."""
    config, settings = subject.config, settings_of(subject)
    if config is None or settings is None:
        steps = [int(r["step"]) for r in subject.monitor or subject.metrics]
        return f"{len(steps)} records from step {steps[0]} to step {steps[-1]}, in {subject.folder}"
    model = config.model
    rest = "" if settings.rest_lr is None else f", rest {settings.rest_lr:g}"
    norm = "" if settings.norm is None else f" in the norm {settings.norm}"
    return (
        f"GPT with {model.layers} layers, width {model.width}, {model.heads} heads, context "
        f"{model.context}; {config.steps} steps of {config.batch} windows in {config.dtype}; "
        f"lr {settings.lr:g}{rest}, weight decay {settings.weight_decay:g}{norm}"
    )


def facts_of(subject: Subject, measured: Measured | None) -> list[tuple[str, str]]:
    """The figures that matter most."""
    found: list[tuple[str, str]] = []
    steps = [int(r["step"]) for r in (*subject.metrics, *subject.monitor)]
    if steps:
        of = "" if subject.config is None else f" of {subject.config.steps}"
        found.append(("steps", f"{max(steps)}{of}"))
    for label, key in (("validation loss", "val_loss"), ("loss of a minibatch", "loss")):
        value = newest(subject.metrics, key)
        if value is not None:
            found.append((label, f"{value:.3f}"))
    if subject.monitor:
        found.append(("warnings", str(len(warnings(subject.monitor)))))
    if measured is not None and measured.constraint is not None and measured.constraint.worst:
        found.append(("fullest ball", f"{measured.constraint.worst.filled:.2f}"))
    return found


def section_of(subject: Subject, measured: Measured | None) -> Section:
    """All about one subject."""
    sides = sides_of({} if measured is None else measured.shapes, curves(subject))
    return Section(
        title=subject.name,
        line=line_of(subject),
        facts=facts_of(subject, measured),
        parts=[*recorded(subject, sides), *computed(subject, measured)],
    )


def page_of(path: Path, diagnosed: Sequence[Diagnosed], note: str) -> Page:
    """The page of everything that was found at a path."""
    sections = [section_of(subject, measured) for subject, measured in diagnosed]
    if len(diagnosed) > 1:
        sections.insert(0, _together([subject for subject, _ in diagnosed]))
    return Page(
        title=path.resolve().name,
        line=f"From {path.resolve()}",
        sections=sections,
        note=note,
    )


def _together(subjects: Sequence[Subject]) -> Section:
    """All trials of a run beside each other."""
    picture = pictures.losses({s.name: s.metrics for s in subjects})
    parts = [] if picture is None else [Part(title="Loss", picture=picture)]
    return Section(title="All together", line="", facts=[], parts=parts)


def show(page: Page, console: Console) -> None:
    """The facts of every section, and the sentences of its lists, on the terminal."""
    table = Lines()
    table.add_column("")
    labels = list(dict.fromkeys(label for s in page.sections for label, _ in s.facts))
    for label in labels:
        table.add_column(label, justify="right")
    for section in page.sections:
        if section.facts:
            facts = dict(section.facts)
            table.add_row(section.title, *(facts.get(label, "–") for label in labels))
    console.print(table)
