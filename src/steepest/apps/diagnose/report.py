"""The way from subjects to the page and to the summary on the terminal."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from statistics import median

import torch
from rich.console import Console
from rich.table import Table as Lines

from steepest._common.files import Record
from steepest.apps._machine import cpu_name
from steepest.apps._terminal import clock, say
from steepest.apps.diagnose import compare, pictures, titles
from steepest.apps.diagnose.computed import best_direction, computed
from steepest.apps.diagnose.evidence import Evidence, Finding
from steepest.apps.diagnose.findings import RULES, findings, unjudged
from steepest.apps.diagnose.measure import CheckpointMeasurements
from steepest.apps.diagnose.page import Item, Page, Panel, Section, Table
from steepest.apps.diagnose.recorded import curves, figure, recorded, sides_of
from steepest.apps.diagnose.records import grid
from steepest.apps.diagnose.source import Subject, settings_of
from steepest.apps.train.report import baseline
from steepest.apps.train.trial import diverged
from steepest.diagnostics import monitor_warnings

Diagnosed = tuple[Subject, CheckpointMeasurements | None]

YEAR_9000 = 2.2e11
"""Seconds since 1970 of a date that Python has: a record may be anybody's."""


def newest(records: Sequence[Record], key: str) -> float | None:
    """The last number under a key."""
    return next((r[key] for r in reversed(records) if r.get(key) is not None), None)


def model_of(subject: Subject) -> str:
    """The model in a few words; the name of the folder where it is not known."""
    if subject.config is None:
        return subject.folder.resolve().name
    model = subject.config.model
    return f"GPT with {model.layers} layers of width {model.width}"


def line_of(subject: Subject) -> str:
    """A run in one line."""
    config, settings = subject.config, settings_of(subject)
    if config is None or settings is None:
        steps = [int(r["step"]) for r in subject.monitor or subject.metrics]
        return f"{len(steps)} records from step {steps[0]} to step {steps[-1]}, in {subject.folder}"
    model = config.model
    rest = "" if settings.adamw_lr is None else f", AdamW's part {settings.adamw_lr:g}"
    norm = "" if settings.norm is None else f" in the norm {settings.norm}"
    return (
        f"GPT with {model.layers} layers, width {model.width}, {model.heads} heads, context "
        f"{model.context}; {config.steps} steps of {config.batch} windows in {config.dtype}; "
        f"lr {settings.lr:g}{rest}, weight decay {settings.weight_decay:g}{norm}"
    )


def routing_of(subject: Subject, measured: CheckpointMeasurements) -> str:
    """How many parameters the optimizer moves itself, and how many AdamW does."""
    settings, total, hidden = settings_of(subject), len(measured.shapes), len(measured.hidden)
    name = "" if subject.trial is None else subject.trial.optimizer
    if settings is None or settings.adamw_lr is None:
        return f"{total} {name}"
    return f"{hidden} {name}, {total - hidden} adamw"


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
    if (settings := settings_of(subject)) is not None:
        found.append(("lr", f"{settings.lr:g}"))
    if measured is not None:
        found.append(("routing", routing_of(subject, measured)))
    if (ranks := grid(subject.monitor, "grad_nuclear_rank")) is not None:
        found.append(("median nuclear rank of G", figure(median(ranks.last().values()))))
    if measured is not None and measured.smoothness is not None:
        found.append(("sharpness (λ₁)", figure(measured.smoothness["ℓ2"].value)))
    if measured is not None:
        found.append(("updates skipped", str(measured.skipped)))
    if (seconds := newest(subject.metrics, "seconds")) is not None:
        found.append(("time of the steps", clock(seconds)))
    if subject.monitor:
        found.append(("warnings", str(len(monitor_warnings(subject.monitor)))))
    if measured is not None and measured.constraint is not None and measured.constraint.worst:
        found.append(("largest ‖W‖/radius", f"{measured.constraint.worst.filled:.2f}"))
    return found


def evidence_of(subject: Subject, measured: CheckpointMeasurements | None) -> Evidence:
    """The material of the rules on a subject."""
    shapes = {} if measured is None else measured.shapes
    computed_here = (
        {}
        if measured is None
        else {
            "verdict": measured.verdict,
            "directions": measured.directions,
            "constraint": measured.constraint,
            "hidden": measured.hidden,
            "tables": measured.tables,
            "skipped": measured.skipped,
        }
    )
    return Evidence(
        metrics=subject.metrics,
        monitor=subject.monitor,
        config=subject.config,
        optimizer="" if subject.trial is None else subject.trial.optimizer,
        sides=sides_of(shapes, curves(subject)),
        **computed_here,  # type: ignore[arg-type]
    )


