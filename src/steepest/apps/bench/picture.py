"""How fast every contender is on every set, as one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from steepest.apps import _figures as figures
from steepest.apps.bench.contenders import FLOOR
from steepest.apps.bench.measure import ABSENT, MEASURED, ContenderRow, Result
from steepest.apps.bench.report import number, reason, title

COLUMNS = 2
TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
DECADES = (0.001, 0.01, 0.1, 1, 10, 100, 1000)
SLOWEST = 0.1
"""End of the bars of slower contenders, so that the others can be told apart."""
BAR = 0.62
SMALL = 8.5
OURS = ("steepest.", "Auto(")


def colour(row: ContenderRow) -> str:
    """This library's optimizers and its own choice of method in blue, everything else in grey."""
    return figures.BLUE if row.name.startswith(OURS) else figures.GREY


def _limits(results: Sequence[Result]) -> tuple[float, float]:
    """A common range of speeds, with room for the words at the ends of the bars."""
    rows = [r for result in results for r in result.rows]
    speeds = [1.0, *(r.speed for r in rows if r.speed is not None)]
    low, high = max(SLOWEST, min(speeds)), max(speeds)
    room = 1.15 * (high / low) ** 0.12
    return low / (room if low in (1, SLOWEST) else room**2), high * room


def _ticks(low: float, high: float) -> list[float]:
    """Round speeds in between, so few that their names do not touch."""
    found = [t for t in TICKS if low < t < high]
    return found if len(found) <= 5 else [t for t in DECADES if low < t < high] or found[::2]


def _row(axes: Axes, y: int, row: ContenderRow) -> None:
    """One contender: a bar from 1 to its speed, or why there is none; its error at the right."""
    small: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": SMALL}
    if row.status != MEASURED or row.speed is None:
        kept: dict[str, Any] = {"ha": "left", "color": figures.GREY, "style": "italic"}
        axes.annotate(reason(row), (1, y), (5, 0), **small, **kept)
        return
    # From 1, so that a slower contender points the other way.
    axes.barh(y, row.speed - 1, left=1, height=BAR, color=colour(row), zorder=2)
    once = ", once" if row.once else ""
    cut = row.speed < SLOWEST
    speed = f"{'← ' if cut else ''}{number(row.speed, 2 if row.speed < 10 else 3)}×{once}"
    # Beside the end of the bar, and on the other side of 1 where there is no room.
    away = row.speed < 1 and not (cut or once)
    side, ha = (-4, "right") if away else (4, "left")
    end = row.speed if away else max(1.0, row.speed)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # over the line of the floor
    axes.annotate(speed, (end, y), (side, 0), ha=ha, color=figures.INK, bbox=box, **small)
    right = axes.get_yaxis_transform()
    axes.text(
        1.12, y, number(row.error, 2), transform=right, ha="right", va="center", fontsize=SMALL
    )


def _panel(axes: Axes, result: Result, names: Sequence[str], limits: tuple[float, float]) -> None:
    """One set."""
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    found = {row.name: row for row in result.rows}
    for y, name in enumerate(names):
        if name in found:
            _row(axes, y, found[name])
    top: dict[str, Any] = {
        "xycoords": ("data", "axes fraction"),
        "textcoords": "offset points",
        "fontsize": SMALL,
    }
    floor = found.get(FLOOR)
    if floor is not None and floor.speed is not None:
        axes.axvline(floor.speed, color=figures.ORANGE, linewidth=1.2, linestyle="--", zorder=1)
        axes.annotate("floor", (floor.speed, 1), (0, 2), ha="center", color=figures.ORANGE, **top)
    axes.text(1.12, 1, "error", transform=axes.transAxes, ha="right", va="bottom", fontsize=SMALL)
    axes.axvline(1, color=figures.INK, linewidth=0.9, zorder=3)
    axes.set_title(title(result.set), loc="left", fontweight="bold", pad=15)
    axes.xaxis.set_major_locator(FixedLocator(_ticks(*limits)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(length=0)
    figures.graph(axes)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def without_row(rows: Sequence[ContenderRow]) -> list[str]:
    """The contenders without a row, a line for each reason.

    Examples:
        >>> rows = [ContenderRow(name=n, note="", status=ABSENT, message="left out") for n in "ab"]
        >>> without_row(rows)
        ['left out: a, b']
    """
    names: dict[str, dict[str, None]] = {}
    for row in rows:
        names.setdefault(reason(row), {})[row.name] = None
    return [f"{why}: {', '.join(found)}" for why, found in names.items()]


def draw(results: Sequence[Result]) -> bytes:
    """One bench over its sets, as PNG: speeds on a logarithmic axis, errors beside them."""
    # A contender that is absent everywhere is named below the panels, with the reason.
    rows_of = [r for x in results for r in x.rows if r.name != FLOOR]
    there = {r.name for r in rows_of if r.status != ABSENT}
    names = [name for name in dict.fromkeys(r.name for r in rows_of) if name in there]
    missing = without_row([r for r in rows_of if r.name not in there])
    # Three panels in a row rather than two rows with a hole.
    columns = len(results) if len(results) <= 3 else COLUMNS
    rows = math.ceil(len(results) / columns)
    limits = _limits(results)
    with figures.plot_style():
        figure = figures.new_figure(0.55 + rows * (0.75 + 0.25 * len(names)))
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for axes, result in zip(panels.flat, results, strict=False):
            _panel(axes, result, names, limits)
        for axes in panels.flat[len(results) :]:
            axes.set_axis_off()
        first = results[0]
        figure.supxlabel(
            f"times as fast as {first.baseline}, and the largest relative error "
            f"of a polar factor ({first.data})" + "".join(f"\n{line}" for line in missing),
            fontsize=9,
            color=figures.INK,
        )
        return figures.png(figure)
