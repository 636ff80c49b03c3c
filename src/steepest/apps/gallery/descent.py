"""Steepest descent on a quadratic of the plane: what the sharpness does, and where steps lead."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from torch import Tensor

from steepest import norms
from steepest._common.errors import invalid
from steepest.apps import _figures as figures
from steepest.apps.gallery.balls import boundary
from steepest.norms import Norm

NORMS: Mapping[str, Callable[..., Norm]] = {
    "L1()": norms.L1,
    "L2()": norms.L2,
    "LInf()": norms.LInf,
}
COLOURS = {"L1()": figures.ORANGE, "L2()": figures.BLUE, "LInf()": figures.GREEN}
SHARPNESSES = {"L/2": 0.5, "L": 1.0, "2L": 2.0}
DASHES: Mapping[str, tuple[float, Sequence[float]] | None] = {
    "L/2": (0, (1, 1.6)),
    "L": None,
    "2L": (0, (5, 2.5)),
}
START = (-2.5, 0.2)
STEPS = 25


@dataclass(frozen=True)
class CentredQuadratic:
    """f(x) = ½·⟨x, Hx⟩, smallest at the origin.

    Args:
        h: H, symmetric and positive definite, shape (d, d).
    """

    h: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """f at each point, the last axis of `x`."""
        return ((x @ self.h) * x).sum(dim=-1) / 2

    def grad(self, x: Tensor) -> Tensor:
        """Hx at each point."""
        return x @ self.h

    def smoothness(self, norm: Norm) -> float:
        """The smallest L with ‖∇f(x) − ∇f(y)‖† ≤ L·‖x − y‖, exactly.

            L = max of ‖Hv‖† over ‖v‖ ≤ 1, the induced norm of H

        Raises:
            ValueError: the norm is none of ℓ1, ℓ2 and ℓ∞ of a whole vector.
        """
        if norm == norms.L1():
            return float(norms.Operator(1, math.inf)(self.h))
        if norm == norms.L2():
            return float(norms.Operator(2, 2)(self.h))
        if norm == norms.LInf():
            # A convex function is largest at a corner of the cube.
            corners = itertools.product((-1.0, 1.0), repeat=self.h.shape[0])
            signs = torch.tensor(list(corners), dtype=self.h.dtype)
            return float(norms.L1(dims=-1)(signs @ self.h).max())
        raise invalid("norm", norm, "give norms.L1(), norms.L2() or norms.LInf()")


def example() -> CentredQuadratic:
    """The valley of the pictures: eigenvalues 1 and 5, turned by 35 degrees."""
    turn = math.radians(35)
    axes = torch.tensor(
        [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]], dtype=torch.float64
    )
    return CentredQuadratic(axes @ torch.tensor([1.0, 5.0], dtype=torch.float64).diag() @ axes.mT)


def start() -> Tensor:
    """The point where the pictures begin."""
    return torch.tensor(START, dtype=torch.float64)


def step(norm: Norm, g: Tensor, *, sharpness: float) -> Tensor:
    """Δ = −(‖g‖†/λ)·dualize(g), which minimises ⟨g, Δ⟩ + (λ/2)·‖Δ‖²."""
    return -norm.sharp(g) / sharpness


def path(f: CentredQuadratic, norm: Norm, x: Tensor, *, steps: int) -> Tensor:
    """The points of steepest descent with λ = L, shape (steps + 1, d)."""
    sharpness = f.smoothness(norm)
    points = [x]
    for _ in range(steps):
        points.append(points[-1] + step(norm, f.grad(points[-1]), sharpness=sharpness))
    return torch.stack(points)


@dataclass(frozen=True, kw_only=True)
class LossAndModels:
    """f and its models on the way of the steps, as changes from the start.

    Args:
        length: ‖Δ‖, the same for every curve.
        f: f(x + Δ) − f(x).
        models: the model of each sharpness λ, −‖Δ‖·‖g‖† + (λ/2)·‖Δ‖².
    """

    length: Tensor
    f: Tensor
    models: Mapping[str, Tensor]


def loss_and_models(f: CentredQuadratic, norm: Norm, x: Tensor) -> LossAndModels:
    """The curves from the start to a little beyond the longest step."""
    g = f.grad(x)
    size, sharpness = norm.dual(g), f.smoothness(norm)
    t = torch.linspace(0, 2.3 * float(size) / sharpness, 200, dtype=x.dtype)
    models = {k: -t * size + c * sharpness / 2 * t.square() for k, c in SHARPNESSES.items()}
    f_along = f(x - t.unsqueeze(-1) * norm.dualize(g)) - f(x)
    return LossAndModels(length=t, f=f_along, models=models)


def _contours(
    axes: Axes, f: CentredQuadratic, x: tuple[float, float], y: tuple[float, float]
) -> None:
    across = torch.linspace(*x, 200, dtype=torch.float64)
    up = torch.linspace(*y, 200, dtype=torch.float64)
    values = f(torch.cartesian_prod(across, up)).reshape(200, 200).T
    levels = [float(f(start())) * c**2 for c in (0.15, 0.4, 0.7, 1.0, 1.35, 1.75)]
    axes.contour(
        across.tolist(), up.tolist(), values.tolist(), levels, colors=figures.GREY, linewidths=0.6
    )
    axes.plot(0, 0, "+", color=figures.GREY, markersize=9)
    figures.plane(axes, x, y)


def _map(axes: Axes, name: str, f: CentredQuadratic) -> None:
    """The steps of one norm on the contour lines, each with the ball that it reaches."""
    x, norm = start(), NORMS[name]()
    g, unit = f.grad(x), boundary(NORMS[name](dims=-1))
    _contours(axes, f, (-5.3, 1.7), (-3.0, 2.9))
    for label, c in SHARPNESSES.items():
        delta = step(norm, g, sharpness=c * f.smoothness(norm))
        ball = x + float(norm(delta)) * unit
        axes.plot(
            *ball.T.tolist(), color=COLOURS[name], linewidth=1.3, linestyle=DASHES[label], zorder=2
        )
        axes.plot(
            *torch.stack([x, x + delta]).T.tolist(), color=figures.INK, linewidth=1.0, zorder=3
        )
        axes.plot(*(x + delta).tolist(), "o", color=COLOURS[name], markersize=6.5, zorder=4)
        axes.annotate(
            label,
            figures.xy(x + delta),
            xytext=(3, 7),
            textcoords="offset points",
            ha="center" if label == "2L" else "left",
            path_effects=[withStroke(linewidth=3, foreground="white")],
            zorder=5,
        )
    axes.plot(*x.tolist(), "o", color=figures.INK, markersize=5, zorder=5)
    axes.set_title(f"{name},  L = {f.smoothness(norm):.2f}")


def _models(axes: Axes, name: str, f: CentredQuadratic) -> None:
    """f and the three models on the way of the steps, with the bottom of each model."""
    x, norm = start(), NORMS[name]()
    data, size = loss_and_models(f, norm, x), norm.dual(f.grad(x))
    axes.plot(data.length.tolist(), data.f.tolist(), color=figures.FAINT, linewidth=6)
    for label, c in SHARPNESSES.items():
        sharpness = c * f.smoothness(norm)
        axes.plot(
            data.length.tolist(),
            data.models[label].tolist(),
            color=COLOURS[name],
            linewidth=1.4,
            linestyle=DASHES[label],
        )
        bottom = (float(size) / sharpness, -(float(size) ** 2) / (2 * sharpness))
        axes.plot(*bottom, "o", color=COLOURS[name], markersize=6.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("length ‖Δ‖ of the step")
    figures.graph(axes)


def draw_sharpness() -> bytes:
    """The steps of three sharpnesses in three norms, as PNG."""
    figure = figures.new_figure(6.6)
    upper, lower = figure.subfigures(2, 1, height_ratios=(1, 1.15), squeeze=False).flat
    maps, models = upper.subplots(1, 3), lower.subplots(1, 3, sharey=True)
    f, first = example(), models[0]
    for name, above, below in zip(NORMS, maps, models, strict=True):
        _map(above, name, f)
        _models(below, name, f)
    first.set_ylabel("change of f")
    curves = [loss_and_models(f, make(), start()) for make in NORMS.values()]
    deepest = min(float(model.min()) for c in curves for model in c.models.values())
    first.set_ylim(1.08 * deepest, -0.4 * deepest)
    lines = [Line2D([], [], color=figures.FAINT, linewidth=6, label="f itself")]
    lines += [
        Line2D([], [], color=figures.INK, linewidth=1.4, linestyle=dashes, label=f"model, λ = {k}")
        for k, dashes in DASHES.items()
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=4)
    return figures.png(figure)


def draw_steps() -> bytes:
    """The paths of three norms, and f along them, as PNG."""
    figure = figures.new_figure(4.3)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    f, x = example(), start()
    _contours(left, f, (-2.9, 0.7), (-1.9, 1.0))
    for (name, make), marker in zip(NORMS.items(), ("s", "o", "D"), strict=True):
        points = path(f, make(), x, steps=STEPS)
        line = {"color": COLOURS[name], "marker": marker, "linewidth": 1.5, "markersize": 4}
        left.plot(*points.T.tolist(), **line)
        right.semilogy((f(points) / f(x)).tolist(), **line, label=name)
    left.plot(*x.tolist(), "o", color=figures.INK, markersize=6, zorder=5)
    left.set_title("the paths, λ = L of each norm")
    right.set_title("f, as a part of its first value")
    right.set_xlabel("steps")
    right.set_xlim(0, STEPS)
    right.minorticks_off()
    right.legend()
    figures.graph(right)
    return figures.png(figure)