def section_of(
    subject: Subject, measured: CheckpointMeasurements | None, *, alone: bool
) -> Section:
    """All about one subject; its loss is drawn here if it is alone."""
    sides = sides_of({} if measured is None else measured.shapes, curves(subject))
    parts = [*recorded(subject, sides, with_loss=alone), *computed(subject, measured)]
    return Section(
        title=subject.name,
        line=line_of(subject),
        facts=facts_of(subject, measured),
        parts=parts,
        summary=_summary(subject, measured),
    )


def _summary(subject: Subject, measured: CheckpointMeasurements | None) -> list[str]:
    """The figures of the checkpoint in a few sentences."""
    found = []
    if measured is not None and measured.directions is not None:
        found.append(best_direction(measured.directions, subject))
    if measured is not None and measured.verdict is not None:
        found += [measured.verdict.summary, measured.verdict.caveat]
    return [sentence for sentence in found if sentence]


def head_of(diagnosed: Sequence[Diagnosed], command: str) -> list[tuple[str, str]]:
    """The date, the machine and the text of a page."""
    subjects = [subject for subject, _ in diagnosed]
    head = [
        ("made", f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"),
        ("on", f"{platform.node()}, {cpu_name()}"),
        ("command", command),
    ]
    found = [r.get("time") for s in subjects for r in (*s.metrics, *s.monitor)]
    times = [t for t in found if isinstance(t, int | float) and 0 < t < YEAR_9000]
    if times:
        last = datetime.fromtimestamp(max(times)).astimezone()
        head.append(("trained until", f"{last:%Y-%m-%d %H:%M %Z}"))
    texts = {(s.data, s.text) for s in subjects if s.text}
    for data, sha in sorted((data, str(sha)) for data, sha in texts):
        head.append(("text", f"{data or 'unnamed'}, sha256 {sha[:12]}"))
    versions = f"steepest {version('steepest')}, torch {torch.__version__}"
    return [*head, ("versions", f"{versions}, Python {platform.python_version()}")]


def title_of(subjects: Sequence[Subject]) -> str:
    """The optimizers and the model, or the folder of a run of the user's own code."""
    names = dict.fromkeys(s.trial.optimizer for s in subjects if s.trial is not None)
    models = " and ".join(dict.fromkeys(map(model_of, subjects)))
    return f"{', '.join(names)}: {models}" if names else models


def page_of(groups: Sequence[Sequence[Diagnosed]], *, line: str, command: str) -> Page:
    """The page of everything that was found.

    Args:
        groups: the subjects of each path, one path or two.
        line: a line on what has been diagnosed; paths in it are as they were given, since the page
            may be sent to somebody, who needs no more of this machine.
        command: the call that makes the page again.
    """
    diagnosed = [pair for group in groups for pair in group]
    subjects = [subject for subject, _ in diagnosed]
    alone = len(diagnosed) == 1
    sections = [section_of(subject, measured, alone=alone) for subject, measured in diagnosed]
    if not alone:
        sections = [_together(sections, subjects, apart=len(groups) > 1), *sections]
    held = (
        compare.pairs(*([s for s, _ in g] for g in groups))
        if len(groups) > 1
        else _in_run(subjects)
    )
    items = [_item("", found, sections) for a, b in held for found in compare.compared(a, b)]
    own, remarks = _judged(diagnosed, sections)
    return Page(
        title=title_of(subjects),
        line=line,
        head=head_of(diagnosed, command),
        findings=[*items, *own],
        remarks=remarks,
        sections=sections,
        note=f"Made by steepest {version('steepest')} diagnose.",
    )


def _judged(
    diagnosed: Sequence[Diagnosed], sections: Sequence[Section]
) -> tuple[list[Item], list[str]]:
    """The findings on each subject by itself, and what could not be judged."""
    alone = len(diagnosed) == 1
    items: list[Item] = []
    remarks: dict[str, list[str]] = {}
    fine: list[Diagnosed] = []
    for subject, measured in diagnosed:
        evidence = evidence_of(subject, measured)
        found = findings(evidence)
        name = "" if alone else subject.name
        items += [_item(name, one, sections, subject.name) for one in found]
        missing = unjudged(evidence)
        for remark in missing:
            remarks.setdefault(remark, []).append(subject.name)
        if not found:
            fine.append((subject, measured))
    if fine:
        items.append(Item(subject="", what=_nothing([s for s, _ in fine], alone=alone)))
    said = [r if alone else f"{r} ({', '.join(names)})" for r, names in remarks.items()]
    return items, said


def _in_run(subjects: Sequence[Subject]) -> list[tuple[Subject, Subject]]:
    """The best trial of a run against the baseline of the run."""
    by_name = {s.trial.optimizer: s for s in subjects if s.trial is not None}
    if len(by_name) < 2:
        return []
    return compare.ranked(subjects, by_name[baseline(list(by_name))])


def _nothing(subjects: Sequence[Subject], *, alone: bool) -> str:
    """Say that nothing is to be changed, and of which runs."""
    ends = {s.name: newest(s.metrics, "val_loss") for s in subjects}
    rules = f"none of {len(RULES)} rules finds anything"
    if alone:
        (end,) = ends.values()
        return f"Nothing to change: {rules}" + (
            "" if end is None else f", and validation loss ends at {end:.3f}"
        )
    names = ", ".join(n if end is None else f"{n} (ends at {end:.3f})" for n, end in ends.items())
    return f"Nothing to change in {names}: {rules}"


def _item(subject: str, found: Finding, sections: Sequence[Section], owner: str = "") -> Item:
    return Item(
        subject=subject,
        what=found.what,
        confidence=found.confidence,
        why=found.why,
        advice=found.advice,
        change=found.change,
        link=_anchor(sections, owner, found.evidence),
    )


def _anchor(sections: Sequence[Section], owner: str, title: str) -> str:
    """The anchor of a part: in the section of its owner, else in the first that has one."""
    places = [
        (section.title != owner, f"s{i}-{j}")
        for i, section in enumerate(sections, start=1)
        for j, part in enumerate(section.parts, start=1)
        if part.title == title
    ]
    return min(places, default=(True, ""))[1]


def side_by_side(sections: Sequence[Section]) -> Table:
    """The facts of sections beside each other, a row for each; a dash where one has none."""
    shown = [(s.title, dict(s.facts)) for s in sections if s.facts]
    labels = list(dict.fromkeys(label for _, facts in shown for label in facts))
    rows = [(label, *(facts.get(label, "–") for _, facts in shown)) for label in labels]
    headings = ("", *(title for title, _ in shown))
    return Table(title="In figures", headings=headings, rows=rows, unfolded=True)


def _together(sections: Sequence[Section], subjects: Sequence[Subject], *, apart: bool) -> Section:
    """All trials beside each other; what differs in their settings, if they are of two paths."""
    losses = pictures.losses({s.name: s.metrics for s in subjects})
    parts = [Panel(title=titles.LOSS, picture=losses, tables=[side_by_side(sections)])]
    if apart:
        table = compare.different(subjects)
        parts.append(
            Panel(title=titles.SETTINGS, text=["None that is recorded: nothing to look for here."])
            if table is None
            else Panel(title=titles.SETTINGS, tables=[table])
        )
    return Section(title="Side by side", line="", facts=[], parts=parts)


def show(page: Page, console: Console) -> None:
    """The findings, then the facts of every section as a table."""
    say(console, "Findings")
    for number, item in enumerate(page.findings, start=1):
        of = f"{item.subject}: " if item.subject else ""
        say(console, f"{number}. {of}{item.what}.")
        if item.advice:
            say(console, f"   {item.confidence} ({item.why}). {item.label}: {item.advice}.")
    for remark in page.remarks:
        say(console, f"Not judged: {remark}.")
    said: dict[str, list[str]] = {}
    for section in page.sections:
        for sentence in section.summary:
            said.setdefault(sentence, []).append(section.title)
    # What holds of all of them, such as the caveat, is said once and last.
    for sentence, names in sorted(said.items(), key=lambda pair: len(pair[1])):
        say(console, f"{', '.join(names)}: {sentence}")
    _print(side_by_side(page.sections), console)
    for part in (part for s in page.sections[:1] for part in s.parts):
        if part.title == titles.SETTINGS:
            for table in part.tables:
                _print(table, console)


def _print(content: Table, console: Console) -> None:
    """A table of the page on the terminal."""
    table = Lines()
    for i, heading in enumerate(content.headings):
        table.add_column(heading, justify="right" if i else "left", no_wrap=not i)
    for row in content.rows:
        table.add_row(*row)
    console.print(table)
