"""The one length of a step that all parameters share: estimated, or searched for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from steepest.norms import Norm
from steepest.optim._groups import Group
from steepest.optim._linesearch import line_search
from steepest.optim._moves import Move, rate
from steepest.polar.base import epsilon, widened

Loss: TypeAlias = float | Tensor
Todo: TypeAlias = list[tuple[Group, Move]]

# Ours. The first step is short enough to see the curvature where the weights are, and long enough
# to be seen in their type; the estimate forgets a steep place in some twenty steps.
PROBE = 1e-3
"""Length of the first step over the norm of the weights, while the sharpness is unknown."""

KEPT = 0.95
"""What remains of the estimated sharpness in a step that shows a smaller one."""


def total(values: Iterable[Tensor], *, largest: bool = False) -> Tensor:
    """The sum, or the largest, of all numbers, in float64 where the first of them is."""
    flat = [v.detach().reshape(-1) for v in values]
    every = torch.cat([v.to(flat[0].device, torch.float64) for v in flat])
    return every.amax() if largest else every.sum()


def duals(move: Move, norm: Norm) -> list[Tensor]:
    """‖u‖† of each part, one number for each member of its batch: ⟨u, dualize(u)⟩.

    Only where the direction is the duality map of the norm.
    """
    return [norm.inner(u, d) for u, d in zip(move.u, move.direction, strict=True)]


def _size(move: Move, norm: Norm, x: Tensor) -> Tensor:
    """The norm of a tensor of the parameter's shape, the largest over its parts."""
    return torch.stack([norm(part, check=False).amax() for part in move.item.cut(x)]).amax()


def _largest_weight(todo: Todo) -> Tensor:
    """The norm of the weights, 1 where it is zero."""
    size = total((_size(m, group["norm"], m.item.param) for group, m in todo), largest=True)
    return torch.where(size > 0, size, 1.0)


def estimated_sharpness(
    todo: Todo, slope: Tensor, head: Group, state: Mapping[Tensor, dict[str, Any]]
) -> Tensor:
    """L = ‖∇f(x + Δ) − ∇f(x)‖†/‖Δ‖ of the last step, or KEPT of the estimate before if larger.

    Args:
        todo: the moves of this step.
        slope: the dual norm of the whole gradient.
        head: the group that keeps `estimate` and whether it is `known`, both on the device.
        state: of each parameter; keeps its last gradient and value.

    Returns:
        The sharpness to use; inf where there is no slope, so that there is no step.
    """
    # A step below the rounding of the parameters would not be one.
    part = max(PROBE, *(8 * epsilon(m.item.param.dtype) for _, m in todo))
    probe = slope / (part * _largest_weight(todo))
    pairs = [_change(m, group["norm"], state[m.item.param]) for group, m in todo]
    seen = [pair for pair in pairs if pair is not None]
    if seen and head["estimate"] is not None:
        change = total(c for c, _ in seen)
        moved = total((m for _, m in seen), largest=True)
        old, known = head["estimate"].to(slope), head["known"].to(slope.device)
        ratio = change / torch.where(moved > 0, moved, 1.0)
        # Where nothing has moved (lr 0, a skipped step), nothing is learnt; where the gradient has
        # not changed either, the step doubles.
        still = torch.where(known, old, probe)
        first = torch.where(ratio > 0, ratio, old / 2)
        moving = torch.where(known, torch.maximum(ratio, KEPT * old), first)
        head["estimate"] = torch.where(moved > 0, moving, still)
        head["known"] = known | ((moved > 0) & (ratio > 0))
    else:
        head["estimate"], head["known"] = probe, torch.zeros_like(slope, dtype=torch.bool)
    estimate: Tensor = head["estimate"]
    return torch.where(estimate > 0, estimate, float("inf"))


def _change(move: Move, norm: Norm, state: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
    """‖∇f(x + Δ) − ∇f(x)‖† and ‖Δ‖ of the last step, in this parameter; remembers the next."""
    item, ok, pair = move.item, move.ok, None
    assert isinstance(ok, Tensor), "one problem keeps what it knows on the device"
    grad = item.grad.to(item.dtype)
    if "previous_grad" in state:
        before = state["previous_grad"].to(item.dtype)
        turned = torch.where(ok & before.isfinite(), grad - before, 0)
        wide = widened(item.param.dtype)
        moved = item.param.to(wide) - state["previous_param"].to(wide)
        turns = [norm.dual(part, check=False).sum() for part in item.cut(turned)]
        pair = (total(turns), _size(move, norm, moved))
    # A gradient that is not finite says nothing about the next change.
    state["previous_grad"] = torch.where(ok, grad, float("nan"))
    state["previous_param"] = item.param.clone()
    return pair


def search(todo: Todo, closure: Callable[[], Loss], loss: Loss, head: Group) -> None:
    """Move all parameters along their directions to where the line search ends.

    Args:
        todo: the moves of this step; used up.
        closure: evaluates the loss at the present parameters.
        loss: its value before the step.
        head: the group that keeps the last length as `estimate`.
    """
    sign = -1.0 if head["maximize"] else 1.0
    rates = [rate(move, group["lr"]) for group, move in todo]
    slope = total(
        d * r for r, (group, m) in zip(rates, todo, strict=True) for d in duals(m, group["norm"])
    )
    first = head["estimate"] or PROBE * float(_largest_weight(todo))
    lines = [
        (m.item.param, m.item.param.clone(), m.update([each] * len(m.direction)))
        for each, (_, m) in zip(rates, todo, strict=True)
    ]

    def go(length: float) -> None:
        for param, start, update in lines:
            param.copy_(start - length * update)

    def value(length: float) -> float:
        go(length)
        with torch.enable_grad():
            return sign * as_number(closure())

    length = 0.0
    try:
        length = line_search(value, sign * as_number(loss), -float(slope), float(first))
    finally:
        go(length)
    head["estimate"] = length or None


def as_number(loss: Loss) -> float:
    """The value of a loss."""
    return float(loss.detach() if isinstance(loss, Tensor) else loss)
