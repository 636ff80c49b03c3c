"""The picture of what weight decay bounds: the magnitudes of each layer over the run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from steepest._common.files import write_atomic
from steepest.apps._figures import BANDS, BLUE, FAINT, INK, ORANGE, new_figure, png
from steepest.apps.train.config import Config
from steepest.apps.train.constraint import Spectra
from steepest.apps.train.trial import Trial

PICTURE = "spectra.png"
COLUMNS, PANELS = 4, 24
"""Panels of a row, and the most of a picture."""

PARTS = (("all", 0, 100), ("90 %", 5, 95), ("50 %", 25, 75))
"""The part of the magnitudes that a band holds: its percentiles."""

LOW = 0.3
"""A picture whose largest share of the radius is smaller has a logarithmic axis."""


def chosen(names: Sequence[str], most: int = PANELS) -> list[int]:
    """Choose the layers to show: all, or some of each kind, evenly spaced from first to last.

    Examples:
        >>> chosen([f"blocks.{i}.{kind}" for i in range(9) for kind in ("qkv", "fc")], most=6)
        [0, 1, 8, 9, 16, 17]
    """
    if len(names) <= most:
        return list(range(len(names)))
    kinds: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        kinds.setdefault(re.sub(r"\d+", "*", name), []).append(i)
    each = max(1, most // len(kinds))
    spaced = [
        members[round(k)]
        for members in kinds.values()
        for k in np.linspace(0, len(members) - 1, min(each, len(members)))
    ]
    return sorted(spaced[:most])


def draw(spectra: Spectra, title: str) -> bytes:
    """The picture as PNG: a panel per layer, its magnitudes over the radius of its ball."""
    shown = chosen(spectra.names)
    shares = [np.stack(spectra.values[i]) / spectra.limits[i] for i in shown]
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    width, height = 2.5 * max(columns, 2), 1.9 * rows + 1.0
    figure = new_figure(height, width)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(shown):
            axes.remove()
            continue
        _panel(axes, np.array(spectra.steps), shares[place])
        name, limit = spectra.names[shown[place]], spectra.limits[shown[place]]
        axes.set_title(f"{name}, radius {limit:.3g}", fontsize=8, color=INK)
        if place + columns >= len(shown):
            axes.set_xlabel("step", fontsize=8, color=INK)
            axes.tick_params(labelbottom=True)
    _limits(grid[0, 0], shares)
    kinds = ", ".join(dict.fromkeys(spectra.kinds[i] for i in shown))
    title += ": the balls of weight decay"
    if len(shown) < len(spectra.names):
        title += f", {len(shown)} of {len(spectra.names)} layers"
    figure.suptitle(title, fontsize=10, color=INK)
    figure.supylabel(f"{kinds} / radius", fontsize=9, color=INK)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return png(figure)


def _panel(axes: Axes, steps: np.ndarray, shares: np.ndarray) -> None:
    """Bands of percentiles over the steps, the median, and the radius."""
    for (label, low, high), shade in zip(PARTS, BANDS, strict=True):
        lower, upper = np.percentile(shares, (low, high), axis=1)
        axes.fill_between(steps, lower, upper, color=shade, linewidth=0, label=f"{label} of them")
    axes.plot(steps, np.median(shares, axis=1), color=BLUE, linewidth=1.2, label="median")
    axes.axhline(1.0, color=ORANGE, linewidth=1.2, label="radius of the ball")
    axes.grid(color=FAINT, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=7)


def _limits(axes: Axes, shares: Sequence[np.ndarray]) -> None:
    """One vertical axis for all: from zero where the ball fills up, else by factors of ten."""
    axes.set_xlim(left=0)
    # A layer whose weights are not finite has NaN.
    top = max(float(np.nanmax(s)) for s in shares)
    if top >= LOW:
        axes.set_ylim(0, 1.08 * max(top, 1.0))
        return
    # The smallest singular values of a random square matrix are near zero and say nothing.
    bottom = min(float(np.nanmin(np.percentile(s, 5, axis=1))) for s in shares)
    axes.set_yscale("log")
    axes.set_ylim(max(bottom, 1e-4 * top) / 1.5, 1.5)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def write_spectra(run: Path, config: Config) -> list[Path]:
    """Write `spectra.png` for each optimizer with a ball, of its first seed.

    Returns:
        The pictures.

    Raises:
        OSError: the disk is full.
    """
    written = []
    for name in config.optimizers:
        trial = Trial(optimizer=name, seed=config.seeds[0])
        spectra = Spectra.load(trial.folder(run))
        if spectra.names:
            path = run / name / PICTURE
            write_atomic(path, draw(spectra, str(trial)))
            written.append(path)
    return written
