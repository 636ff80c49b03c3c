"""What the pictures of all reproductions share."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK = "#333333"

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
YELLOW, SKY, GREY = "#e69f00", "#56b4e9", "#999999"


def panels(
    titles: Sequence[str], *, height: float, rows: int = 1, shared: bool = True
) -> tuple[Figure, list[Axes]]:
    """Panels in reading order, as wide as a page.

    Args:
        titles: of the panels.
        height: of the figure, in inches.
        rows: how many there are; the panels of several rows each have their own vertical axis.
        shared: whether the panels of a row have one vertical axis.
    """
    figure = Figure(figsize=(10, height), dpi=150, layout="constrained")
    # The canvas by name: pyplot would choose a backend for the whole process.
    FigureCanvasAgg(figure)
    columns = len(titles) // rows
    grid = figure.subplots(rows, columns, sharey=shared and rows == 1, squeeze=False)
    found = list(grid.flat)
    for axes, title in zip(found, titles, strict=True):
        axes.set_title(title, color=INK, fontsize=11)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK)
    return figure, found


def ordered_colours(count: int) -> list[tuple[float, float, float, float]]:
    """Colours in an order that is seen, from dark to bright; too bright ones are left out."""
    return [colormaps["viridis"](0.9 * i / max(count - 1, 1)) for i in range(count)]


def png(figure: Figure) -> bytes:
    """The picture as a file."""
    buffer = io.BytesIO()
    # Without the version of matplotlib in it, equal pictures are equal files.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
