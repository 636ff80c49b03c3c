"""The pictures of lr-transfer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from steepest._common.files import Record
from steepest.apps._figures import INK, ordered_colours, panels
from steepest.apps.reproduce.lr_transfer.methods import METHODS

# Of the picture: ln 10 is chance, and losses far above it would flatten the rest.
TOP = 3.0
# What ended above the picture, or not at all, has a cross just below its upper edge.
LOST = 2.75


def draw(rows: Sequence[Record]) -> Figure:
    """Final loss against learning rate, a line per width; dot: the best, cross: diverged."""
    return _panels(rows, "peak learning rate")


def draw_muon(rows: Sequence[Record]) -> Figure:
    """Final loss of Muon against the learning rate of width 64, a panel per convention."""
    return _panels(rows, "peak lr at width 64")


def _panels(rows: Sequence[Record], label: str) -> Figure:
    names = list(dict.fromkeys(r["optimizer"] for r in rows))
    widths = sorted({r["width"] for r in rows})
    figure, row = panels([METHODS[n].title for n in names], height=4)
    for axes, name in zip(row, names, strict=True):
        for width, colour in zip(widths, ordered_colours(len(widths)), strict=True):
            curve = [r for r in rows if (r["optimizer"], r["width"]) == (name, width)]
            lost = [r["lr"] for r in curve if r["loss"] is None or r["loss"] > TOP]
            axes.plot(lost, [LOST] * len(lost), "x", color=colour)
            curve = sorted((r for r in curve if r["loss"] is not None), key=lambda r: r["lr"])
            if curve:
                x, y = ([r[k] for r in curve] for k in ("lr", "loss"))
                axes.plot(x, y, color=colour, linewidth=1.6, label=str(width))
                axes.plot(x[y.index(min(y))], min(y), "o", color=colour, markersize=7)
        lrs = sorted({r["lr"] for r in rows if r["optimizer"] == name})
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(lrs[::2]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"$2^{{{math.log2(v):.0f}}}$"))
        axes.set_xlim(lrs[0] / 1.4, lrs[-1] * 1.4)
        axes.set_xlabel(label)
    row[0].set_yscale("log")
    row[0].set_ylim(top=TOP)
    row[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    row[0].yaxis.set_minor_locator(NullLocator())
    row[0].yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    row[0].set_ylabel("training loss after the last step (nats)")
    handles, labels = row[-1].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        title="width",
        loc="outside lower center",
        ncols=len(labels),
        frameon=False,
        labelcolor=INK,
    )
    return figure
