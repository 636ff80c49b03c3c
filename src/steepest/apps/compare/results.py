"""The tables of a comparison, made from its cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from steepest._common.files import Record
from steepest.apps.bench.rounds import paired_ratio, quartiles
from steepest.apps.compare.names import BASELINE, REFERENCE
from steepest.apps.compare.significance import holm, mean_interval, paired
from steepest.apps.compare.stages import FINAL, TIME, TUNED_FIELDS, mean_loss, tried_losses
from steepest.apps.compare.tuning import best, edges


def _finals(results: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    """The final runs of each task and row."""
    found: dict[tuple[str, str], list[Record]] = {}
    for r in results:
        if r["stage"] == FINAL:
            found.setdefault((r["task"], r["optimizer"]), []).append(r)
    return found


@dataclass(frozen=True, kw_only=True)
class MeanLosses:
    """The validation loss of a row on a task, a mean over its seeds at each evaluation.

    Args:
        steps: the steps after which it was evaluated.
        losses: the means, up to the first one that is not finite.
    """

    steps: Sequence[int]
    losses: Sequence[float]

    def reaches(self, target: float | None) -> float | None:
        """The step at which the loss is a target for the first time, between evaluations linearly.

        Args:
            target: the loss to reach; None is not reached.

        Examples:
            >>> line = MeanLosses(steps=(0, 10, 20), losses=(3.0, 2.0, 1.0))
            >>> line.reaches(1.5), line.reaches(3.0), line.reaches(0.5)
            (15.0, 0.0, None)
        """
        points = list(zip(self.steps, self.losses, strict=True))
        if target is None or not points:
            return None
        if points[0][1] <= target:
            return float(points[0][0])
        for (start, high), (end, low) in pairwise(points):
            if low <= target:
                return start + (end - start) * (high - target) / (high - low)
        return None


def _mean_losses(runs: Sequence[Record]) -> MeanLosses:
    steps, losses = [], []
    for points in zip(*(zip(r["steps"], r["losses"], strict=True) for r in runs), strict=False):
        mean = mean_loss([loss for _, loss in points])
        if mean is None:
            break
        steps.append(points[0][0])
        losses.append(mean)
    return MeanLosses(steps=steps, losses=losses)


def _seconds(results: Sequence[Record]) -> dict[str, Mapping[str, Sequence[float]]]:
    """Seconds of a step in each round, by task and row."""
    return {r["task"]: r["seconds"] for r in results if r["stage"] == TIME}


def timing(results: Sequence[Record]) -> list[Record]:
    """The time of a step of each row: median and quartiles over the rounds, and the ratio."""
    rows = []
    for task, seconds in _seconds(results).items():
        for name, found in seconds.items():
            low, high = quartiles(found)
            ratio = paired_ratio(seconds[BASELINE], found) if BASELINE in seconds else None
            rows.append(
                {
                    "task": task,
                    "optimizer": name,
                    "step_ms": 1e3 * median(found),
                    "low_ms": 1e3 * low,
                    "high_ms": 1e3 * high,
                    "ratio": ratio,
                }
            )
    return rows


def tuning(results: Sequence[Record]) -> list[Record]:
    """The mean loss of every setting that was tried, and which one was taken."""
    rows = []
    for task, name in _finals(results):
        tried = tried_losses(results, task, name)
        chosen = best(tried)
        for tuned, loss in tried.items():
            place = {"task": task, "optimizer": name}
            fields = {k: getattr(tuned, k) for k in TUNED_FIELDS}
            rows.append({**place, **fields, "loss": loss, "chosen": tuned == chosen})
    return rows


def finals(results: Sequence[Record]) -> list[Record]:
    """The final loss of every seed."""
    fields = ("task", "optimizer", "seed", "loss")
    return [{k: r[k] for k in fields} for runs in _finals(results).values() for r in runs]


def curves(results: Sequence[Record]) -> list[Record]:
    """The validation loss on the way, a mean over the seeds."""
    return [
        {"task": task, "optimizer": name, "step": step, "loss": loss}
        for (task, name), runs in _finals(results).items()
        for line in [_mean_losses(runs)]
        for step, loss in zip(line.steps, line.losses, strict=True)
    ]


def comparison(results: Sequence[Record]) -> list[Record]:
    """The outcome of every task and row, in the order of the table of optimizers."""
    runs = _finals(results)
    times = {(r["task"], r["optimizer"]): r for r in timing(results)}
    rows = []
    for task in dict.fromkeys(task for task, _ in runs):
        own = {name: found for (where, name), found in runs.items() if where == task}
        for name, row in _of_task(own):
            timed = times.get((task, name), {})
            step_ms = timed.get("step_ms")
            for mark in ("baseline", "reference"):
                steps = row[f"steps_to_{mark}"]
                known = None not in (steps, step_ms)
                row[f"seconds_to_{mark}"] = steps * step_ms / 1e3 if known else None
            place = {"task": task, "optimizer": name}
            times_of = {"step_ms": step_ms, "time_ratio": timed.get("ratio")}
            rows.append({**place, **row, **times_of, **_tuned(results, task, name)})
    return rows


def _of_task(runs: Mapping[str, Sequence[Record]]) -> Iterator[tuple[str, Record]]:
    """Losses and steps of the rows of a task."""
    losses = {name: [r["loss"] for r in found] for name, found in runs.items()}
    lines = {name: _mean_losses(found) for name, found in runs.items()}
    targets = {name: mean_loss(found) for name, found in losses.items()}
    against = _differences(losses)
    for name, found in losses.items():
        finite, line = _all(found), lines[name]
        mean, half = mean_interval(finite) if finite else (None, None)
        yield (
            name,
            {
                "seeds": len(found),
                "loss": mean,
                "half_width": half,
                **dict(zip(("difference", "p", "p_holm"), against[name], strict=True)),
                "steps": runs[name][0]["steps"][-1],
                "steps_to_baseline": line.reaches(targets.get(BASELINE)),
                "steps_to_reference": line.reaches(targets.get(REFERENCE)),
            },
        )


def _differences(
    losses: Mapping[str, Sequence[float | None]],
) -> dict[str, tuple[float | None, float | None, float | None]]:
    """Difference to the baseline, its p-value and that by Holm; None where a run diverged."""
    whole = {name: own for name, found in losses.items() if (own := _all(found)) is not None}
    base = whole.pop(BASELINE, None)
    found = {} if base is None else {name: paired(own, base) for name, own in whole.items()}
    corrected = dict(zip(found, holm([p for _, p in found.values()]), strict=True))
    return {
        name: (*found[name], corrected[name]) if name in found else (None, None, None)
        for name in losses
    }


def _all(losses: Sequence[float | None]) -> list[float] | None:
    """The losses of all seeds; None if one of them diverged."""
    finite = [loss for loss in losses if loss is not None]
    return finite if len(finite) == len(losses) else None


def _tuned(results: Sequence[Record], task: str, name: str) -> Record:
    """The setting of a row, and what it was chosen from."""
    tried = tried_losses(results, task, name)
    chosen = best(tried)
    return {
        **{k: getattr(chosen, k) for k in TUNED_FIELDS},
        "tried": len(tried),
        "tuning_loss": tried[chosen],
        "edge": edges(tried),
    }
