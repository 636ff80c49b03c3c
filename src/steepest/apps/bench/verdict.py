"""The table of a bench in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steepest.apps.bench.contenders import FLOOR
from steepest.apps.bench.measure import MEASURED, ContenderRow, Result
from steepest.apps.bench.report import number, title

OURS = {"steps": "steepest.Muon", "methods": "Auto(error=0.05)"}
"""The row of each bench that stands for this library: its default."""
EQUAL = 1.03
"""Up to this factor two contenders are about as fast: other runs may turn them round."""


def factor(ratio: float) -> str:
    """A ratio of two speeds in words.

    Examples:
        >>> factor(2.849), factor(0.8), factor(1.01)
        ('2.85 times as fast as', '0.800 times as fast as', 'about as fast as')
    """
    if 1 / EQUAL <= ratio <= EQUAL:
        return "about as fast as"
    return f"{number(ratio)} times as fast as"


def _pace(ours: ContenderRow, theirs: ContenderRow) -> float:
    """How many times as fast one row is as another, by the speeds of the table if it has them."""
    if ours.speed and theirs.speed:
        return ours.speed / theirs.speed
    return (theirs.ms or 0.0) / (ours.ms or 1.0)


def _errors(rows: Sequence[ContenderRow]) -> str:
    """The errors of these rows in a sentence; nothing without any."""
    found = [f"{number(r.error, 2)} of {r.name}" for r in rows if r.error is not None]
    return f"Errors: {', '.join(found)}." if found else ""


def _floor(floor: ContenderRow, rows: Sequence[ContenderRow], dtype: str) -> str:
    """How far these rows are from the floor."""
    far = " and ".join(f"{r.name} takes {number(r.floors)} times" for r in rows if r.floors)
    return f"{far} the floor, two products in {dtype} ({number(floor.ms)} ms)."


def _once(result: Result, rows: Sequence[ContenderRow]) -> list[str]:
    """A sentence on times that are those of one step."""
    names = [r.name for r in rows if r.once]
    if not names:
        return []
    limit = f" of {result.patience:g} s" if result.patience else ""
    text = f"One step only, as it took longer than the patience{limit}: {', '.join(names)}."
    if result.baseline in names:
        text += f" Every factor over {result.baseline} comes from that one time."
    return [text]


def verdict(result: Result) -> list[str]:
    """A few sentences on one bench of one set.

    Who is fastest, by how much over the baseline and this library's default, how far from the
    floor, and whether the default is slower than the baseline.
    """
    found = {r.name: r for r in result.rows if r.status == MEASURED and r.ms is not None}
    floor = found.pop(FLOOR, None)
    baseline, ours = found.get(result.baseline), found.get(OURS.get(result.bench, ""))
    if not found:
        return ["No contender has a time."]
    fastest = max(found.values(), key=lambda r: (r.speed or 0.0, -(r.ms or 0.0)))
    others = [r for r in (baseline, ours) if r is not None and r is not fastest]
    beaten = " and ".join(f"{factor(_pace(fastest, r))} {r.name}" for r in others)
    out = [f"{fastest.name} is the fastest{f': {beaten}' if beaten else ''}."]
    if baseline and ours and ours is not fastest:
        pace = _pace(ours, baseline)
        if pace < 1 / EQUAL:
            out.append(
                f"{ours.name} is slower than {baseline.name} here: it takes "
                f"{number(1 / pace)} times as long."
            )
        elif fastest is not baseline:
            out.append(f"{ours.name} is {factor(pace)} {baseline.name}.")
    shown = [fastest, *([ours] if ours is not None and ours is not fastest else [])]
    if floor:
        out.append(_floor(floor, shown, result.floor_type))
    errors = _errors([*shown, *([baseline] if baseline and baseline not in shown else [])])
    return [*out, *([errors] if errors else []), *_once(result, list(found.values()))]


def verdicts(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The sentences on every result, as plain data."""
    return [{"set": r.set, "bench": r.bench, "sentences": verdict(r)} for r in results]


def lines(results: Sequence[Result]) -> list[str]:
    """A line for each result."""
    return [f"{title(r.set)}, {r.bench}: {' '.join(verdict(r))}" for r in results]
