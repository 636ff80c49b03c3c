"""The report of a run: curves, the table of optimizers, and the files that keep them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median

from steepest._common.errors import invalid
from steepest._common.files import Record, write_atomic, write_json
from steepest.apps.train.config import Config
from steepest.apps.train.metrics import METRICS, read_figures
from steepest.apps.train.trial import Trial, diverged

# The first steps pay for allocations and caches, which a median of few steps would show.
SKIP = 5


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """One optimizer of the final table; the fields of an object in `summary.json`.

    Args:
        optimizer: its name.
        steps: the number of steps taken.
        val_loss: final validation loss in nats per character; None if the run diverged.
        seconds: sum of the steps' times; evaluation, checkpoints and metrics are left out.
        step_ms: median time of a step, the first five left out.
        optimizer_ms: median time of the optimizer in a step, the first five left out.
        steps_to_baseline: the first evaluated step with at most the baseline's final loss; None
            if there is none.
        seconds_to_baseline: training time up to that step.
    """

    optimizer: str
    steps: int
    val_loss: float | None
    seconds: float
    step_ms: float
    optimizer_ms: float
    steps_to_baseline: int | None
    seconds_to_baseline: float | None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Validation loss of one trial, or the mean over the seeds of one optimizer.

    Args:
        steps: the steps where it was evaluated.
        seconds: training time at these steps.
        losses: validation loss there; low and high are the extremes over the seeds.
        finished: whether it went to the end; a diverged trial did not.
    """

    steps: tuple[int, ...]
    seconds: tuple[float, ...]
    losses: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    finished: bool


def curve(records: Sequence[Record]) -> Curve:
    """The validation curve of a trial's metrics."""
    seen = [r for r in records if r.get("val_loss") is not None]
    losses = tuple(r["val_loss"] for r in seen)
    return Curve(
        steps=tuple(r["step"] for r in seen),
        seconds=tuple(r["seconds"] for r in seen),
        losses=losses,
        low=losses,
        high=losses,
        finished=not diverged(records[-1]),
    )


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean over seeds, as far as all of them go."""
    # A diverged trial ends early, and zip cuts the others to its length.
    losses = list(zip(*(c.losses for c in curves), strict=False))
    return Curve(
        steps=min((c.steps for c in curves), key=len),
        seconds=tuple(map(fmean, zip(*(c.seconds for c in curves), strict=False))),
        losses=tuple(map(fmean, losses)),
        low=tuple(map(min, losses)),
        high=tuple(map(max, losses)),
        finished=all(c.finished for c in curves),
    )


def baseline(optimizers: Sequence[str]) -> str:
    """The optimizer that the others are measured against.

    Examples:
        >>> baseline(["adamw", "muon"]), baseline(["muon", "sgd"])
        ('adamw', 'sgd')
    """
    return "adamw" if "adamw" in optimizers else optimizers[-1]


def reached(line: Curve, target: float | None) -> tuple[int | None, float | None]:
    """Step and seconds of the first evaluation with a loss of at most `target`."""
    points = zip(line.steps, line.seconds, line.losses, strict=True)
    for step, seconds, loss in points:
        if target is not None and loss <= target:
            return step, seconds
    return None, None


def row(
    name: str, line: Curve, records: Sequence[Sequence[Record]], target: float | None
) -> SummaryRow:
    """The table's row for an optimizer, from the metrics of its trials and their mean curve."""
    taken = [[r for r in trial if r["step"] > 0] for trial in records]

    def typical(key: str) -> float:
        return fmean(median([r[key] for r in t[SKIP:] or t]) for t in taken)

    steps, seconds = reached(line, target)
    return SummaryRow(
        optimizer=name,
        steps=min(t[-1]["step"] for t in taken),
        val_loss=line.losses[-1] if line.finished else None,
        seconds=fmean(t[-1]["seconds"] for t in taken),
        step_ms=typical("step_ms"),
        optimizer_ms=typical("optimizer_ms"),
        steps_to_baseline=steps,
        seconds_to_baseline=seconds,
    )


@dataclass(frozen=True, kw_only=True)
class Report:
    """All results of a run.

    Args:
        rows: one per optimizer, means over the seeds.
        runs: one per trial, the baseline being that of the same seed.
        curves: the mean curve of each optimizer, in the order of `rows`.
        baseline: name of the optimizer that the others are measured against.
        seeds: the number of seeds that the means are taken over.
    """

    rows: tuple[SummaryRow, ...]
    runs: tuple[tuple[int, SummaryRow], ...]
    curves: tuple[Curve, ...]
    baseline: str
    seeds: int


def _final(line: Curve) -> float | None:
    return line.losses[-1] if line.finished else None


def _is_whole(records: Sequence[Record]) -> bool:
    """Whether the metrics of a trial have a step, and all that the report takes from one."""
    taken = [r for r in records if r["step"]]
    numbers = ("seconds", "step_ms", "optimizer_ms")
    return bool(taken) and all(isinstance(r.get(k), int | float) for r in taken for k in numbers)


def make_report(run: Path, config: Config) -> Report:
    """Read the metrics of a finished run.

    Raises:
        ValueError: those of a trial are missing or damaged.
    """
    names = list(config.optimizers)
    base = baseline(names)
    records = {
        (name, seed): read_figures(Trial(optimizer=name, seed=seed).folder(run))
        for name in names
        for seed in config.seeds
    }
    for (name, seed), own in records.items():
        if not _is_whole(own):
            path = Trial(optimizer=name, seed=seed).folder(run) / METRICS
            raise invalid("file", str(path), "is missing or damaged; put it back and resume")
    lines = {key: curve(value) for key, value in records.items()}
    means = {name: mean_curve([lines[name, s] for s in config.seeds]) for name in names}
    target = _final(means[base])
    return Report(
        rows=tuple(
            row(name, means[name], [records[name, s] for s in config.seeds], target)
            for name in names
        ),
        runs=tuple(
            (seed, row(name, lines[name, seed], [records[name, seed]], _final(lines[base, seed])))
            for name in names
            for seed in config.seeds
        ),
        curves=tuple(means[name] for name in names),
        baseline=base,
        seeds=len(config.seeds),
    )


def headings(report: Report) -> tuple[str, ...]:
    """The columns of the table; "to adamw" means to AdamW's final loss."""
    return (
        "optimizer",
        "val loss",
        "seconds",
        "ms/step",
        "optimizer ms/step",
        f"steps to {report.baseline}",
        f"seconds to {report.baseline}",
    )


def cells(line: SummaryRow) -> tuple[str, ...]:
    """A row of the table as text."""
    to_steps, to_seconds = line.steps_to_baseline, line.seconds_to_baseline
    loss = f"diverged at step {line.steps}" if line.val_loss is None else f"{line.val_loss:.3f}"
    return (
        line.optimizer,
        loss,
        f"{line.seconds:.1f}",
        f"{line.step_ms:.1f}",
        f"{line.optimizer_ms:.1f}",
        "not reached" if to_steps is None else str(to_steps),
        "not reached" if to_seconds is None else f"{to_seconds:.1f}",
    )


def markdown(report: Report) -> str:
    """The table for a README."""
    lines = [headings(report), ("---", *["---:"] * 6), *map(cells, report.rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_report(run: Path, report: Report) -> None:
    """Write `summary.json`, `runs.json` and `table.md`.

    Raises:
        OSError: the disk is full.
    """
    write_json(run / "runs.json", [{"seed": seed, **asdict(r)} for seed, r in report.runs])
    write_atomic(run / "table.md", markdown(report).encode())
    write_json(run / "summary.json", [asdict(r) for r in report.rows])
