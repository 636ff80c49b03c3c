"""The loss along a direction: its slope, its curvature, and how far it falls at best."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from steepest._common.errors import invalid
from steepest._common.text import for_json, table
from steepest.diagnostics.curvature._joint_norm import views_among
from steepest.diagnostics.curvature.directions import (
    DIRECTIONS,
    Chosen,
    direction_of,
    has_adam_state,
)
from steepest.diagnostics.curvature.loss import Direction, Loss, LossAt, Named, Params, dot, named
from steepest.routing.matrices import Views
from steepest.views import MatrixView

Over = Literal["matrices", "all"]
"""The parameters that a direction moves: those that are matrices, or all."""


@dataclass(frozen=True, kw_only=True)
class QuadraticModel:
    """The quadratic model of a loss along a direction d that is added to the parameters.

        f(x + t·d) = f(x) + t·⟨g, d⟩ + ½·t²·dᵀHd + …

    so the best step is t = −⟨g, d⟩/(dᵀHd), where the model falls by ⟨g, d⟩²/(2·dᵀHd). The latter
    does not depend on the length of d.

    Args:
        gradient_correlation: ⟨g, d⟩, negative where d goes downhill.
        sharpness: dᵀHd.
        norm: ‖d‖, the Euclidean length of all of d.
        best_step: t; negative where d goes uphill; None where the model has no minimum.
        best_decrease: the fall of the model for that step; None where it has no minimum.
        note: the reason for no minimum; else empty.
    """

    gradient_correlation: float
    sharpness: float
    norm: float
    best_step: float | None
    best_decrease: float | None
    note: str = ""

    @property
    def slope(self) -> float:
        """⟨g, d⟩/‖d‖: the gradient correlation of a direction of length 1; 0 for d = 0."""
        return self.gradient_correlation / self.norm if self.norm else 0.0

    @property
    def curvature(self) -> float:
        """dᵀHd/‖d‖²: the sharpness of a direction of length 1; 0 for d = 0."""
        return self.sharpness / self.norm**2 if self.norm else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain data for JSON, with the slope and the curvature."""
        return for_json({**asdict(self), "slope": self.slope, "curvature": self.curvature})


def directional_sharpness(loss: Loss, params: Params, direction: Direction) -> float:
    """dᵀHd for the Hessian H of a loss: one evaluation and one product with H.

    Args:
        loss: a closure that gives the loss with its graph; called once.
        params: a module, tensors, or (name, tensor) pairs; what needs no gradient is left out.
        direction: d, which is taken as long as it is: a tensor for a single parameter, one for each
            in their order, or a mapping of names, where parameters that it does not name are held
            still.

    Raises:
        ValueError: a loss that is not a finite scalar with a graph or has no second derivative,
            parameters in half precision, or a direction that does not fit.

    Examples:
        >>> import torch
        >>> x = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> directional_sharpness(lambda: (x[0] ** 2 + 3 * x[1] ** 2), x, torch.tensor([1.0, 2.0]))
        26.0

    Sources:
        Pan & Li, arXiv 2306.00204; Pearlmutter, Neural Comput. 6 (1994), for the product.
    """
    return quadratic_model(loss, params, direction).sharpness


def quadratic_model(loss: Loss, params: Params, direction: Direction) -> QuadraticModel:
    """Slope, sharpness, best step and best decrease of a loss along a direction.

    One evaluation, one gradient and one product with the Hessian. Nothing is changed, and nothing
    is left in `.grad`; buffers, as of batch normalisation, are put back if `params` is a module.

    Args:
        loss: a closure that gives the loss with its graph; called once.
        params: the parameters, as for `directional_sharpness`.
        direction: d, which is added to the parameters: −g for gradient descent.

    Raises:
        ValueError: as for `directional_sharpness`.

    Examples:
        >>> import torch
        >>> x = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> found = quadratic_model(lambda: x[0] ** 2 + 3 * x[1] ** 2, x, torch.tensor([-2.0, -6]))
        >>> found.gradient_correlation, found.sharpness, round(found.best_decrease, 4)
        (-40.0, 224.0, 3.5714)

    Sources:
        Pan & Li, arXiv 2306.00204.
    """
    point = LossAt(loss, params)
    return quadratic_model_at(point, point.direction(direction))


