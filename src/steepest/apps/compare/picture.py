"""The picture of a comparison: final losses, and how soon each row is where the baseline ends."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from steepest._common.files import Record
from steepest.apps._figures import BLUE, GREY, INK, ORANGE, SILVER, panels
from steepest.apps.compare.names import BASELINE, REFERENCE
from steepest.apps.compare.report import ranked

COLOURS = {BASELINE: BLUE, REFERENCE: ORANGE}
ROW = 0.27
"""Inches of a row of a panel."""
BEYOND = 2.0
"""The end of the axis of losses, in distances of the higher mark from the best loss."""


def draw(rows: Sequence[Record]) -> Figure:
    """Final loss with its interval, and steps to the baseline's loss: a pair of panels per task."""
    tasks = list(dict.fromkeys(r["task"] for r in rows))
    found = {task: ranked([r for r in rows if r["task"] == task]) for task in tasks}
    titles = [
        title
        for task in tasks
        for title in (f"{task}: validation loss", f"{task}: steps to the final loss of {BASELINE}")
    ]
    height = sum(1.1 + ROW * len(own) for own in found.values())
    figure, axes = panels(titles, height=height, rows=len(tasks), shared=False)
    for own, left, right in zip(found.values(), axes[::2], axes[1::2], strict=True):
        _names(left, own)
        _losses(left, own)
        _names(right, [])
        _steps(right, own)
        right.set_ylim(left.get_ylim())
    return figure


def _names(axes: Axes, rows: Sequence[Record]) -> None:
    """The rows from top to bottom."""
    axes.set_yticks(range(len(rows)), [r["optimizer"] for r in rows])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_axisbelow(True)


def limit(rows: Sequence[Record]) -> float:
    """The largest loss of the axis: rows far behind both marks would flatten the rest."""
    losses: list[float] = [r["loss"] for r in rows if r["loss"] is not None]
    marks: list[float] = [
        r["loss"] for r in rows if r["optimizer"] in COLOURS and r["loss"] is not None
    ]
    if not marks or max(marks) == min(losses):
        return max(losses, default=1.0)
    return min(max(losses), min(losses) + BEYOND * (max(marks) - min(losses)))


def window(rows: Sequence[Record], last: float) -> tuple[float, float]:
    """The ends of the axis: all intervals, unless they are much wider than the losses lie apart.

    Args:
        rows: the rows whose losses are on it.
        last: the largest loss that it may have.
    """
    first = min((r["loss"] for r in rows), default=last)
    room = max(last - first, 2 * min((r["half_width"] for r in rows), default=0.0), 1e-3)
    low = min((r["loss"] - r["half_width"] for r in rows), default=first)
    top = max((r["loss"] + r["half_width"] for r in rows), default=last)
    return max(low, first - room), min(top, last + room)


def _losses(axes: Axes, rows: Sequence[Record]) -> None:
    """A dot with its interval for each row; what is beyond the axis stands at its end."""
    whole, last = [r for r in rows if r["loss"] is not None], limit(rows)
    low, top = window([r for r in whole if r["loss"] <= last], last)
    inside = [r for r in whole if r["loss"] <= top]
    margin = 0.04 * (top - low) or 0.5
    for y, row in enumerate(rows):
        colour = COLOURS.get(row["optimizer"], INK)
        if row in inside:
            axes.errorbar(
                row["loss"], y, xerr=row["half_width"], fmt="o", color=colour, capsize=3, ms=5
            )
        else:
            text = "diverged" if row["loss"] is None else f"{row['loss']:.3g} →"
            axes.text(top, y, text, color=colour, ha="right", va="center", fontsize=9)
    for row in inside:
        if row["optimizer"] in COLOURS:
            axes.axvline(
                row["loss"], color=COLOURS[row["optimizer"]], linewidth=0.9, ls=(0, (4, 4))
            )
    axes.set_xlim(low - margin, top + margin)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("nats, mean and 95 % interval")


def _steps(axes: Axes, rows: Sequence[Record]) -> None:
    """A bar for each row that gets there."""
    whole = max(r["steps"] for r in rows)
    for y, row in enumerate(rows):
        steps = row["steps_to_baseline"]
        if steps is None:
            axes.text(0.01 * whole, y, "not reached", color=GREY, va="center", fontsize=9)
            continue
        axes.barh(y, steps, color=COLOURS.get(row["optimizer"], SILVER), height=0.6)
        axes.text(steps + 0.01 * whole, y, f"{steps:.0f}", va="center", fontsize=9)
    axes.set_xlim(0, 1.12 * whole)
    axes.set_xlabel("steps")
