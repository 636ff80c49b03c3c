"""The pictures of what a run has recorded: losses, spectra, ranks, updates, activations."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    NullFormatter,
    NullLocator,
    PercentFormatter,
)

from steepest._common.files import Record
from steepest.apps._figures import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    SILVER,
    SKY,
    YELLOW,
    graph,
    new_figure,
    png,
)
from steepest.apps.diagnose.records import Curves, LayerHistory, Numbers
from steepest.apps.train.spectra import chosen

Colour = str | tuple[float, float, float, float]

COLOURS = (ORANGE, BLUE, GREEN, PURPLE, YELLOW, SKY, INK)
COLUMNS, PANELS, ROWS = 4, 24, 48
"""Panels of a row, the most panels of a picture, and the most layers in its rows."""
CURVES = 5
"""Steps that are shown at once."""
SMALL = 8


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture and what it shows, for those who do not see it.

    Args:
        png: the file.
        alt: its content in words.
    """

    png: bytes
    alt: str


def finished(figure: Figure, alt: str) -> Picture:
    """The picture of a figure; the page lends it its background."""
    for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
        patch.set_visible(False)
    return Picture(png=png(figure), alt=alt)


def spaced(count: int, most: int) -> list[int]:
    """Choose at most `most` places of `count`, evenly spaced, the first and the last among them.

    Examples:
        >>> spaced(9, 3), spaced(2, 3)
        ([0, 4, 8], [0, 1])
    """
    return sorted({round(k) for k in np.linspace(0, count - 1, min(most, count))})


def in_order(count: int) -> list[Colour]:
    """Colours in an order that is seen, from dark to bright; too bright ones are left out."""
    return [colormaps["viridis"](0.88 * i / max(count - 1, 1)) for i in range(count)]


def logarithmic(axes: Axes, values: Numbers, which: str) -> None:
    """An axis by factors where values differ by more than ten; NaN and zeros do not count."""
    seen = values[np.isfinite(values) & (values > 0)]
    if not seen.size or seen.max() / seen.min() <= 10:
        return
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    near = seen.max() / seen.min() <= 300
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if near else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def losses(records: Mapping[str, Sequence[Record]]) -> Picture | None:
    """Loss of the minibatches, faint, and validation loss over the steps; None without any."""
    figure = new_figure(3.2)
    axes = figure.subplots()
    shown = []
    for (name, lines), colour in zip(records.items(), COLOURS * len(records), strict=False):
        for key, settings in (
            ("loss", {"alpha": 0.35, "linewidth": 0.8}),
            ("val_loss", {"linewidth": 1.8, "label": name}),
        ):
            points = [(r["step"], r[key]) for r in lines if r.get(key) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, **settings)
                shown.append(f"{name}: {key} {points[-1][1]:.3f} at step {points[-1][0]}")
    if not shown:
        return None
    graph(axes)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per character)")
    axes.set_xlim(left=0)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(title="validation; faint: minibatches", title_fontsize=SMALL, fontsize=9)
    return finished(figure, f"Loss over the steps. {'; '.join(shown)}.")


def spectra(curves: Curves) -> Picture:
    """A panel per layer: its magnitudes in falling order, a line for each of some steps."""
    names = list(curves.values)
    names = [names[i] for i in chosen(names, PANELS)]
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(1.55 * rows + 0.9)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    every = sorted({step for name in names for step in curves.values[name]})
    steps = [every[i] for i in spaced(len(every), CURVES)]
    floor = _floor([v for name in names for v in curves.values[name].values()])
    for axes in list(grid.flat)[len(names) :]:
        axes.remove()
    for name, axes in zip(names, grid.flat, strict=False):
        for step, colour in zip(steps, in_order(len(steps)), strict=True):
            values = curves.values[name].get(step)
            if values is not None:
                x = np.linspace(0, 1, len(values)) if len(values) > 1 else np.array([0.0])
                axes.plot(x, np.maximum(values, floor), color=colour, label=f"step {step}")
        if name in curves.limits:
            axes.axhline(curves.limits[name], color=ORANGE, linewidth=1, label="radius of the ball")
        graph(axes)
        axes.set_title(name, fontsize=SMALL)
        axes.tick_params(labelsize=7)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xticks((0.0, 0.5, 1.0))
    grid[0, 0].set_yscale("log")
    for axes in grid.flat:
        axes.yaxis.set_minor_locator(NullLocator())  # half of the time goes into small ticks
    figure.supxlabel(f"place among the {curves.what}, from the largest to the smallest", fontsize=9)
    figure.supylabel(curves.what, fontsize=9)
    _one_legend(figure, [axes for axes in grid.flat if axes.figure is not None])
    what = f"{curves.what.capitalize()} of {len(names)} layers in falling order"
    return finished(figure, f"{what} at the steps {', '.join(map(str, steps))}.")


