"""Hold two steps of each layer against each other: the Euclidean and the spectral one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from steepest._common.errors import invalid
from steepest._common.numerics import in_double
from steepest.diagnostics._preserved_state import PreservedState
from steepest.diagnostics.curvature.loss import named
from steepest.diagnostics.curvature.sharpness import quadratic_model_at
from steepest.diagnostics.geometry._loss_with_products import MISSING, LossWithProducts
from steepest.diagnostics.geometry.bounds import guarantees
from steepest.diagnostics.geometry.layer_products import squares
from steepest.diagnostics.geometry.verdict import LayerVerdict, Verdict
from steepest.polar import Svd
from steepest.routing import route

ModelLoss: TypeAlias = Callable[[Any, Any], Tensor]
"""The loss of a model on a batch, as a function of both."""


def compare_geometries(
    model: nn.Module,
    loss: ModelLoss,
    batch: Any,
    *,
    layers: Sequence[str] | None = None,
    steps: int = 30,
    tolerance: float = 0.01,
) -> Verdict:
    """Compare how far a Euclidean and a spectral step of each layer lower the loss.

    A layer computes Z = W·A, each position of the batch a column of A. With second derivatives of
    the loss by Z of at most c, a step Δ of W lowers the loss by

        ‖G‖_F²/(2·L_F),   L_F = c·‖A‖₂²,                  with Δ = −G/L_F,
        ‖G‖_*²/(2·L_2),   L_2 = c·Σ_{i ≤ out} σ_i(A)²,    with Δ = −(‖G‖_*/L_2)·UVᵀ

    at least: the nuclear rank of G against the stable rank of A, cut off at out. This is a theorem
    where the loss is quadratic in Z; elsewhere it holds for its quadratic model, so both steps are
    also tried out.

    Looked at is each parameter with two axes or more that needs a gradient: of linear layers,
    convolutions, embeddings and products `x @ W`, as one matrix (with groups block-diagonal). Used
    several times it has one row, and a verdict if no use feeds another.

    Nothing is changed: parameters, buffers and random states are put back bit for bit. Two
    gradients; for each layer at most `steps` + 2 products with a Hessian, two evaluations, an SVD
    of G and the eigenvalues of A's smaller Gram matrix, while the graph is kept.

    Args:
        model: a module in float32 or float64, in training mode or not.
        loss: a function of `model` and `batch` that gives the loss, a scalar with its graph.
        batch: the second argument of `loss`.
        layers: names of weights, with or without ".weight"; None is all of them.
        steps: the most Lanczos steps for c.
        tolerance: the residual that is added to c, relative to it; c is an estimate nevertheless.

    Raises:
        ValueError: a loss that is not a scalar with a graph and second derivatives, or is not
            called with model and batch; half precision; a named layer that is unknown or not used.

    Examples:
        >>> model = nn.Linear(4, 2, bias=False)
        >>> found = compare_geometries(model, lambda m, b: (m(b) - 1).square().sum(), torch.eye(4))
        >>> round(found["weight"].spread, 3)  # two outputs, and all inputs are alike
        2.0

    Sources:
        Bernstein & Newhouse, arXiv 2409.20325; ‖ΔA‖_F by von Neumann's trace inequality.
    """
    weights = _weights(model, layers)
    with PreservedState(model, model.parameters()) as kept:
        traced = LossWithProducts(partial(loss, model, batch), weights)
        if layers is not None and (unseen := [n for n in weights if not traced.calls[n]]):
            raise invalid("layers", unseen, MISSING)
        drafts, value = [_draft(traced, k, steps, tolerance) for k in weights], traced.point.value
        del traced  # and with it the graph, whose tensors are about to change
        evaluate = partial(loss, model, batch)
        rows = [_tried(draft, weights, evaluate, value, kept) for draft in drafts]
    return Verdict(loss=value, rows=_placed(rows, model))


def _placed(rows: Sequence[LayerVerdict], model: nn.Module) -> tuple[LayerVerdict, ...]:
    """The rows with the reason where the routing has decided before."""
    routed = _routed(model)
    return tuple(replace(row, routed=routed.get(row.layer, "")) for row in rows)


def _routed(model: nn.Module) -> dict[str, str]:
    """The reasons why weights belong to AdamW and not to a norm of matrices, by layer."""
    try:
        routing = route(model)
    except ValueError:  # one that the routing refuses has no places
        return {}
    return {
        name.removesuffix(".weight"): place.reason
        for place in routing
        if place.target == "table"
        for name in (place.name, *place.aliases)
    }


class _Draft(NamedTuple):
    """A verdict without what has to be tried out: the two steps, if there are any."""

    row: LayerVerdict
    moves: tuple[Tensor, ...] = ()


def _weights(model: nn.Module, layers: Sequence[str] | None) -> dict[str, Tensor]:
    """The weights to look at, by layer: with two axes or more, and a gradient.

    Raises:
        ValueError: half precision, no such parameter, or none of a name.
    """
    found = {
        name.removesuffix(".weight"): p for name, p in named(model, "model").items() if p.ndim >= 2
    }
    if not found:
        raise invalid("model", type(model).__name__, "none of its weights is a matrix")
    if layers is None:
        return found
    wanted = [name.removesuffix(".weight") for name in layers]
    if not wanted or (unknown := [name for name in wanted if name not in found]):
        given = unknown if wanted else layers
        raise invalid("layers", given, f"give some of {list(found)}, which are not frozen")
    return {name: found[name] for name in wanted}


def _draft(traced: LossWithProducts, name: str, steps: int, tolerance: float) -> _Draft:
    """Say of a layer what needs the graph."""
    weight, slope, calls = traced.weights[name], traced.point.grad[name], traced.calls[name]
    row = LayerVerdict(layer=name, shape=tuple(weight.shape), calls=len(calls))
    note = traced.obstacle(name)
    if note:
        return _Draft(replace(row, note=note))
    top = traced.curvature(name, steps, tolerance)
    if not top.value > 0:
        return _Draft(replace(row, note="the loss curves upwards along no change of its output"))
    view = calls[0].product.view
    (g,) = view.matrices(slope)
    unit = Svd()(g)
    c = top.value + top.residual
    found = guarantees(in_double(g), in_double(unit), squares([call.product for call in calls]), c)
    moves = (
        -slope * found.euclidean_length.to(slope),
        -view.restore([unit * found.spectral_length.to(unit)], weight.shape),
    )
    euclidean, spectral = (
        quadratic_model_at(traced.point, {name: move}).best_decrease for move in moves
    )
    return _Draft(
        replace(
            row,
            nuclear_rank=float(found.nuclear_rank),
            stable_rank=float(found.stable_rank),
            spread=float(found.spread),
            curvature=c,
            curvature_error=top.residual,
            guaranteed_euclidean=float(found.euclidean),
            guaranteed_spectral=float(found.spectral),
            best_euclidean=euclidean,
            best_spectral=spectral,
        ),
        moves,
    )


def _tried(
    draft: _Draft,
    weights: dict[str, Tensor],
    loss: Callable[[], Tensor],
    before: float,
    kept: PreservedState,
) -> LayerVerdict:
    """Complete a verdict by the loss at the end of both steps."""
    if not draft.moves:
        return draft.row
    falls = []
    for move in draft.moves:
        kept.restore()
        weights[draft.row.layer].data.add_(move)
        # The arithmetic of the first evaluation, whose differences would count.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            falls.append(before - float(loss().detach()))
    euclidean, spectral = falls
    return replace(draft.row, measured_euclidean=euclidean, measured_spectral=spectral)
