"""The cost of a step from one device to 65 536, as numbers and as a picture."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Sequence
from dataclasses import fields

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from steepest.apps import _figures as figures
from steepest.apps.plan.memory import Memory
from steepest.apps.plan.result import Plan
from steepest.apps.plan.units import scaled

COUNTS = tuple(2**k for k in range(17))
"""Numbers of devices."""

COLOURS = {
    "exchange": figures.BLUE,
    "gather all": figures.ORANGE,
    "torch DTensor": figures.PURPLE,
    "layer owners": figures.GREEN,
    "AdamW": figures.GREY,
}
COLUMNS = (
    *("devices", "mesh", "optimizer", "flops", "sent", "received", "calls", "state", "memory"),
    *("seconds", "share", "fits", "limit", "recompute", "moment"),
    *(f.name for f in fields(Memory) if f.name not in ("moment", "state")),
)


def table(plans: Sequence[Plan]) -> bytes:
    """One line for each number of devices and each way, as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for plan in plans:
        place = {"devices": plan.task.mesh.devices, "mesh": str(plan.task.mesh)}
        place["recompute"] = plan.batch.recompute
        for cost in plan.to_json()["optimizers"]:
            limit = cost.get("limit", f"refused: {cost.get('refused')}")
            row = {**cost.get("bytes", {}), **place, **cost}
            writer.writerow({**row, "optimizer": cost["name"], "limit": limit})
    return out.getvalue().encode()


def _line(axes: Axes, plans: Sequence[Plan], name: str, *, share: bool) -> None:
    """One way over the numbers of devices: faint where it does not fit."""
    points = []
    for plan in plans:
        cost = plan[name]
        if not cost.refused:
            value = 100 * plan.share(cost) if share else cost.seconds
            points.append((plan.task.mesh.devices, value, plan.fits(cost)))
    colour, wide = COLOURS[name], 2.4 if name == "exchange" else 1.6
    for (x0, y0, fine), (x1, y1, fits) in itertools.pairwise(points):
        look = {"linestyle": "-"} if fine and fits else {"linestyle": ":", "alpha": 0.7}
        axes.plot([x0, x1], [y0, y1], color=colour, linewidth=wide, **look)
    for x, y, fits in points:
        face = colour if fits else "white"
        axes.plot([x], [y], "o", markersize=4, color=colour, markerfacecolor=face)


def _axis(axes: Axes, title: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks([1, 8, 64, 512, 4096, 65536], ["1", "8", "64", "512", "4 096", "65 536"])
    axes.minorticks_off()
    axes.set_xlabel("devices")
    axes.set_title(title, loc="left")
    figures.graph(axes)


def draw(plans: Sequence[Plan]) -> bytes:
    """Time and share of the optimizer over the number of devices, as PNG."""
    first = plans[0].task
    with figures.plot_style():
        figure = figures.new_figure(4.6)
        left, right = figure.subplots(1, 2)
        for name in COLOURS:
            _line(left, plans, name, share=False)
            _line(right, plans, name, share=True)
        left.set_yscale("log")
        left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: scaled(value, "s")))
        _axis(left, "optimizer time per step")
        _axis(right, "optimizer, percent of the training step")
        right.set_ylim(-2, 102)
        handles = [left.plot([], [], color=c, linewidth=2.4)[0] for c in COLOURS.values()]
        handles.append(left.plot([], [], "o:", color=figures.INK, markerfacecolor="white")[0])
        names = [*("Muon: exchange", "Muon: gather all", "torch.optim.Muon on DTensors")]
        names += ["Muon: layer owners", "AdamW", "does not fit in memory"]
        figure.legend(handles, names, loc="outside lower center", ncols=3)
        figure.suptitle(
            f"{first.model.name} on {first.device.name}, {plans[0].tokens:,} tokens per step, "
            "on the best mesh for each number of devices",
            fontsize=10.5,
            x=0.01,
            ha="left",
        )
        return figures.png(figure)
