"""The ball in which weight decay keeps each parameter, for those who look from outside."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from steepest._common.numerics import widened
from steepest.maps import ConvexMap
from steepest.norms import Geometry
from steepest.optim.batching import Member
from steepest.optim.groups import name_of
from steepest.optim.options import Group
from steepest.optim.rule import UpdateRule
from steepest.optim.updates import average_dtype
from steepest.sharding import whole


@dataclass(frozen=True, eq=False, kw_only=True)
class Constrained:
    """A parameter, and what its weight decay asks of each of its parts Wᵢ.

        minimise F + Σ K.conjugate(λᵢ·Wᵢ)/λᵢ,   λᵢ = weight_decay/lengths[i]

    `SteepestOptimizer.constraints` makes them.

    Args:
        name: what the optimizer calls it.
        param: the parameter.
        momentum: the optimizer's average of the gradients of F; None without one.
        maximize: whether F is minus the loss.
        geometry: what decides on its direction: a norm or a map.
        K: the map whose gradient is the direction of a step; None where a step's length follows the
            gradient.
        weight_decay: of its group.
        cautious: whether only some entries are decayed.
        projected: whether each step ends on the ball itself.
        lengths: of the step over `lr`, for each part.
        cut: a tensor of the parameter's shape as its parts; a sharded one comes together for it.
        works_in: the type in which directions are computed.
    """

    name: str
    param: Tensor
    momentum: Tensor | None
    maximize: bool
    geometry: Geometry
    K: ConvexMap | None
    weight_decay: float
    cautious: bool
    projected: bool
    lengths: tuple[float, ...]
    cut: Callable[[Tensor], list[Tensor]]
    works_in: torch.dtype

    @property
    def free(self) -> str:
        """Why there is no ball; empty where there is one."""
        if self.weight_decay == 0:
            return "no weight decay"
        if self.K is None:
            return "steps follow the gradient: decay is a penalty"
        if self.cautious and not self.projected:
            return "cautious decay has no ball"
        return "" if self.K.domain is not None else f"{self.K}: decay is a penalty"

    @property
    def radii(self) -> list[float]:
        """Of each part's ball in K.domain: length·K.upper/weight_decay; inf without one.

        A projection holds inexact steps to the ball of exact ones, so `upper` is 1 with it.
        """
        if self.free or self.K is None:
            return [math.inf] * len(self.lengths)
        radii = []
        for part, length in zip(self.cut(self.param.detach()), self.lengths, strict=True):
            rows, cols, _ = self.K.extent(part)
            upper = 1.0 if self.projected else self.K.upper(rows, cols, self.works_in)
            radii.append(length * upper / self.weight_decay)
        return radii


def _parts(member: Member, x: Tensor) -> list[Tensor]:
    """The parts of a tensor of the parameter's shape; of a DTensor on every rank, which all ask."""
    return member.split(whole(x))


def constrained(
    group: Group, rule: UpdateRule, state: Mapping[Tensor, Mapping[str, Any]]
) -> Iterator[Constrained]:
    """The parameters of a group that move in a norm or along a map, one by one.

    Not empty ones, and none that is frozen (`requires_grad=False`).

    Args:
        group: The group, with its views.
        rule: The rule of the group.
        state: The state of the optimizer.
    """
    for param, view in zip(group["params"], group["views"], strict=True):
        if not (param.numel() and param.requires_grad):
            continue
        dtype = average_dtype(param, group["momentum_dtype"])
        member = Member(param, dtype, view, rule, like=param)
        yield Constrained(
            name=name_of(group, param),
            param=param,
            # `get`: the state of an optimizer makes an entry for whoever asks.
            momentum=state.get(param, {}).get("momentum_buffer"),
            maximize=group["maximize"],
            geometry=rule.geometry,
            K=rule.constraint_map,
            weight_decay=float(group["weight_decay"]),
            cautious=group["decay"] == "cautious",
            projected=group["constraint"] == "project",
            lengths=tuple(member.lengths),
            cut=partial(_parts, member),
            works_in=widened(dtype),
        )
