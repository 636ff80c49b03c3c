"""The one length of a step that all parameters share: estimated, or searched for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from steepest._common.numerics import epsilon, widened
from steepest.norms import Norm
from steepest.optim.batching import GroupStep, Update
from steepest.optim.choices import Loss
from steepest.optim.finite import ReplicatedParams
from steepest.optim.line_search import line_search
from steepest.optim.member import local_grad
from steepest.optim.options import Group
from steepest.optim.sharded import ShardUpdate
from steepest.optim.updates import replace
from steepest.sharding import (
    RankGroup,
    all_reduce_sum,
    is_sharded,
    layout_of,
    local,
    sharded_like,
    whole,
)

Todo: TypeAlias = list[tuple[GroupStep, Update]]
"""The updates of one step, each with the step of its group."""

# Ours. The first step is short enough to see the curvature where the weights are, and long enough
# to be seen in their type; the estimate forgets a steep place in some twenty steps.
PROBE = 1e-3
"""Length of the first step over the norm of the weights, while the sharpness is unknown."""

KEPT = 0.95
"""The share of the estimated sharpness that stays in a step that shows a smaller one."""


def norm_of(step: GroupStep) -> Norm:
    """The norm in which a group moves."""
    return cast(Norm, step.rule.geometry)


def total(values: Iterable[Tensor], *, largest: bool = False) -> Tensor:
    """The sum, or the largest, of all numbers, in float64 where the first of them is."""
    flat = [v.detach().reshape(-1) for v in values]
    every = torch.cat([v.to(flat[0].device, torch.float64) for v in flat])
    return every.amax() if largest else every.sum()


def slope_of(
    todo: Todo, weights: Sequence[Tensor | float], sets: Sequence[ReplicatedParams]
) -> Tensor:
    """Σ weight·‖u‖† over all parts of all parameters, on whatever rank, as ⟨u, dualize(u)⟩.

    Only where the directions are the duality map of the norm.

    Args:
        todo: The updates, made with the inner product of the norm.
        weights: A factor for each update.
        sets: The parameters that ranks hold together.
    """
    place = {p: i for i, one in enumerate(sets) for p in one.params}
    alone = list[Tensor]()
    here = [[torch.zeros((), device=one.params[0].device)] for one in sets]
    for (step, update), weight in zip(todo, weights, strict=True):
        param = update.member.param
        # What ranks hold together without dividing the work is counted on each of them.
        shared = isinstance(update, ShardUpdate) or is_sharded(param)
        known = here[place[param]] if shared and param in place else alone
        known += [dual * weight for dual in _duals(update, norm_of(step))]
    sums = [all_reduce_sum(total(each), one.ranks) for each, one in zip(here, sets, strict=True)]
    return total([*alone, *sums])


def _duals(update: Update, norm: Norm) -> list[Tensor]:
    """‖u‖† of each part, one number for each member of its batch, as far as this rank counts it."""
    if isinstance(update, ShardUpdate):
        return [] if update.dual is None else [update.dual]
    duals = [norm.inner(u, d) for u, d in zip(update.u, update.direction, strict=True)]
    param = update.member.param
    if is_sharded(param):
        place = RankGroup.of_mesh(param.device_mesh).rank
        return [dual / layout_of(param).replicas(place) for dual in duals]
    return duals


def _parts(update: Update, x: Tensor) -> list[Tensor]:
    """The parts that the norm measures, of a tensor laid out as the parameter."""
    return update.member.split(whole(sharded_like(x, update.member.param)))


def _size(update: Update, norm: Norm, x: Tensor) -> Tensor:
    """The norm of a tensor of the parameter's shape, the largest over its parts."""
    return torch.stack([norm(part, check=False).amax() for part in _parts(update, x)]).amax()


def _largest_weight(todo: Todo) -> Tensor:
    """The norm of the weights, 1 where it is zero."""
    size = total((_size(m, norm_of(step), m.member.local) for step, m in todo), largest=True)
    return torch.where(size > 0, size, 1.0)


