"""The pictures of `directional-sharpness`, each drawn from the table of its name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from steepest._common.files import Record
from steepest.apps._figures import BLUE, GREEN, INK, ORANGE, SKY, panels
from steepest.apps.reproduce.directional_sharpness.tables import known, later, spearman

STYLES: Mapping[str, dict[str, Any]] = {
    "gradient": {"color": INK, "linestyle": "-"},
    "sign": {"color": ORANGE, "linestyle": "-"},
    "muon": {"color": BLUE, "linestyle": "-"},
    "newton-schulz": {"color": SKY, "linestyle": (0, (4, 3))},
    "adam": {"color": GREEN, "linestyle": "-"},
}
DIRECTIONS = {
    "gradient": "gradient",
    "sign": "sign",
    "muon": "polar factor",
    "newton-schulz": "Newton–Schulz",
    "adam": "Adam",
}
TRAINED = {"muon": "Muon", "adamw": "AdamW", "sgd": "SGD"}
NETWORKS = {"text": "GPT", "images": "digits"}
SCATTER = {"muon": BLUE, "adamw": GREEN, "sgd": ORANGE}
MARKERS = {"muon": "o", "adamw": "s", "sgd": "^"}


def _distinct(rows: Sequence[Record], name: str) -> list[str]:
    return list(dict.fromkeys(str(r[name]) for r in rows))


def _trajectories(rows: Sequence[Record], field: str, label: str) -> Figure:
    """A field against the step: a row of panels per network, a column per optimizer."""
    networks, optimizers = _distinct(rows, "network"), _distinct(rows, "optimizer")
    places = [(n, o) for n in networks for o in optimizers]
    titles = [f"{NETWORKS[n]}, trained with {TRAINED[o]}" for n, o in places]
    # The looks at equal distances: they are nearly geometric, but for the start.
    positions = {step: i for i, step in enumerate(sorted({r["step"] for r in rows}))}
    figure, axes = panels(titles, height=3.1 * len(networks), rows=len(networks))
    for place, (network, optimizer) in zip(axes, places, strict=True):
        for name, style in STYLES.items():
            key = (network, optimizer, name)
            # A number that is missing, or has no logarithm, is a gap.
            line = [
                (positions[r["step"]], r[field] if r[field] and r[field] > 0 else math.nan)
                for r in rows
                if (r["network"], r["optimizer"], r["direction"]) == key
            ]
            if line:
                place.plot(
                    *zip(*line, strict=True),
                    label=DIRECTIONS[name],
                    linewidth=1.5,
                    marker="o",
                    markersize=2.5,
                    **style,
                )
        place.set_xticks(list(positions.values()), list(map(str, positions)), fontsize=8)
        place.set_yscale("log")
        _plain(place.yaxis)
    # Rows compare optimizers: one range of values in each.
    for start in range(0, len(axes), len(optimizers)):
        _share(axes[start : start + len(optimizers)])
    for place in axes[-len(optimizers) :]:
        place.set_xlabel("step; lines break where dᵀHd ≤ 0")
    for place in axes[:: len(optimizers)]:
        place.set_ylabel(label)
    found = dict(zip(*reversed(_handles(axes)), strict=True))
    figure.legend(
        found.values(),
        found.keys(),
        loc="outside lower center",
        ncols=len(found),
        frameon=False,
        labelcolor=INK,
    )
    return figure


def _share(row: Sequence[Axes]) -> None:
    """Give panels one vertical range, that of all of them."""
    limits = [place.get_ylim() for place in row]
    for place in row:
        place.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
        _plain(place.yaxis)


def _handles(axes: Sequence[Axes]) -> tuple[list[Any], list[str]]:
    """Lines and their names, of all panels."""
    pairs = [
        pair for place in axes for pair in zip(*place.get_legend_handles_labels(), strict=True)
    ]
    return [line for line, _ in pairs], [name for _, name in pairs]


def draw_decreases(rows: Sequence[Record]) -> Figure:
    """Best decrease of all hidden layers together against the step, a line per direction."""
    return _trajectories(rows, "decrease", "best decrease")


def draw_sharpnesses(rows: Sequence[Record]) -> Figure:
    """Sharpness dᵀHd/‖d‖² of all hidden layers together against the step, a line per direction."""
    return _trajectories(rows, "curvature", "dᵀHd/‖d‖²")


def draw_advantages(rows: Sequence[Record]) -> Figure:
    """Best decrease of the polar direction over the gradient's, per layer and observation."""
    networks = _distinct(rows, "network")
    columns = {"nuclear": "nr(G)", "ratio": "nr(G)/st(A)"}
    places = [(n, c) for n in networks for c in columns]
    figure, axes = panels([""] * len(places), height=3.6 * len(networks), rows=len(networks))
    for place, (network, column) in zip(axes, places, strict=True):
        mine = known(later(r for r in rows if r["network"] == network))
        if not mine:
            continue
        for optimizer, colour in SCATTER.items():
            dots = [(r[column], r["advantage"]) for r in mine if r["optimizer"] == optimizer]
            if dots:
                label = f"trained with {TRAINED[optimizer]}"
                across, up = zip(*dots, strict=True)
                style: dict[str, Any] = {"c": colour, "marker": MARKERS[optimizer], "label": label}
                place.scatter(
                    across,
                    up,
                    s=14,
                    alpha=0.45,
                    linewidths=0,
                    **style,
                )
        x, y = (np.array([r[k] for r in mine], dtype=float) for k in (column, "advantage"))
        # The guarantees are ahead of each other by nr(G)/st(A).
        stable = 1.0 if column == "ratio" else median(r["input"] for r in mine)
        ends = np.array([x.min(), x.max()])
        place.plot(
            ends, ends / stable, color=INK, linewidth=1.1, linestyle="--", label="guaranteed"
        )
        title = f"{NETWORKS[network]}: Spearman's correlation {spearman(x, y):+.2f}"
        place.set_title(title, color=INK, fontsize=11)
        place.axhline(1, color=INK, linewidth=0.7)
        place.set_xscale("log")
        place.set_yscale("log")
        _plain(place.xaxis)
        _plain(place.yaxis)
        median_of = "" if column == "ratio" else f", at the median st(A) = {stable:.2g}"
        place.set_xlabel(columns[column] + median_of)
    for place in axes[:: len(columns)]:
        place.set_ylabel("advantage in best decrease")
    found = dict(zip(*reversed(_handles(axes)), strict=True))
    figure.legend(
        found.values(),
        found.keys(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
        labelcolor=INK,
    )
    return figure


def _plain(axis: Axis) -> None:
    """Write a logarithmic axis as 0.5, 1, 2, and where it spans much as 0.01, 0.1, 1."""
    low, high = axis.get_view_interval()
    wide = high > 100 * low
    axis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