def quadratic_model_at(point: LossAt, d: Named) -> QuadraticModel:
    """The quadratic model at a point that is there: one more product with its Hessian."""
    slope, length = dot(point.grad, d), math.sqrt(dot(d, d))
    sharp = dot(point.hvp(d), d)
    note = ""
    if length == 0:
        note = "the direction is zero"
    elif not math.isfinite(sharp):
        note = "dᵀHd is not finite"
    elif sharp <= 0:
        note = "dᵀHd ≤ 0: the quadratic model has no minimum along it"
    return QuadraticModel(
        gradient_correlation=slope,
        sharpness=sharp,
        norm=length,
        best_step=None if note else -slope / sharp,
        best_decrease=None if note else slope**2 / (2 * sharp),
        note=note,
    )


HEADINGS = ("layer", "direction", "⟨g,d⟩/‖d‖", "dᵀHd/‖d‖²", "best step·‖d‖", "best decrease", "")
LEFT = {"layer", "direction", ""}
WHOLE = "(all)"


@dataclass(frozen=True, kw_only=True)
class DirectionReport:
    """The result of `compare_directions`; a table of directions of length 1 when printed.

    `report["muon"]` is the whole direction, `report["muon", "0.weight"]` that of one layer.

    Args:
        loss: its value.
        rows: the models by the names of direction and layer, which is "" for the whole.
        notes: remarks on the comparison, in words.
    """

    loss: float
    rows: Mapping[tuple[str, str], QuadraticModel]
    notes: tuple[str, ...] = ()

    def __getitem__(self, key: str | tuple[str, str]) -> QuadraticModel:
        """The row of a direction: of its whole, or with a second name of one layer."""
        return self.rows[(key, "") if isinstance(key, str) else key]

    def __iter__(self) -> Iterator[tuple[tuple[str, str], QuadraticModel]]:
        return iter(self.rows.items())

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def directions(self) -> tuple[str, ...]:
        """The names of the directions."""
        return tuple(dict.fromkeys(direction for direction, _ in self.rows))

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers; none where only the whole was looked at."""
        return tuple(dict.fromkeys(layer for _, layer in self.rows if layer))

    def to_json(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "loss": self.loss,
            "rows": [
                {"direction": direction, "layer": layer, **row.to_json()}
                for (direction, layer), row in self
            ],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        lines = [
            (layer or WHOLE, direction, *_numbers(self.rows[direction, layer]))
            for layer in ("", *self.layers)
            for direction in self.directions
            if (direction, layer) in self.rows
        ]
        return "\n".join([table(HEADINGS, lines, left=LEFT), *(f"({n})" for n in self.notes)])


def _numbers(row: QuadraticModel) -> tuple[str, ...]:
    best = "–" if row.best_step is None else f"{row.best_step * row.norm:.3g}"
    fall = "–" if row.best_decrease is None else f"{row.best_decrease:.3g}"
    return f"{row.slope:.3g}", f"{row.curvature:.3g}", best, fall, row.note


def compare_directions(
    loss: Loss,
    params: Params,
    directions: Mapping[str, Chosen] | None = None,
    *,
    optimizer: Any = None,
    over: Over = "matrices",
    views: Views | None = None,
    per_layer: bool = True,
) -> DirectionReport:
    """Compare how far a loss falls along the directions of several optimizers, from one point.

    All of them move the same parameters: the matrices, unless told otherwise. One gradient serves
    all; then each direction costs one product with the Hessian, and one more for each layer.

    A layer is one parameter. Its numbers are those of the direction's part in it, with everything
    else held still: ⟨g_l, d_l⟩ and d_lᵀH_l·d_l with the block H_l on the diagonal of the Hessian.
    The correlations add up to that of the whole. Sharpness and decreases do not: what layers do to
    each other is in the blocks beside the diagonal, so in the whole alone.

    Args:
        loss: a closure that gives the loss with its graph; called once.
        params: a module, tensors, or (name, tensor) pairs.
        directions: norms by name, with the direction −dualize(g); or tensors by the names of
            parameters; or a function from gradients to these. None: `DIRECTIONS`.
        optimizer: the source of Adam's state, and of the views if it is one of this library.
        over: "matrices" compares over these alone: the hidden ones of a module, by `route`, or all
            tensors with two, four or five axes. "all" takes every parameter; a norm of matrices
            then leaves the others still.
        views: the matrix that a parameter is, by name; None for one that is none.
        per_layer: whether to look at each parameter by itself too.

    Raises:
        ValueError: as for `quadratic_model`; no matrices, an unknown name, or no direction.

    Examples:
        >>> import torch
        >>> from steepest import norms
        >>> w = torch.eye(2, requires_grad=True)
        >>> x = torch.diag(torch.tensor([1.0, 4.0]))
        >>> chosen = {"Euclidean": norms.L2(), "spectral": norms.Spectral()}
        >>> loss = lambda: 0.5 * (w @ x).square().sum()
        >>> print(compare_directions(loss, {"w": w}, chosen, per_layer=False))
        layer  direction  ⟨g,d⟩/‖d‖  dᵀHd/‖d‖²  best step·‖d‖  best decrease
        (all)  Euclidean        -16       15.9           1.01           8.06
        (all)  spectral         -12        8.5           1.41            8.5

    Sources:
        Pan & Li, arXiv 2306.00204, for the comparison.
    """
    tensors, cut = _compared(params, over, views, optimizer)
    point = LossAt(loss, {k: p for k, p in tensors.items() if over == "all" or k in cut}, params)
    chosen = DIRECTIONS if directions is None else directions
    made = {name: direction_of(point, c, cut, optimizer) for name, c in chosen.items()}
    rows = {(name, ""): quadratic_model_at(point, d) for name, d in made.items()}
    if per_layer:
        parts = [(name, layer, t) for name, d in made.items() for layer, t in d.items()]
        rows |= {(name, layer): quadratic_model_at(point, {layer: t}) for name, layer, t in parts}
    notes = (*_still(tensors, point, made), *_first_steps(point, made, optimizer))
    return DirectionReport(loss=point.value, rows=rows, notes=notes)


def _compared(
    params: Params, over: Over, views: Views | None, optimizer: Any
) -> tuple[Named, dict[str, MatrixView]]:
    """All parameters, and the matrices among them."""
    if over not in ("matrices", "all"):
        raise invalid("over", over, 'give "matrices" or "all"')
    tensors = named(params)
    cut = views_among(params, tensors, views=views, optimizer=optimizer)
    if over == "matrices" and not cut:
        raise invalid(
            "params",
            f"no hidden matrix among {list(tensors)}",
            'give over="all", or a mapping of names to the tensors that are to be compared over',
        )
    return tensors, cut


def _still(tensors: Named, point: LossAt, made: Mapping[str, Named]) -> Iterator[str]:
    """Name what is not moved, by any direction or by one of them."""
    if out := [name for name in tensors if name not in point.params]:
        yield f"compared over the matrices; held still: {', '.join(out)}"
    for direction, d in made.items():
        if out := [name for name in point.params if name not in d]:
            yield f"{direction} does not move {', '.join(out)}"


def _first_steps(point: LossAt, made: Mapping[str, Named], optimizer: Any) -> Iterator[str]:
    """Name the parameters for which Adam has no state."""
    if "adam" not in made:
        return
    first = [name for name, p in point.params.items() if not has_adam_state(p, optimizer)]
    if first:
        which = "every parameter" if len(first) == len(point.params) else ", ".join(first)
        yield (
            f"adam: the optimizer keeps no averages for {which}, so this is Adam's first step, "
            "along the sign of the gradient"
        )