def estimated_sharpness(
    todo: Todo, slope: Tensor, head: Group, state: Mapping[Tensor, dict[str, Any]]
) -> Tensor:
    """L = ‖∇f(x + Δ) − ∇f(x)‖†/‖Δ‖ of the last step, or KEPT of the estimate before if larger.

    Args:
        todo: The updates of this step.
        slope: The dual norm of the whole gradient.
        head: The group that keeps `estimate` and whether it is `known`, both on the device.
        state: The state of each parameter; keeps its last gradient and value.

    Returns:
        The sharpness to use; inf where there is no slope, so that there is no step.
    """
    # A step below the rounding of the parameters would not be one.
    part = max(PROBE, *(8 * epsilon(m.member.param.dtype) for _, m in todo))
    probe = slope / (part * _largest_weight(todo))
    pairs = [_change(m, norm_of(step), state[m.member.param]) for step, m in todo]
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
        _keep(head, "estimate", torch.where(moved > 0, moving, still))
        _keep(head, "known", known | ((moved > 0) & (ratio > 0)))
    else:
        head["estimate"], head["known"] = probe, torch.zeros_like(slope, dtype=torch.bool)
    estimate: Tensor = head["estimate"]
    return torch.where(estimate > 0, estimate, float("inf"))


def _change(update: Update, norm: Norm, state: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
    """‖∇f(x + Δ) − ∇f(x)‖† and ‖Δ‖ of the last step, in this parameter; remembers the next."""
    member, ok, pair = update.member, update.finite, None
    assert isinstance(ok, Tensor), "one problem keeps what it knows on the device"
    grad = local_grad(member.param).to(member.dtype)
    if "previous_grad" in state:
        before = local(state["previous_grad"]).to(member.dtype)
        turned = torch.where(ok & before.isfinite(), grad - before, 0)
        wide = widened(member.param.dtype)
        moved = member.local.to(wide) - local(state["previous_param"]).to(wide)
        turns = [norm.dual(part, check=False).sum() for part in _parts(update, turned)]
        pair = (total(turns), _size(update, norm, moved))
    # A gradient that is not finite says nothing about the next change.
    _keep(state, "previous_grad", sharded_like(torch.where(ok, grad, float("nan")), member.param))
    _keep(state, "previous_param", sharded_like(member.local.clone(), member.param))
    return pair


def _keep(kept: Any, key: str, value: Tensor) -> None:
    """Write a value into the memory of the one before, where a CUDA graph of the step reads it."""
    old = kept.get(key)
    alike = isinstance(old, Tensor) and (old.shape, old.dtype) == (value.shape, value.dtype)
    if isinstance(old, Tensor) and alike and old.device == value.device:
        replace([local(old)], [local(value)], [True])
    else:
        kept[key] = value


def search(
    todo: Todo,
    closure: Callable[[], Loss],
    loss: Loss,
    head: Group,
    sets: Sequence[ReplicatedParams],
    replicas: RankGroup | None,
) -> None:
    """Update all parameters along their directions to where the line search ends.

    Args:
        todo: The updates of this step; used up.
        closure: A function that evaluates the loss at the present parameters.
        loss: Its value before the step.
        head: The group that keeps the last length as `estimate`.
        sets: The parameters that ranks hold together; their losses count alike.
        replicas: Ranks that hold copies of the parameters, whether they divide the work or not.
    """
    sign = -1.0 if head["maximize"] else 1.0
    rates = [update.rate(step.group["lr"]) for step, update in todo]
    slope = slope_of(todo, rates, sets)
    groups_of_ranks = [one.ranks for one in sets] + ([replicas] if replicas else [])
    ranks = max(groups_of_ranks, key=lambda ranks: ranks.size, default=None)

    def mean(loss: Loss) -> float:
        if ranks is None:
            return sign * as_number(loss)
        value = torch.tensor(as_number(loss), dtype=torch.float64, device=slope.device)
        return sign * float(all_reduce_sum(value, ranks)) / ranks.size

    first = head["estimate"] or PROBE * float(_largest_weight(todo))
    lines = []
    for each, (_, update) in zip(rates, todo, strict=True):
        joined, length = update.joined([each] * len(update.direction))
        param = update.member.local
        lines.append((param, param.clone(), joined * length))

    def go(length: float) -> None:
        for param, start, direction in lines:
            param.copy_(start - length * direction)

    def value(length: float) -> float:
        go(length)
        with torch.enable_grad():
            return mean(closure())

    length = 0.0
    try:
        length = line_search(value, mean(loss), -float(slope), float(first))
    finally:
        go(length)
    head["estimate"] = length or None


def as_number(loss: Loss) -> float:
    """The value of a loss."""
    return float(loss.detach() if isinstance(loss, Tensor) else loss)
