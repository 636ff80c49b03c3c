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
}
SCHEDULES = ("Jordan", "You", "Polar Express", "CANS")
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
    """Orders of magnitude that the loss falls by, a group per family, a bar per method."""
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
    """Loss against the step: a panel per family, a line per method, bands of 95 % of starts."""
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
    figure, (axes,) = panels(["Exact line search along two directions"], height=3.6)
    for name, label, colour, dashes in (
        ("GD", "the gradient", GREEN, "-"),
        ("greedy", "greedy: gradient or polar factor, whichever lowers the loss more", BLUE, "--"),
    ):
        mine = [r for r in rows if r[name] > FLOOR]
        x = [r["step"] for r in mine]
        axes.semilogy(x, [r[name] for r in mine], dashes, color=colour, label=label)
        low, high = ([max(r[f"{name} {end}"], FLOOR) for r in mine] for end in ("low", "high"))
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        if len(mine) < len(rows):
            text = f"below {FLOOR:g} from\nstep {x[-1] + 1} on: rounding"
            axes.annotate(text, (x[-1], mine[-1][name]), (8, -4), textcoords="offset points")
    # Everything that the gradient does happens in the first fifth of the steps.
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    ticks = [t for t in (0, 1, 2, 5, 10, 20, 50, 100) if t <= rows[-1]["step"] + 1]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    axes.set_xlabel("step")
    axes.set_ylabel("gap to the smallest loss, ½⟨W, AW⟩")
    _legend(figure, axes, 2)
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
    """Loss of one instance on ½‖W‖² against the step, a panel per way; the floor of the grid."""
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
    _name_axes(axes[: len(ways)], "step", "½‖W‖²")
    # The legend stands in the panel that is left over, if one is.
    for place in axes[len(ways) :]:
        place.set_axis_off()
        place.legend(*axes[0].get_legend_handles_labels(), loc="center", labelcolor=INK)
    if len(axes) == len(ways):
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
    """Smallest loss: random errors by their size, schedules beside the exact factor."""
    problems = [str(p) for p in distinct(rows, "problem")]
    figure, axes = panels(problems + [""] * len(problems), height=6.0, rows=2)
    above, below = axes[: len(problems)], axes[len(problems) :]
    for upper, lower, problem in zip(above, below, problems, strict=True):
        mine = [r for r in rows if r["problem"] == problem]
        _errors_by_size(upper, mine)
        _errors_by_schedule(lower, mine)
    for place in below[1:]:
        place.tick_params(labelleft=False)
    limits = [place.get_xlim() for place in below]
    for place in below:
        place.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))
    above[0].set_ylabel("smallest loss over the first")
    found: dict[str, Any] = {}
    for place in (above[0], below[0]):
        handles, labels = place.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    figure.legend(
        found.values(),
        found.keys(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
        labelcolor=INK,
    )
    return figure


def _errors_by_size(axes: Axes, rows: Sequence[Record]) -> None:
    """Lines for errors of many sizes, levels for methods without one."""
    for profile in ("exact", "nuclear-norm step", "vanishing lr", "additive", "per singular value"):
        mine = [r for r in rows if r["profile"] == profile]
        style: dict[str, Any] = {"color": PROFILE_COLOURS[profile], "label": profile}
        if all(r["size"] == 0 for r in mine):
            for r in mine:
                axes.axhline(max(r["lowest"], 1e-10), linestyle="--", linewidth=1.2, **style)
        else:
            x, y = ([r[k] for r in mine] for k in ("size", "lowest"))
            axes.plot(x, y, marker="o" if profile == "additive" else "s", markersize=4, **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.set_xlabel("size of the error")


def _errors_by_schedule(axes: Axes, rows: Sequence[Record]) -> None:
    """A line per schedule: the loss with half of its error, and with all of it."""
    exact = [r["lowest"] for r in rows if r["profile"] == "exact"]
    for y, schedule in enumerate(SCHEDULES):
        mine = {r["size"]: r["lowest"] for r in rows if r["profile"] == schedule}
        for size, label, fill in (
            (0.5, "half of its error", "none"),
            (1.0, "its whole error", BLUE),
        ):
            if size in mine and exact:
                x = mine[size] / exact[0]
                name = f"schedule, {label}" if y == 0 else None
                axes.plot(x, y, "o", color=BLUE, markerfacecolor=fill, markersize=7, label=name)
    axes.axvline(1, color=PROFILE_COLOURS["exact"], linestyle="--", linewidth=1.2)
    axes.set_yticks(range(len(SCHEDULES)), SCHEDULES)
    axes.set_ylim(len(SCHEDULES) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xlabel("loss over exact's")
