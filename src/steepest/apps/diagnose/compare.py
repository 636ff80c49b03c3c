"""Two runs side by side: what differs in their settings, and which one gets further."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from steepest.apps.diagnose import titles
from steepest.apps.diagnose.evidence import Finding
from steepest.apps.diagnose.page import Table
from steepest.apps.diagnose.source import Subject
from steepest.apps.train.report import Curve, curve, reached

EQUAL = 0.01
"""Final losses that differ by less than this share count as equal: seeds differ by about as much;
ours."""

WINDOWS = ("context", "eval_windows")
"""The settings that choose the validation windows."""


def settings(subject: Subject) -> dict[str, Any]:
    """The settings of a trial under the names of their flags; empty for a run without any."""
    if subject.config is None or subject.trial is None:
        return {}
    plain = subject.config.to_json()
    own = asdict(subject.config.optimizers[subject.trial.optimizer])
    model = plain.pop("model")
    for key in ("optimizers", "seeds", "data", "device"):
        del plain[key]
    found = {"optimizer": subject.trial.optimizer, "seed": subject.trial.seed, **own}
    every = {**found, **model, **plain, "data": subject.data}
    return {f"--{key.replace('_', '-')}": value for key, value in every.items()}


def different(subjects: Sequence[Subject]) -> Table | None:
    """The settings in which subjects differ, a row for each; None where they do not."""
    known = [settings(s) for s in subjects]
    keys = list(dict.fromkeys(key for one in known for key in one))
    rows = [
        (key, *(_shown(one.get(key)) for one in known))
        for key in keys
        if len({_shown(one.get(key)) for one in known}) > 1
    ]
    if not rows:
        return None
    headings = ("flag", *(s.name for s in subjects))
    return Table(title="Only what differs", headings=headings, rows=rows, unfolded=True)


def _shown(value: object) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def incomparable(a: Subject, b: Subject) -> str:
    """The reason why two losses say nothing of each other; empty where they do."""
    if a.config is None or b.config is None:
        return "" if a.config is b.config else "the settings of one of them are not known"
    if a.text != b.text:
        return f"they were trained on different texts ({a.data} and {b.data})"
    ours, theirs = settings(a), settings(b)
    flags = [f"--{key.replace('_', '-')}" for key in WINDOWS]
    apart = [flag for flag in flags if ours[flag] != theirs[flag]]
    return f"their validation windows differ ({', '.join(apart)})" if apart else ""


def compared(a: Subject, b: Subject) -> Iterator[Finding]:
    """The findings on one run against another.

    Args:
        a: the run to measure against, such as the baseline.
        b: the other one.
    """
    if reason := incomparable(a, b):
        yield Finding(
            what=f"The losses of {a.name} and {b.name} are not comparable: {reason}",
            confidence="certain",
            why="a loss is one of its text and its windows",
            advice="compare runs that agree in these flags; nothing to change in either",
            evidence=titles.SETTINGS,
        )
        return
    lines = [curve(s.metrics) if s.metrics else None for s in (a, b)]
    first, second = lines
    if not (first and second and first.losses and second.losses):
        return
    if not (first.finished and second.finished):
        return  # which the diverged one has a finding of its own for
    yield _ranked((a, first), (b, second))


def _ranked(one: tuple[Subject, Curve], other: tuple[Subject, Curve]) -> Finding:
    """The finding on the lower of two finished curves, and how soon it reaches the other's end."""
    (worse, above), (better, below) = sorted((one, other), key=lambda pair: -pair[1].losses[-1])
    high, low = above.losses[-1], below.losses[-1]
    gap = 1 - low / high
    what = f"{better.name} ends at {low:.3f}, {gap:.1%} below {worse.name} ({high:.3f})"
    step, _ = reached(below, high)
    if step is not None and step < below.steps[-1]:
        what += f", and reaches its final loss at step {step} of {above.steps[-1]}"
    if above.steps[-1] != below.steps[-1]:
        what += f". They end at different steps, {below.steps[-1]} and {above.steps[-1]}"
    if gap < EQUAL:
        return Finding(
            what=what,
            confidence="a hint",
            why="one seed each, and seeds differ by about as much",
            advice="nothing to change; to tell them apart train both with --seed 0 --seed 1 "
            "--seed 2",
            evidence=titles.LOSS,
        )
    return Finding(
        what=what,
        confidence="likely",
        why="one seed each, on the same validation windows",
        advice=f"take the settings of {better.name}, once a second seed says the same",
        evidence=titles.LOSS,
    )


def pairs(left: Sequence[Subject], right: Sequence[Subject]) -> list[tuple[Subject, Subject]]:
    """The subjects to hold against each other: of one optimizer, else the best of either side."""
    by_name = {s.trial and s.trial.optimizer: s for s in right}
    same = [
        (a, by_name[a.trial.optimizer]) for a in left if a.trial and a.trial.optimizer in by_name
    ]
    return same or [(_best(left), _best(right))]


def ranked(subjects: Sequence[Subject], base: Subject) -> list[tuple[Subject, Subject]]:
    """The best of the trials of a run against its baseline, or that against the second best."""
    others = [s for s in subjects if s is not base]
    return [(base, _best(others))] if others else []


def _best(subjects: Sequence[Subject]) -> Subject:
    """The subject with the lowest final loss."""

    def final(subject: Subject) -> float:
        line = curve(subject.metrics) if subject.metrics else None
        return line.losses[-1] if line and line.losses and line.finished else float("inf")

    return min(subjects, key=final)
