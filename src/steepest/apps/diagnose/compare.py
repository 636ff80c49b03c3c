"""Two runs side by side: what differs in their settings, and which one gets further."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any, TypeAlias

from steepest.apps.diagnose import titles
from steepest.apps.diagnose.evidence import Finding
from steepest.apps.diagnose.page import Table
from steepest.apps.diagnose.source import Subject
from steepest.apps.train.report import Curve, curve, mean_curve, reached

EQUAL = 0.01
"""Final losses that differ by less than this share count as equal: seeds differ by about as much;
ours."""

SEEDS = "such as --seed 0 --seed 1 --seed 2"
WINDOWS = ("context", "eval_windows")
"""The settings that choose the validation windows."""


_Side: TypeAlias = tuple[str, Sequence[Curve]]
"""The name of a side of a comparison, and its curves: one for each seed."""


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
            why="a loss depends on the text and the validation windows",
            advice="neither run is at fault. Compare runs of one text with the same windows",
            evidence=titles.SETTINGS,
            change=False,
        )
        return
    one, other = _curves(a), _curves(b)
    if not all(_went_on(s, lines) for s, lines in ((a, one), (b, other))):
        return  # which the diverged one has a finding of its own for
    shared = sorted(one.keys() & other.keys())
    if len(shared) < 2:
        alone = len(one) == len(other) == 1
        yield _ranked((a.name, [one[_seed(a)]]), (b.name, [other[_seed(b)]]), alone=alone)
        return
    sides = [(_unseeded(s), lines) for s, lines in ((a, one), (b, other))]
    lost = [f"{name} seed {k}" for name, lines in sides for k in shared if not lines[k].finished]
    if lost:
        yield Finding(
            what=f"The means over seeds are not compared: {', '.join(lost)} diverged",
            confidence="certain",
            why="the records of that seed say so",
            advice="lower its lr until every seed gets to the end",
            evidence=titles.LOSS,
        )
        return
    first, second = ((name, [lines[k] for k in shared]) for name, lines in sides)
    yield _ranked(first, second, alone=True)


def _seed(subject: Subject) -> int:
    return 0 if subject.trial is None else subject.trial.seed


def _unseeded(subject: Subject) -> str:
    """The name of a subject without that of its seed."""
    return subject.name.removesuffix(f" seed {_seed(subject)}")


def _curves(subject: Subject) -> dict[int, Curve]:
    """The curve of a subject and those of its other seeds that got as far or diverged, by seed."""
    records = {_seed(subject): subject.metrics, **subject.others}
    lines = {seed: curve(seen) for seed, seen in records.items() if seen}
    lines = {seed: line for seed, line in lines.items() if line.losses}
    own = lines.get(_seed(subject))
    return {
        seed: line
        for seed, line in lines.items()
        if line is own or not line.finished or (own and line.steps == own.steps)
    }


def _went_on(subject: Subject, lines: Mapping[int, Curve]) -> bool:
    """Whether a subject itself has a curve that did not diverge."""
    own = lines.get(_seed(subject))
    return own is not None and own.finished


def _ranked(one: _Side, other: _Side, *, alone: bool) -> Finding:
    """The finding on the lower of two sides, and how soon it reaches the other's end.

    Args:
        one: the name of a side and its curves, of one seed or of several.
        other: the other side, of the same seeds.
        alone: whether neither side has a seed that the other lacks.
    """
    sides = [(name, mean_curve(lines), lines) for name, lines in (one, other)]
    (worse, above, highs), (better, below, lows) = sorted(sides, key=lambda s: -s[1].losses[-1])
    high, low = above.losses[-1], below.losses[-1]
    gap = 1 - low / high
    seeds = len(lows)
    wins = sum(x.losses[-1] < y.losses[-1] for x, y in zip(lows, highs, strict=True))
    what = f"{better} ends at {low:.3f}, {gap:.1%} below {worse} ({high:.3f})"
    if seeds > 1:
        what += f" in the mean of {seeds} seeds"
    step, _ = reached(below, high)
    if step is not None and step < below.steps[-1]:
        what += f", and reaches {worse}'s final loss at step {step} of {above.steps[-1]}"
    if above.steps[-1] != below.steps[-1]:
        what += f". They end at different steps, {below.steps[-1]} and {above.steps[-1]}"
    if seeds == 1:
        why, advice = _of_one_seed(better, equal=gap < EQUAL, alone=alone)
    else:
        why, advice = _of_seeds(better, wins=wins, seeds=seeds, equal=gap < EQUAL)
    clear = gap >= EQUAL and wins == seeds
    return Finding(
        what=what,
        confidence="likely" if clear else "a hint",
        why=why,
        advice=advice,
        evidence=titles.LOSS,
        change=clear,
    )


def _of_one_seed(better: str, *, equal: bool, alone: bool) -> tuple[str, str]:
    """The reason and the advice where there is one curve on each side."""
    again = f"train both with the same seeds, {SEEDS}, and compare again"
    if equal:
        why = "one seed each, and seeds differ by about as much"
        return why, f"the difference is too small. To tell them apart {again}"
    advice = f"take the settings of {better}, once a second seed says the same"
    return "one seed each, on the same validation windows", advice if alone else again


def _of_seeds(better: str, *, wins: int, seeds: int, equal: bool) -> tuple[str, str]:
    """The reason and the advice where both sides have the same seeds."""
    why = f"it is lower with {wins} of {seeds} seeds, on the same validation windows"
    if wins < seeds:
        return why, "the seeds disagree. To tell the two apart train both with more seeds"
    if equal:
        return why, "the difference is small with every seed"
    return why, f"take the settings of {better}"


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
    """The subject with the lowest final loss, the mean of its seeds."""

    def final(subject: Subject) -> float:
        lines = _curves(subject)
        if not (_went_on(subject, lines) and all(line.finished for line in lines.values())):
            return float("inf")
        return fmean(line.losses[-1] for line in lines.values())

    return min(subjects, key=final)
