"""One style of pictures: colours and figures come from one module, stored tables can be drawn."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from matplotlib.axis import Axis

from steepest.apps import _figures
from steepest.apps._figures import plot_style
from tools import bench_table, ledger

APPS = Path(_figures.__file__).parent
OTHERS = sorted(p for p in APPS.rglob("*.py") if p.name != "_figures.py")
IMAGES = ledger.DOCS / "images"
OWN_STYLE = re.compile(r"\bFigure\(|FigureCanvasAgg|rcParams|[\"']#[0-9a-fA-F]{6}[\"']|pyplot")


@pytest.mark.parametrize("path", OTHERS, ids=lambda p: str(p.relative_to(APPS)))
def test_no_other_module_has_a_style(path: Path) -> None:
    found = OWN_STYLE.findall(path.read_text(encoding="utf-8"))
    assert not found, "take colours and figures from steepest.apps._figures"


def _worded(axis: Axis) -> bool:
    """Whether an axis has names in place of numbers, and needs none of its own."""
    return any(label.get_text().isidentifier() for label in axis.get_ticklabels())


@pytest.mark.parametrize("path", sorted(ledger.TABLES.glob("*.json")), ids=lambda p: p.stem)
def test_stored_tables_are_drawn_with_named_axes(path: Path) -> None:
    name = next(n for n in ledger.REPRODUCTIONS if path.stem.startswith(f"{n}-"))
    draw = ledger.REPRODUCTIONS[name].pictures[path.stem.removeprefix(f"{name}-")]
    with plot_style():
        figure = draw(ledger.kept(path))
    shown = [axes for axes in figure.axes if axes.axison and axes.get_visible()]
    for axes in shown:
        spot = axes.get_subplotspec()
        assert spot
        below = [a.get_subplotspec() for a in shown if a is not axes]
        lowest = all(
            other.colspan.start != spot.colspan.start or other.rowspan.start < spot.rowspan.start
            for other in below
            if other
        )
        assert axes.get_xlabel() or _worded(axes.xaxis) or not lowest
        assert axes.get_ylabel() or _worded(axes.yaxis) or not spot.is_first_col()
    # A picture of a page stays small.
    assert (IMAGES / f"{path.stem}.png").stat().st_size < 400_000


def test_every_picture_of_a_bench_is_drawn_from_what_is_stored() -> None:
    for path in bench_table.DATA.glob("*.json"):
        assert list(IMAGES.glob(f"bench-{path.stem}-*.png")), path.name