def _floor(values: Sequence[Numbers]) -> float:
    """The magnitude that smaller ones are drawn as: the smallest of a square matrix say nothing."""
    top = max((float(np.nanmax(v)) for v in values if np.isfinite(v).any()), default=1.0)
    return max(1e-4 * top, 1e-30)


def _one_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    found: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(
        list(found.values()), list(found), loc="outside upper center", ncols=6, fontsize=SMALL
    )


def ranks(grids: Mapping[str, LayerHistory], sides: Mapping[str, int]) -> Picture:
    """A heat map for each quantity: nuclear rank of a layer at a step, the newest in figures.

    Args:
        grids: title to nuclear ranks.
        sides: the smaller side of each layer, the most that a rank can be; ranks of layers that are
            all there are drawn as a share of it.
    """
    every = list(dict.fromkeys(layer for g in grids.values() for layer in g.layers))
    every = [layer for layer in every if sides.get(layer, 2) > 1]
    layers = [every[i] for i in chosen(every, ROWS)]
    relative = all(layer in sides for layer in layers)
    shares = {title: _rows(g, layers, sides if relative else {}) for title, g in grids.items()}
    seen = np.concatenate([v[np.isfinite(v)] for v in shares.values()])
    low, high = (float(seen.min()), 1.0) if relative else (1.0, float(seen.max()))
    norm = LogNorm(min(low, 0.5 * high), high)
    figure = new_figure(max(2.4, 0.19 * len(layers) + 1.1))
    panels = figure.subplots(1, len(grids), sharey=True, squeeze=False)[0]
    for axes, (title, values) in zip(panels, shares.items(), strict=True):
        steps = grids[title].steps
        mesh = axes.pcolormesh(
            _edges(steps), np.arange(len(layers) + 1), values, cmap="YlGnBu", norm=norm
        )
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.spines[:].set_visible(False)
        axes.tick_params(left=False, labelsize=SMALL)
        _figures(axes, values, relative=relative)
    panels[0].set_yticks(np.arange(len(layers)) + 0.5, layers, fontsize=SMALL)
    panels[0].invert_yaxis()
    bar = figure.colorbar(mesh, ax=list(panels), pad=0.02, fraction=0.03, aspect=40)
    unit = PercentFormatter(1.0, decimals=0) if relative else FuncFormatter(lambda v, _: f"{v:g}")
    bar.ax.yaxis.set_major_formatter(unit)
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    bar.outline.set_visible(False)
    bar.set_label("nuclear rank / smaller side" if relative else "nuclear rank", fontsize=9)
    titles = ", ".join(grids)
    return finished(
        figure,
        f"Heat map of the nuclear rank of {titles} for {len(layers)} layers over the steps.",
    )


def _rows(grid: LayerHistory, layers: Sequence[str], sides: Mapping[str, int]) -> Numbers:
    """The rows of these layers, each over its smaller side where that is given."""
    known = dict(zip(grid.layers, grid.values, strict=True))
    empty = np.full(len(grid.steps), math.nan)
    return np.stack([known.get(layer, empty) / sides.get(layer, 1) for layer in layers])


