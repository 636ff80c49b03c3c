"""Unit balls in the plane: a norm, its dual, its duality map and the line that touches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from matplotlib.axes import Axes
from torch import Tensor

from steepest import norms
from steepest.apps import _figures as figures
from steepest.norms import Norm

NORMS: Mapping[str, Callable[..., Norm]] = {
    "L1()": norms.L1,
    "Lp(1.5)": partial(norms.Lp, 1.5),
    "L2()": norms.L2,
    "Lp(3)": partial(norms.Lp, 3),
    "LInf()": norms.LInf,
    "RMS()": norms.RMS,
}
GRADIENT = (2.0, 1.0)
POINTS = 720
"""Points on a ball's boundary, a multiple of 8, so that they have the corners of ℓ1 and ℓ∞."""


@dataclass(frozen=True, kw_only=True)
class Duality:
    """The contents of a panel, all of it said by one norm.

    Args:
        ball: points of norm 1, in order around the origin, shape (points, 2).
        dual_ball: points of dual norm 1.
        g: the gradient, shortened to dual norm 1.
        touch: dualize(g), where the supporting line touches the ball.
        line: two points of the line ⟨g, x⟩ = ‖g‖†.
    """

    ball: Tensor
    dual_ball: Tensor
    g: Tensor
    touch: Tensor
    line: Tensor


def boundary(norm: Norm) -> Tensor:
    """Points of norm 1 in the plane, in order around the origin.

    Args:
        norm: the norm of each row of a matrix, such as `norms.L1(dims=-1)`.

    Returns:
        Tensor of shape (POINTS + 1, 2); the last point is the first.
    """
    angle = torch.arange(POINTS + 1, dtype=torch.float64) * (2 * math.pi / POINTS)
    around = torch.stack([angle.cos(), angle.sin()], dim=-1)
    return around / norm(around).unsqueeze(-1)


def duality(make: Callable[..., Norm], g: Tensor) -> Duality:
    """The data of a panel.

    Args:
        make: a maker of the norm that takes `dims`.
        g: a gradient in the plane.
    """
    norm, rows = make(), make(dims=-1)
    touch = norm.dualize(g)
    along = torch.stack([-g[1], g[0]]) / torch.linalg.vector_norm(g)
    return Duality(
        ball=boundary(rows),
        dual_ball=boundary(rows.dual),
        g=g / norm.dual(g),
        touch=touch,
        line=torch.stack([touch - 9 * along, touch + 9 * along]),
    )


def dual_label(norm: Norm) -> str:
    """The dual norm as a reader would call it."""
    dual = norm.dual
    return "2·RMS()" if dual == norms.RMS().dual else repr(dual)


def _panel(axes: Axes, name: str, make: Callable[..., Norm], reach: float) -> None:
    data = duality(make, torch.tensor(GRADIENT, dtype=torch.float64))
    axes.axhline(0, color=figures.FAINT, linewidth=0.8, zorder=0)
    axes.axvline(0, color=figures.FAINT, linewidth=0.8, zorder=0)
    axes.fill(*data.ball.T.tolist(), color=figures.FILL, zorder=1)
    axes.plot(
        *data.ball.T.tolist(),
        color=figures.BLUE,
        linewidth=2.0,
        label="unit ball ‖x‖ ≤ 1",
        zorder=3,
    )
    axes.plot(
        *data.dual_ball.T.tolist(),
        color=figures.GREY,
        linewidth=1.4,
        linestyle=(0, (4, 3)),
        label="unit ball of the dual norm ‖x‖† ≤ 1",
        zorder=2,
    )
    axes.plot(
        *data.line.T.tolist(),
        color=figures.ORANGE,
        linewidth=1.2,
        label="supporting line ⟨g, x⟩ = ‖g‖†",
        zorder=4,
    )
    axes.annotate(
        "",
        xy=figures.xy(data.g),
        xytext=(0, 0),
        arrowprops={"arrowstyle": "-|>", "color": figures.INK, "linewidth": 1.6, "shrinkB": 0},
        zorder=5,
    )
    axes.plot([], [], color=figures.INK, linewidth=1.6, label="gradient g, at dual norm 1")
    axes.plot(
        *data.touch.tolist(),
        "o",
        color=figures.ORANGE,
        markersize=8,
        label="dualize(g), the farthest point along g",
        zorder=6,
    )
    axes.set_title(f"{name},  dual {dual_label(make())}")
    figures.plane(axes, (-reach, reach), (-reach, reach))


def draw() -> bytes:
    """The picture as PNG."""
    figure = figures.new_figure(7.2)
    panels = figure.subplots(2, 3).flat
    for axes, (name, make) in zip(panels, NORMS.items(), strict=True):
        _panel(axes, name, make, reach=1.62)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figures.png(figure)
