"""How fast every contender is on every set, as one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from steepest.bench.contenders import FLOOR
from steepest.bench.measure import MEASURED, Result, Row
from steepest.bench.report import number, title
from steepest.gallery import style

COLUMNS = 2
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
BAR = 0.62
OURS = ("steepest.", "Auto(")


def colour(row: Row) -> str:
    """This library's optimizers and the default choice in blue, everything else in grey."""
    return style.BLUE if row.name.startswith(OURS) else style.GREY


def _limits(results: Sequence[Result]) -> tuple[float, float]:
    """A common range of speeds, with room for the numbers beside the bars."""
    speeds = [1.0, *(r.speed for result in results for r in result.rows if r.speed is not None)]
    low, high = min(speeds), max(speeds)
    room = (high / low) ** 0.30 * 1.3
    return low / (room if low < 1 else 1.15), high * room


def _bar(axes: Axes, y: int, row: Row, speed: float) -> None:
    """One contender: a bar from 1 to its speed, and its numbers at the end."""
    # From 1, so that a slower contender points the other way.
    axes.barh(y, speed - 1, left=1, height=BAR, color=colour(row), zorder=2)
    ahead = speed >= 1
    error = "" if row.error is None else f"   {number(row.error, 2)}"
    speed_text = f"{number(speed, 2 if speed < 10 else 3)}×"
    axes.annotate(
        f"{speed_text}{error}" if ahead else f"{error.strip()}   {speed_text}",
        (speed, y),
        xytext=(4 if ahead else -4, 0),
        textcoords="offset points",
        ha="left" if ahead else "right",
        va="center",
        fontsize=8.5,
        color=style.INK,
    )


def _panel(axes: Axes, result: Result, names: Sequence[str], limits: tuple[float, float]) -> None:
    """One set."""
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    found = {row.name: row for row in result.rows}
    for y, name in enumerate(names):
        row = found.get(name)
        if row is not None and row.status == MEASURED and row.speed is not None:
            _bar(axes, y, row, row.speed)
        elif row is not None:
            text = row.message if row.status != MEASURED and len(row.message) < 24 else row.status
            axes.annotate(
                text, (1, y), xytext=(4, 0), textcoords="offset points", va="center",
                fontsize=8.5, color=style.GREY, style="italic",
            )  # fmt: skip
    floor = found.get(FLOOR)
    if floor is not None and floor.speed is not None:
        axes.axvline(
            floor.speed, color=style.ORANGE, linewidth=1.2, linestyle=(0, (4, 2)), zorder=1
        )
        axes.annotate(
            "floor", (floor.speed, 1), xycoords=("data", "axes fraction"), xytext=(0, 2),
            textcoords="offset points", ha="center", va="bottom", fontsize=8.5, color=style.ORANGE,
        )  # fmt: skip
    axes.axvline(1, color=style.INK, linewidth=0.9, zorder=3)
    axes.set_title(title(result.set), loc="left", fontweight="bold", pad=14)
    axes.xaxis.set_major_locator(FixedLocator([t for t in TICKS if limits[0] < t < limits[1]]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(length=0)
    style.graph(axes)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def draw(results: Sequence[Result]) -> bytes:
    """One bench over its sets, as PNG: speeds on a logarithmic axis, errors beside them."""
    names = list(dict.fromkeys(r.name for x in results for r in x.rows if r.name != FLOOR))
    columns = min(COLUMNS, len(results))
    rows = math.ceil(len(results) / columns)
    limits = _limits(results)
    with style.look():
        figure = style.new_figure(0.55 + rows * (0.75 + 0.25 * len(names)))
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for axes, result in zip(panels.flat, results, strict=False):
            _panel(axes, result, names, limits)
        for axes in panels.flat[len(results) :]:
            axes.set_axis_off()
        first = results[0]
        figure.supxlabel(
            f"times as fast as {first.baseline}; "
            f"beside it the largest relative error of a polar factor ({first.data})",
            fontsize=9,
            color=style.INK,
        )
        return style.png(figure)
