"""The pictures of `spectral-constraint`, each drawn from the table of its name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

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
from steepest.apps.reproduce.spectral_constraint.tables import ENDS
from steepest.apps.reproduce.spectral_constraint.toy import RADIUS

CASES: Mapping[str, str] = {"outside": BLUE, "partly outside": ORANGE, "inside": GREEN}
COLOURS: Mapping[str, str] = {
    "Nuclear": BLUE,
    "L1": ORANGE,
    "Frobenius": GREEN,
    "GroupRows": PURPLE,
    "Schatten-4": YELLOW,
    "SmoothNuclear": SKY,
    "Nuclear, Jordan": INK,
}
TITLES = {"images": "digits, convolutions", "text": "King James Bible, GPT"}
# Below this, rounding is all there is to see.
FLOOR = 1e-13
BINS = 10


def _line(axes: Axes, rows: Sequence[Record], x: str, y: str, **style: Any) -> None:
    """The positive values of a field against another."""
    points = [(r[x], r[y]) for r in rows if r[y] is not None]
    axes.plot(*zip(*points, strict=True), **style)


def _style(name: object) -> dict[str, Any]:
    """The style of the line of a map; `SmoothNuclear` is dashed, as it covers `Nuclear`."""
    dashes = (0, (4, 3)) if name == "SmoothNuclear" else "-"
    return {"color": COLOURS[str(name)], "linestyle": dashes, "linewidth": 1.5}


def _boundary(axes: Axes, level: float, text: str) -> None:
    """A dashed line across, with its name beside it."""
    axes.axhline(level, color=INK, linewidth=0.9, linestyle="--")
    axes.annotate(
        text,
        (1, level),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        color=INK,
        fontsize=9,
    )


def draw_toy(rows: Sequence[Record]) -> Figure:
    """Loss, norm, KKT score and Lyapunov function against the step, for one seed."""
    titles = {
        "loss": "loss F(X)",
        "norm": "‖X‖₂",
        "score": "KKT score",
        "lyapunov": "Lyapunov function H/γ",
    }
    figure, axes = panels(list(titles.values()), height=6.2, rows=2)
    seed = rows[0]["seed"]
    for place, name in zip(axes, titles, strict=True):
        for case, colour in CASES.items():
            mine = [r for r in rows if (r["case"], r["seed"]) == (case, seed)]
            kept = [{**r, name: max(r[name], FLOOR)} for r in mine]
            # Two of the norms are the same.
            dashes = "--" if case == "partly outside" else "-"
            style = {"color": colour, "linestyle": dashes, "linewidth": 1.5, "label": case}
            _line(place, kept, "t", name, **style)
        place.set_xlabel("step")
        if name != "norm":
            place.set_yscale("log")
    _boundary(axes[1], RADIUS, "1/λ")
    axes[1].set_ylim(0, 1.15 * RADIUS)
    axes[0].legend(title="the optimum is", frameon=False, labelcolor=INK, loc="best")
    return figure


def draw_small_steps(rows: Sequence[Record]) -> Figure:
    """Loss and Lyapunov function above their smallest values, against time, for one seed."""
    figure, axes = panels(["loss F(X)", "Lyapunov function H/γ"], height=3.4, shared=False)
    mine = [r for r in rows if r["seed"] == rows[0]["seed"]]
    for place, name, colour in zip(axes, ("loss", "lyapunov"), (ORANGE, BLUE), strict=True):
        low = min(r[name] for r in mine)
        above = [{"t": r["t"], name: r[name] - low} for r in mine if r[name] > low]
        _line(place, above, "t", name, color=colour, linewidth=1.5)
        place.set_yscale("log")
        place.set_xlabel("time t·η")
    axes[0].set_ylabel("above its smallest value")
    return figure


def draw_approach(rows: Sequence[Record]) -> Figure:
    """Distance to the ball against the step: a panel per kind of decay, a line per map."""
    kinds = distinct(rows, "decay")
    figure, axes = panels([f"{kind} decay" for kind in kinds], height=3.8)
    for place, kind in zip(axes, kinds, strict=True):
        mine = [r for r in rows if r["decay"] == kind]
        for name in distinct(mine, "map"):
            line = [r for r in mine if r["map"] == name and r["distance"] > FLOOR]
            _line(place, line, "t", "distance", label=str(name), **_style(name))
        bound = {"color": INK, "linewidth": 1.1, "linestyle": "--", "label": "bound"}
        _line(place, [r for r in mine if r["map"] == mine[0]["map"]], "t", "bound", **bound)
        place.set_xlabel("step")
    axes[0].set_yscale("log")
    axes[0].set_ylabel("distance to the ball over its radius")
    _legend(figure, axes[0])
    return figure


def draw_networks(rows: Sequence[Record]) -> Figure:
    """The largest norm over the radius against the step: a panel per network, a line per map."""
    names = distinct(rows, "network")
    figure, axes = panels([TITLES[str(n)] for n in names], height=4)
    for place, network in zip(axes, names, strict=True):
        mine = [r for r in rows if r["network"] == network]
        for name in distinct(mine, "map"):
            kept, free = (
                [r for r in mine if (r["map"], r["decay"]) == (name, decay)]
                for decay in ("explicit", "none")
            )
            _line(place, kept, "step", "largest", label=str(name), **_style(name))
            faint = {**_style(name), "linewidth": 0.9, "alpha": 0.5}
            _line(place, free, "step", "largest", **faint)
        place.plot([], [], color=SILVER, linewidth=0.9, label="thin: no decay")
        place.set_xlabel("step")
        _boundary(place, 1, "1/λ")
    axes[0].set_yscale("log")
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_minor_locator(NullLocator())
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes[0].set_ylabel("largest norm over the radius 1/λ")
    _legend(figure, axes[0])
    return figure


def draw_spectra(rows: Sequence[Record]) -> Figure:
    """Singular values of all matrices that Muon moves, over 1/λ: before and after."""
    names = distinct(rows, "network")
    figure, axes = panels([TITLES[str(n)] for n in names], height=3.6, shared=False)
    styles: dict[str, dict[str, Any]] = {
        ENDS["explicit"]: {"color": BLUE, "histtype": "stepfilled", "alpha": 0.45},
        ENDS["none"]: {"color": ORANGE, "histtype": "step", "linewidth": 1.4},
        "start": {"color": INK, "histtype": "step", "linewidth": 1.1},
    }
    for place, network in zip(axes, names, strict=True):
        mine = [r for r in rows if r["network"] == network]
        # The radius is a border between two bins.
        count = math.ceil(BINS * max(r["sigma"] for r in mine))
        for when, style in styles.items():
            values = [r["sigma"] for r in mine if r["when"] == when]
            place.hist(values, bins=count, range=(0, count / BINS), label=when, **style)
        place.axvline(1, color=INK, linewidth=0.9, linestyle="--")
        place.set_xlabel("singular value over 1/λ")
    axes[0].set_ylabel("how many")
    axes[-1].legend(frameon=False, labelcolor=INK)
    return figure


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, labelcolor=INK)
