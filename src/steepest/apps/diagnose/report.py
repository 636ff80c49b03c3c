"""The way from subjects to the page and to the summary on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Lines

from steepest._common.files import Record
from steepest.apps._terminal import say
from steepest.apps.diagnose import pictures
from steepest.apps.diagnose.computed import best_direction, computed
from steepest.apps.diagnose.measure import CheckpointMeasurements
from steepest.apps.diagnose.page import Page, Panel, Section, Table
from steepest.apps.diagnose.pictures import Picture
from steepest.apps.diagnose.recorded import curves, recorded, sides_of
from steepest.apps.diagnose.source import Subject, settings_of
from steepest.apps.train.trial import diverged
from steepest.diagnostics import monitor_warnings

Diagnosed = tuple[Subject, CheckpointMeasurements | None]


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
    rest = "" if settings.adamw_lr is None else f", rest {settings.adamw_lr:g}"
    norm = "" if settings.norm is None else f" in the norm {settings.norm}"
    return (
        f"GPT with {model.layers} layers, width {model.width}, {model.heads} heads, context "
        f"{model.context}; {config.steps} steps of {config.batch} windows in {config.dtype}; "
        f"lr {settings.lr:g}{rest}, weight decay {settings.weight_decay:g}{norm}"
    )


def facts_of(subject: Subject, measured: CheckpointMeasurements | None) -> list[tuple[str, str]]:
    """The figures that matter most."""
    found: list[tuple[str, str]] = []
    steps = [int(r["step"]) for r in (*subject.metrics, *subject.monitor)]
    if steps:
        of = "" if subject.config is None else f" of {subject.config.steps}"
        found.append(("steps", f"{max(steps)}{of}"))
    if (bad := next(filter(diverged, subject.metrics), None)) is not None:
        found.append(("diverged", f"at step {bad['step']}"))
    for label, key in (("validation loss", "val_loss"), ("loss of a minibatch", "loss")):
        value = newest(subject.metrics, key)
        if value is not None:
            found.append((label, f"{value:.3f}"))
    if subject.monitor:
        found.append(("warnings", str(len(monitor_warnings(subject.monitor)))))
    if measured is not None and measured.constraint is not None and measured.constraint.worst:
        found.append(("fullest ball", f"{measured.constraint.worst.filled:.2f}"))
    return found


def section_of(subject: Subject, measured: CheckpointMeasurements | None) -> Section:
    """All about one subject."""
    sides = sides_of({} if measured is None else measured.shapes, curves(subject))
    parts = [*recorded(subject, sides), *computed(subject, measured)]
    return Section(
        title=subject.name,
        line=line_of(subject),
        facts=facts_of(subject, measured),
        summary=_summary(subject, measured, parts),
        parts=parts,
    )


def _summary(
    subject: Subject, measured: CheckpointMeasurements | None, parts: Sequence[Panel]
) -> list[str]:
    """The findings in a few sentences, and what is missing."""
    found = [f"step {step}: {text}" for step, text in monitor_warnings(subject.monitor)]
    if measured is not None:
        if measured.directions is not None and (best := best_direction(measured.directions)):
            found.append(best)
        if measured.verdict is not None:
            found.append(measured.verdict.summary)
    reasons: dict[str, list[str]] = {}
    for part in parts:
        if part.missing:
            reasons.setdefault(part.missing, []).append(part.title.lower())
    return [*found, *(f"{', '.join(titles)}: {why}" for why, titles in reasons.items())]


def page_of(path: Path, diagnosed: Sequence[Diagnosed], note: str) -> Page:
    """The page of everything that was found at a path."""
    sections = [section_of(subject, measured) for subject, measured in diagnosed]
    if len(sections) > 1:
        together = _together(sections, pictures.losses({s.name: s.metrics for s, _ in diagnosed}))
        sections = [together, *sections]
    # The path as it was given: the page may be sent to somebody, who needs no more of this machine.
    return Page(title=path.resolve().name, line=f"From {path}", sections=sections, note=note)


def compared(sections: Sequence[Section]) -> Table:
    """The facts of sections beside each other; a dash where one has none."""
    labels = list(dict.fromkeys(label for s in sections for label, _ in s.facts))
    rows = [
        (s.title, *(facts.get(label, "–") for label in labels))
        for s in sections
        if (facts := dict(s.facts))
    ]
    return Table(title="In figures", headings=("", *labels), rows=rows, unfolded=True)


def _together(sections: Sequence[Section], losses: Picture | None) -> Section:
    """All trials of a run beside each other."""
    part = Panel(title="Side by side", picture=losses, tables=[compared(sections)])
    return Section(title="All together", line="", facts=[], parts=[part])


def show(page: Page, console: Console) -> None:
    """The facts of every section as a table, and below it what each section says at once."""
    facts = compared(page.sections)
    table = Lines()
    for i, heading in enumerate(facts.headings):
        table.add_column(heading, justify="right" if i else "left", no_wrap=not i)
    for row in facts.rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)
    for section in page.sections:
        for sentence in section.summary:
            say(console, f"{section.title}: {sentence}")
