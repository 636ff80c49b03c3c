"""The pictures of what a checkpoint says: directions held against each other, and verdicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from steepest.apps._figures import BLUE, FAINT, GREY, ORANGE, graph, new_figure
from steepest.apps.diagnose.pictures import COLOURS, ROWS, SMALL, Picture, finished, logarithmic
from steepest.apps.diagnose.records import Numbers
from steepest.apps.train.constraint import layer
from steepest.apps.train.spectra import chosen
from steepest.diagnostics import DirectionReport, QuadraticModel, Verdict

MARKERS = "oDsv^PX"
WHOLE = "all together"

NAMES: Mapping[str, str] = {
    "gradient": "gradient",
    "sign": "sign",
    "muon": "Muon (exact)",
    "newton-schulz": "Muon (Newton–Schulz)",
    "adam": "Adam",
}
"""A reader's name of each direction."""


def called(direction: str) -> str:
    """A direction as a reader calls it.

    Examples:
        >>> called("muon"), called("mine")
        ('Muon (exact)', 'mine')
    """
    return NAMES.get(direction, direction)


def directions(report: DirectionReport) -> Picture:
    """A row per layer, a mark per direction: best decrease on the left, curvature on the right."""
    every = list(report.layers)
    layers = ["", *(every[i] for i in chosen(every, ROWS))]
    figure = new_figure(max(2.6, 0.23 * len(layers) + 1.3))
    left, right = figure.subplots(1, 2, sharey=True)
    _marks(left, report, layers, _decrease)
    _marks(right, report, layers, _curvature)
    left.set_title("best decrease of the loss: further right is better")
    right.set_title("dᵀHd/‖d‖², the sharpness of a step of length 1")
    names = [layer(name) if name else WHOLE for name in layers]
    left.set_yticks(range(len(layers)), names, fontsize=SMALL)
    left.set_ylim(len(layers) - 0.5, -0.5)
    for text in left.get_yticklabels()[:1]:
        text.set_fontweight("bold")
    for axes in (left, right):
        axes.axhline(0.5, color=GREY, linewidth=0.8)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9)
    return finished(
        figure,
        f"Best decrease and sharpness along {', '.join(map(called, report.directions))}, for the "
        f"whole and for {len(layers) - 1} layers.",
    )


def _decrease(row: QuadraticModel) -> float:
    return math.nan if row.best_decrease is None else row.best_decrease


def _curvature(row: QuadraticModel) -> float:
    return row.curvature if row.curvature > 0 else math.nan


def _marks(
    axes: Axes,
    report: DirectionReport,
    layers: Sequence[str],
    value: Callable[[QuadraticModel], float],
) -> None:
    """The numbers of every direction; rows without one stay without a mark."""
    every = []
    for direction, marker, colour in zip(report.directions, MARKERS, COLOURS, strict=False):
        rows = [report.rows.get((direction, name)) for name in layers]
        x = np.array([math.nan if row is None else value(row) for row in rows])
        every.append(x)
        axes.plot(
            x, range(len(layers)), marker, color=colour, markersize=5, label=called(direction)
        )
    _finish(axes, np.stack(every))


def _finish(axes: Axes, numbers: Numbers) -> None:
    """A line in each row from its smallest to its largest mark; numbers are (marks, rows)."""
    for place in np.flatnonzero(np.isfinite(numbers).any(axis=0)):
        ends = np.nanmin(numbers[:, place]), np.nanmax(numbers[:, place])
        axes.plot(ends, (place, place), "-", color=FAINT, linewidth=1.5, zorder=0)
    logarithmic(axes, numbers, "x")
    graph(axes)
    axes.grid(visible=False, axis="y")
    axes.tick_params(labelsize=SMALL)


def verdict(found: Verdict) -> Picture | None:
    """A row per layer: nuclear rank of the gradient and spread of the input; None without any."""
    rows = [row for row in found if row.judged]
    if not rows:
        return None
    rows = [rows[i] for i in chosen([row.layer for row in rows], ROWS)]
    figure = new_figure(max(2.2, 0.2 * len(rows) + 1.1))
    axes = figure.subplots()
    y = range(len(rows))
    ranks = np.array([row.nuclear_rank for row in rows], dtype=float)
    spreads = np.array([row.spread for row in rows], dtype=float)
    axes.plot(ranks, y, "o", color=ORANGE, markersize=6, label="nuclear rank of the gradient")
    axes.plot(spreads, y, "s", color=BLUE, markersize=5, label="spread of the input")
    _finish(axes, np.stack([ranks, spreads]))
    axes.set_yticks(y, [row.layer for row in rows], fontsize=SMALL)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.legend(fontsize=9)
    return finished(
        figure,
        f"Nuclear rank of the gradient and spread of the input of {len(rows)} layers; Muon's "
        "step guarantees more where the first is larger.",
    )
