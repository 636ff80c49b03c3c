"""A parameter under an optimizer, for those who look from outside: norm, matrices, ball.

Nothing here is used by a step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from steepest._common.numerics import widened
from steepest.maps import ConvexMap
from steepest.norms import Geometry
from steepest.optim.choices import SLOTS
from steepest.optim.groups import Views, name_of
from steepest.optim.momentum import average_dtype, average_of
from steepest.optim.options import Group
from steepest.optim.rule import UpdateRule
from steepest.sharding import whole
from steepest.views import LINEAR, MatrixView


@dataclass(frozen=True, eq=False, kw_only=True)
class ParameterView:
    """A parameter as its optimizer sees it, and what weight decay asks of each of its parts Wᵢ.

        minimise F + Σ K.conjugate(λᵢ·Wᵢ)/λᵢ,   λᵢ = weight_decay/lengths[i]

    `SteepestOptimizer.parameter_views` makes them. One that is stepped by AdamW, or by an optimizer
    of somebody else, has no geometry, no K and no lengths, and its formula does not hold.

    Args:
        name: the optimizer's name for it.
        param: the parameter.
        group: the parameter group that it is in, as the optimizer holds it.
        state: the state that the optimizer keeps of it; empty before the first step.
        view: the matrices that its steps are made of; None if steps take the tensor as it is.
        geometry: the norm or the map that decides on its direction; None without one.
        K: the map whose gradient is the direction of a step; None where the length of a step
            follows the gradient.
        lengths: the length of a step over `lr`, for each part.
    """

    name: str
    param: Tensor
    group: Mapping[str, Any]
    state: Mapping[str, Any]
    view: MatrixView | None = None
    geometry: Geometry | None = None
    K: ConvexMap | None = None
    lengths: tuple[float, ...] = ()

    @property
    def adamw(self) -> bool:
        """Whether AdamW steps it in an optimizer of this library."""
        return bool(self.group.get("adamw"))

    @property
    def momentum(self) -> Tensor | None:
        """The optimizer's average of the gradients of F; None without one."""
        return average_of(self.state)

    @property
    def maximize(self) -> bool:
        """Whether F is minus the loss."""
        return bool(self.group.get("maximize"))

    @property
    def weight_decay(self) -> float:
        """The weight decay of the group."""
        return float(self.group.get("weight_decay") or 0.0)

    @property
    def cautious(self) -> bool:
        """Whether only some entries are decayed."""
        return self.group.get("decay") == "cautious"

    @property
    def projected(self) -> bool:
        """Whether each step ends on the ball itself."""
        return self.group.get("constraint") == "project"

    @property
    def works_in(self) -> torch.dtype:
        """The type in which directions are computed."""
        return widened(average_dtype(self.param, self.group.get("momentum_dtype")))

    def parts(self, x: Tensor) -> list[Tensor]:
        """A tensor of the parameter's shape as the tensors that its norm measures.

        A DTensor comes together for it, on every rank of its mesh, all of which have to ask.
        """
        x = whole(x)
        return [x] if self.view is None or self.view == LINEAR else self.view.matrices(x)

    @property
    def mapped(self) -> bool:
        """Whether a map stands beside its duality map, or a retraction takes its steps."""
        return any(self.group.get(key) is not None for key in SLOTS)

    @property
    def why_none(self) -> str:
        """The reason why there is no ball; empty where there is one."""
        if self.geometry is None:
            return "no norm of its own: decay is a penalty"
        if self.weight_decay == 0:
            return "no weight decay"
        if self.mapped:
            return "directions or steps are mapped once more: decay is a penalty"
        if self.K is None:
            return "steps follow the gradient: decay is a penalty"
        if self.cautious and not self.projected:
            return "cautious decay has no ball"
        return "" if self.K.domain is not None else f"{self.K}: decay is a penalty"

    @property
    def radii(self) -> list[float]:
        """The radius of each part's ball in K.domain: length·bound/weight_decay; inf without one.

        The bound is `K.gradient_bound`; 1 with a projection, which holds inexact steps to the ball
        of exact ones.
        """
        if self.why_none or self.K is None:
            return [math.inf] * (len(self.lengths) or 1)
        radii = []
        for part, length in zip(self.parts(self.param.detach()), self.lengths, strict=True):
            rows, cols, _ = self.K.matrix_shape(part)
            bound = 1.0 if self.projected else self.K.gradient_bound(rows, cols, self.works_in)
            radii.append(length * bound / self.weight_decay)
        return radii


def group_views(
    group: Group,
    state: Mapping[Tensor, Mapping[str, Any]],
    rule: UpdateRule | None,
    views: Views,
) -> Iterator[ParameterView]:
    """The parameters of a group, one by one, without empty and frozen ones.

    Args:
        group: The group.
        state: The state of the optimizer.
        rule: The rule of the group; None if AdamW has it.
        views: The views of its parameters.
    """
    for param, view in zip(group["params"], views, strict=True):
        if not (param.numel() and param.requires_grad):
            continue
        shapes = view.shapes(param.shape) if view else []
        yield ParameterView(
            name=name_of(group, param),
            param=param,
            group=cast(dict[str, Any], group),
            # `get`: the state of an optimizer makes an entry for anyone who asks.
            state=state.get(param, {}),
            view=view,
            geometry=rule.geometry if rule else None,
            K=rule.constraint_map if rule else None,
            lengths=tuple(rule.lengths(shapes)) if rule else (),
        )
