"""The pictures of `quadratics`, each drawn from the table of its name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
    panels,
)
from steepest.apps.reproduce.framework.rows import distinct
from steepest.apps.reproduce.quadratics.scalar import ALPHA, CAP, START

COLOURS: Mapping[str, str] = {
    "GD": GREEN,
    "Adam": YELLOW,
    "Muon": BLUE,
    "Muon NS5": ORANGE,
    "Muon nuclear": PURPLE,
}
PROFILE_COLOURS: Mapping[str, str] = {
    "exact": INK,
    "nuclear-norm step": SILVER,
    "vanishing lr": SKY,
    "additive": BLUE,
    "per singular value": ORANGE,
    "Jordan": GREEN,
    "You": PURPLE,
    "Polar Express": YELLOW,
    "CANS": "#8c564b",
}
# Below this, rounding is all there is to see.
FLOOR = 1e-18


def _by_family(rows: Sequence[Record], height: float) -> tuple[Figure, dict[str, Axes]]:
    """A panel for each family, three in a row."""
    families = [str(f) for f in distinct(rows, "family")]
    columns = min(3, len(families))
    lines = math.ceil(len(families) / columns)
    titles = families + [""] * (lines * columns - len(families))
    figure, axes = panels(titles, height=height * lines, rows=lines)
    for place in axes[len(families) :]:
        place.set_visible(False)
    return figure, dict(zip(families, axes, strict=False))


def _plain(places: Mapping[str, Axes]) -> None:
    """Take away minor ticks, which on logarithmic axes take most of the time of drawing."""
    for place in places.values():
        place.minorticks_off()


def _name_axes(places: Iterable[Axes], x: str, y: str) -> None:
    """Names under the lowest panel of each column and beside the first of each row."""
    shown = list(places)
    spots = [place.get_subplotspec() for place in shown]
    assert all(spots), "every panel is of a grid"
    lowest = {spot.colspan.start: spot.rowspan.start for spot in spots if spot}
    for place, spot in zip(shown, spots, strict=True):
        if spot and lowest[spot.colspan.start] == spot.rowspan.start:
            place.set_xlabel(x)
        if spot and spot.is_first_col():
            place.set_ylabel(y)


def _legend(figure: Figure, axes: Axes, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, labelcolor=INK
    )


def draw_spectra(rows: Sequence[Record]) -> Figure:
    """Curvatures of each family, from large to small."""
    figure, places = _by_family(rows, 2.2)
    for family, place in places.items():
        mine = [r for r in rows if r["family"] == family]
        place.semilogy([r["index"] for r in mine], [r["curvature"] for r in mine], color=BLUE)
    _plain(places)
    _name_axes(places.values(), "place in the order", "curvature")
    return figure


def draw_decades(rows: Sequence[Record]) -> Figure:
    """Orders of magnitude by which the loss falls, a group a family, a bar a method, downwards."""
    figure, (axes,) = panels([""], height=4)
    families, found = (list(distinct(rows, k)) for k in ("family", "method"))
    methods = [m for m in COLOURS if m in found]
    width = 0.8 / len(methods)
    for j, method in enumerate(methods):
        mine = [r for r in rows if r["method"] == method]
        x = [families.index(r["family"]) + (j - (len(methods) - 1) / 2) * width for r in mine]
        # From the common initial loss downwards.
        height = [-r["decades"] for r in mine]
        # Rounding may leave an end of a narrow band on the other side of the mean.
        ends = [
            [max(r["high"] - r["decades"], 0) for r in mine],
            [max(r["decades"] - r["low"], 0) for r in mine],
        ]
        axes.bar(x, height, width, color=COLOURS[method], label=method)
        axes.errorbar(x, height, ends, fmt="none", ecolor=INK, elinewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xticks(range(len(families)), [str(f).replace("_", "\n") for f in families])
    deepest = math.ceil(max(max(r["decades"], r["high"]) for r in rows))
    axes.set_ylim(-deepest, 0)
    axes.set_yticks(range(-deepest, 1))
    axes.set_ylabel("log₁₀ of final over initial loss")
    _legend(figure, axes, len(methods))
    return figure


def draw_curves(rows: Sequence[Record]) -> Figure:
    """Loss against the step: a panel a family, a line a method, a band for 95 % of the starts."""
    figure, places = _by_family(rows, 2.5)
    for family, place in places.items():
        for method, colour in COLOURS.items():
            mine = [r for r in rows if (r["family"], r["method"]) == (family, method) and r["loss"]]
            steps = [r["step"] for r in mine]
            place.plot(steps, [r["loss"] for r in mine], color=colour, label=method, linewidth=1.4)
            low, high = ([max(r[k] or FLOOR, FLOOR) for r in mine] for k in ("low", "high"))
            place.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        place.set_yscale("log")
    _plain(places)
    _name_axes(places.values(), "step", "loss")
    _legend(figure, next(iter(places.values())), len(COLOURS))
    return figure


def draw_hitting(rows: Sequence[Record]) -> Figure:
    """Median hitting time and the central 95 % of the runs against the size of the noise."""
    figure, (axes,) = panels([""], height=3.6)
    x = [r["sigma"] for r in rows]
    low, high = ([r[k] for r in rows] for k in ("low", "high"))
    axes.fill_between(x, low, high, alpha=0.2, color=BLUE, linewidth=0, label="95 % of the runs")
    axes.loglog(x, [r["median"] for r in rows], color=BLUE, marker=".", label="median")
    for height, name, colour in ((CAP, f"cap, {CAP}", INK), (START / ALPHA, "|s₀|/α", ORANGE)):
        axes.axhline(height, color=colour, linewidth=0.9, linestyle="--", label=name)
    axes.set_xlabel("size of the noise σ")
    axes.set_ylabel("steps to |s| ≤ ε")
    _legend(figure, axes, 4)
    return figure


def draw_gaps(rows: Sequence[Record]) -> Figure:
    """Gap against the step of exact line searches, along the gradient and greedy."""
    figure, (axes,) = panels([""], height=3.6)
    for name, colour in (("GD", GREEN), ("greedy", BLUE)):
        mine = [r for r in rows if r[name] > FLOOR]
        x = [r["step"] for r in mine]
        axes.semilogy(x, [r[name] for r in mine], color=colour, label=name)
        low, high = ([max(r[f"{name} {end}"], FLOOR) for r in mine] for end in ("low", "high"))
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel("step")
    axes.set_ylabel("gap ½⟨W, AW⟩")
    axes.legend(frameon=False, labelcolor=INK, title="median, 95 % of the starts")
    return figure


def draw_choices(rows: Sequence[Record]) -> Figure:
    """Decrease along the polar factor over that along the gradient, on the greedy path."""
    figure, (axes,) = panels([""], height=3.2)
    x = [r["step"] for r in rows]
    low, high = ([r[f"gain {end}"] for r in rows] for end in ("low", "high"))
    axes.fill_between(x, low, high, alpha=0.2, color=BLUE, linewidth=0, label="95 % of the starts")
    axes.semilogy(x, [r["gain"] for r in rows], color=BLUE, label="median")
    axes.axhline(1, color=INK, linewidth=0.9, linestyle="--")
    axes.set_xlabel("step")
    axes.set_ylabel("decrease, polar over gradient")
    axes.legend(frameon=False, labelcolor=INK)
    return figure


def draw_grid(rows: Sequence[Record]) -> Figure:
    """Loss of one instance on ½‖W‖² against the step, a panel a way, with the floor of the grid."""
    ways = [str(w) for w in distinct(rows, "way")]
    columns = 4
    titles = ways + [""] * (-len(ways) % columns)
    figure, axes = panels(titles, height=5, rows=len(titles) // columns)
    for place, way in zip(axes, ways, strict=False):
        mine = [r for r in rows if r["way"] == way]
        steps = [r["step"] for r in mine]
        loss, floor = [max(r["loss"], FLOOR) for r in mine], [r["floor"] for r in mine]
        place.semilogy(steps, loss, color=BLUE, linewidth=1.2, label="loss")
        style = {"color": INK, "linestyle": "--", "linewidth": 0.9}
        place.semilogy(steps, floor, label="floor of the grid", **style)
        place.minorticks_off()
    for place in axes[len(ways) :]:
        place.set_visible(False)
    _name_axes(axes[: len(ways)], "step", "½‖W‖²")
    _legend(figure, axes[0], 2)
    return figure


def draw_reach(rows: Sequence[Record]) -> Figure:
    """Steps to ε of the first loss against ε: Muon with its best rate for each ε, and GD."""
    figure, (axes,) = panels([""], height=3.4)
    for method in ("Muon", "GD"):
        mine = [r for r in rows if r["method"] == method]
        x, y = ([r[k] for r in mine] for k in ("epsilon", "steps"))
        axes.loglog(x, y, color=COLOURS[method], marker="o", label=method)
    axes.set_xlabel("ε")
    axes.set_ylabel("steps")
    axes.legend(frameon=False, labelcolor=INK)
    return figure


def draw_errors(rows: Sequence[Record]) -> Figure:
    """Smallest loss over the first one against the size of the error, a panel a problem."""
    problems = [str(p) for p in distinct(rows, "problem")]
    figure, axes = panels(problems, height=3.8, shared=False)
    for place, problem in zip(axes, problems, strict=True):
        for profile, colour in PROFILE_COLOURS.items():
            mine = [r for r in rows if (r["problem"], r["profile"]) == (problem, profile)]
            style: dict[str, Any] = {"color": colour, "label": profile, "linewidth": 1.2}
            if all(r["size"] == 0 for r in mine):
                for r in mine:
                    place.axhline(max(r["lowest"], 1e-10), linestyle="--", **style)
            else:
                x, y = ([r[k] for r in mine] for k in ("size", "lowest"))
                place.plot(x, y, marker=".", **style)
        place.set_xscale("log")
        place.set_yscale("log")
        place.set_xlabel("size of the error")
    axes[0].set_ylabel("smallest loss over the first")
    _legend(figure, axes[0], 5)
    return figure
