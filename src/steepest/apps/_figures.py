"""The style that the pictures share: colours, axes without ornament, and a figure as PNG."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FuncFormatter
from torch import Tensor

from steepest._common.text import printable

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
YELLOW, SKY = "#e69f00", "#56b4e9"
INK, GREY, SILVER, FAINT = "#333333", "#888888", "#999999", "#dddddd"
FILL, SHADE = "#e3eef6", "#eeeeee"
# Nested bands around a median, the widest first.
BANDS = ("#d9e8f2", "#a6cbe3", "#66aad1")

WIDTH = 9.0
"""Inches: at 800 pixels on a page, text of 10 points is then 12 pixels high."""
DPI = 130


@contextmanager
def plot_style() -> Iterator[None]:
    """The settings every picture is drawn with, whatever the user's own matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(
            {
                "font.size": 10,
                "axes.titlesize": 10.5,
                "axes.labelcolor": INK,
                "text.color": INK,
                "xtick.color": INK,
                "ytick.color": INK,
                "axes.edgecolor": GREY,
                "legend.frameon": False,
            }
        )
        yield


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """A figure of the common width; the only place that makes one.

    Args:
        height: the height in inches.
        width: the width in inches, where a picture is not a wide one.
    """
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.1)
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    # The canvas by name: pyplot would choose a backend for the whole process.
    FigureCanvasAgg(figure)
    return figure


def plane(axes: Axes, x: tuple[float, float], y: tuple[float, float]) -> None:
    """A piece of the plane with equal units on both axes, which every ball needs."""
    axes.set_xlim(*x)
    axes.set_ylim(*y)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def xy(point: Tensor) -> tuple[float, float]:
    """A point of the plane as matplotlib wants it."""
    x, y = point.tolist()
    return x, y


def graph(axes: Axes) -> None:
    """A graph of numbers: two spines and a faint grid below what is drawn."""
    _open(axes)
    axes.set_axisbelow(True)


def _open(axes: Axes) -> None:
    """Two spines and a faint grid."""
    axes.grid(color=FAINT, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def panels(
    titles: Sequence[str], *, height: float, rows: int = 1, shared: bool = True
) -> tuple[Figure, list[Axes]]:
    """Panels in reading order, as wide as a page.

    Args:
        titles: the titles of the panels.
        height: the height of the figure in inches.
        rows: the number of rows; the panels of several rows each have their own vertical axis.
        shared: whether the panels of a row have one vertical axis.
    """
    figure = new_figure(height)
    columns = len(titles) // rows
    grid = figure.subplots(rows, columns, sharey=shared and rows == 1, squeeze=False)
    found = list(grid.flat)
    for axes, title in zip(found, titles, strict=True):
        axes.set_title(title, color=INK, fontsize=11)
        _open(axes)
        axes.tick_params(colors=INK)
    return figure, found


def ordered_colours(count: int) -> list[tuple[float, float, float, float]]:
    """Colours in an order that is seen, from dark to bright; too bright ones are left out."""
    return [colormaps["viridis"](0.9 * i / max(count - 1, 1)) for i in range(count)]


def plain_text(text: str) -> str:
    r"""Text for a picture in which nothing is a formula: names are other people's.

    Examples:
        >>> print(plain_text("price$ and $\\frac$"))
        price\$ and \$\frac\$
    """
    return re.sub(r"(?<!\\)\$", r"\\$", printable(text, keep="\n"))


def _name_plainly(figure: Figure) -> None:
    """Take everything that is written in a figure as plain text, but numbers at axes."""
    for text in figure.findobj(Text):
        text.set_text(plain_text(text.get_text()))
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            named = axis.get_major_formatter()
            if isinstance(named, FixedFormatter | FuncFormatter):

                def written(x: float, place: int | None = None, named: Any = named) -> str:
                    return plain_text(named(x, place))

                axis.set_major_formatter(FuncFormatter(written))


def png(figure: Figure) -> bytes:
    """The figure as PNG; the bytes do not name the version of matplotlib."""
    _name_plainly(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None}, pil_kwargs={"optimize": True})
    return buffer.getvalue()
