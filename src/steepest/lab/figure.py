"""What the pictures of all reproductions share."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK = "#333333"


def panels(titles: Sequence[str], *, height: float) -> tuple[Figure, list[Axes]]:
    """A row of panels with one vertical axis; `height` in inches, the width is that of a page."""
    figure = Figure(figsize=(10, height), dpi=150, layout="constrained")
    # The canvas by name: pyplot would choose a backend for the whole process.
    FigureCanvasAgg(figure)
    row = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for axes, title in zip(row, titles, strict=True):
        axes.set_title(title, color=INK, fontsize=11)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK)
    return figure, list(row)


def ordered_colours(count: int) -> list[tuple[float, float, float, float]]:
    """Colours in an order that is seen, from dark to bright; too bright ones are left out."""
    return [colormaps["viridis"](0.9 * i / max(count - 1, 1)) for i in range(count)]


def png(figure: Figure) -> bytes:
    """The picture as a file."""
    buffer = io.BytesIO()
    # Without the version of matplotlib in it, equal pictures are equal files.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