def _edges(steps: Numbers) -> Numbers:
    """The begin and end of each step's cell: in the middle to its neighbours."""
    if len(steps) == 1:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    middle = (steps[1:] + steps[:-1]) / 2
    first, last = 2 * steps[0] - middle[0], 2 * steps[-1] - middle[-1]
    return np.concatenate([[first], middle, [last]])


def _figures(axes: Axes, values: Numbers, *, relative: bool) -> None:
    """The newest value of each row beside it."""
    right = axes.get_xlim()[1]
    for i, row in enumerate(values):
        if np.isfinite(row[-1]):
            text = f" {row[-1]:.0%}" if relative else f" {row[-1]:.3g}"
            axes.text(right, i + 0.5, text, fontsize=7, va="center", color=INK, clip_on=False)


NAMED = 3
"""The lines of a picture that have a name."""


def updates(ratio: LayerHistory) -> Picture:
    """Update over weight of each layer over the steps; the furthest from the others have names."""
    figure = new_figure(3.4)
    axes = figure.subplots()
    named = outliers(ratio, NAMED)
    for place, row in enumerate(ratio.values):
        if place not in named:
            axes.plot(ratio.steps, row, color=SILVER, linewidth=0.8, alpha=0.8)
    for place, colour in zip(named, COLOURS, strict=False):
        name, row = ratio.layers[place], ratio.values[place]
        axes.plot(ratio.steps, row, color=colour, linewidth=1.6, label=name)
    logarithmic(axes, ratio.values, "y")
    graph(axes)
    axes.set_xlabel("step")
    axes.set_ylabel("‖ΔW‖ / ‖W‖, each in its layer's norm")
    figure.legend(loc="outside upper center", ncols=NAMED, fontsize=SMALL)
    names = ", ".join(ratio.layers[place] for place in named)
    return finished(
        figure,
        f"Update over weight of {len(ratio.layers)} layers over the steps; furthest from the "
        f"others: {names}.",
    )


def outliers(ratio: LayerHistory, most: int) -> list[int]:
    """The rows that are furthest from the others, by factors, in the median over the steps."""
    logs = np.log(np.where(ratio.values > 0, ratio.values, math.nan))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a row or a column of NaN alone
        apart = np.abs(np.nanmedian(logs - np.nanmedian(logs, axis=0), axis=1))
    order = np.argsort(-np.nan_to_num(apart, nan=-1.0), kind="stable")
    return [int(place) for place in order[:most]]


def depth(outputs: LayerHistory, gains: LayerHistory | None) -> Picture:
    """RMS of the outputs of each module from the first to the last, at some steps.

    Args:
        outputs: RMS of what a module gives.
        gains: RMS out over RMS in, for a second panel; None for none.
    """
    every = list(outputs.layers)
    names = [every[i] for i in chosen(every, ROWS)]
    grids = {"RMS of the outputs": outputs}
    if gains is not None:
        grids["RMS out / RMS in of the layers with a matrix"] = gains
    places = spaced(len(outputs.steps), 3)
    figure = new_figure(max(2.6, 0.17 * len(names) + 1.2))
    panels = list(figure.subplots(1, len(grids), sharey=True, squeeze=False)[0])
    y = np.arange(len(names))
    for axes, (title, grid) in zip(panels, grids.items(), strict=True):
        rows = _rows(grid, names, {})
        for place, colour in zip(places, in_order(len(places)), strict=True):
            step = outputs.steps[place]
            found = rows[:, grid.steps == step]
            if found.size:
                x, label = found[:, 0], f"step {step:g}"
                # No line from one module to the next: they are of several kinds.
                axes.plot(x, y, "o", color=colour, markersize=4, label=label)
        logarithmic(axes, rows, "x")
        graph(axes)
        axes.set_title(title)
        axes.tick_params(labelsize=SMALL)
    if gains is not None:
        panels[-1].axvline(1.0, color=ORANGE, linewidth=1)
    panels[0].set_yticks(y, names, fontsize=SMALL)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    _one_legend(figure, panels)
    steps = ", ".join(f"{outputs.steps[p]:g}" for p in places)
    return finished(
        figure, f"RMS of the outputs of {len(names)} modules through depth at the steps {steps}."
    )
