"""The picture of `depth-variance`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from steepest._common.files import Record
from steepest.apps._figures import INK, SHADE, ordered_colours, panels


def draw_sizes(rows: Sequence[Record], titles: Mapping[str, str], band: float) -> Figure:
    """One panel for each optimizer, one line for each depth.

    Args:
        rows: a row for each layer of each run.
        titles: the titles of the optimizers.
        band: factor up and down that still counts as the same size.
    """
    names = list(dict.fromkeys(r["optimizer"] for r in rows))
    known = sorted({r["depth"] for r in rows})
    figure, row = panels([titles[n] for n in names], height=3.6)
    for axes, name in zip(row, names, strict=True):
        axes.axhspan(1 / band, band, color=SHADE, zorder=0)
        for depth, colour in zip(known, ordered_colours(len(known)), strict=True):
            wanted = (name, depth, "trained")
            of = [r for r in rows if (r["optimizer"], r["depth"], r["stage"]) == wanted]
            if of:
                sizes = [fmean(r["rms"] for r in of if r["layer"] == i) for i in range(depth + 1)]
                x, y = [i / depth for i in range(depth + 1)], [s / sizes[0] for s in sizes]
                axes.plot(x, y, color=colour, linewidth=1.6, label=str(depth))
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
        axes.set_xlabel("hidden layer / depth")
    row[0].set_yscale("log", base=2)
    row[0].yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    row[0].set_ylabel("RMS relative to the first")
    # No line of the ball rises above 1: there is room.
    row[-1].legend(title="depth", frameon=False, labelcolor=INK, loc="upper left", ncols=2)
    return figure
