"""The steps of weights along directions by a retraction, and the gradients that it averages."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from steepest._common.numerics import widened
from steepest.optim.combine import Pair, combined
from steepest.optim.kept import recall
from steepest.optim.member import Member, local_grad
from steepest.optim.updates import Flag, replace
from steepest.retractions import Combination, Products, Retraction, StepSize
from steepest.transforms.transform import kept_at

State = MutableMapping[Tensor, dict[str, Any]]


def pulled(
    members: Sequence[Member],
    finite: Sequence[Flag],
    retraction: Retraction,
    state: State,
    *,
    maximize: bool,
) -> list[Tensor]:
    """The gradients that are averaged in place of those of the loss.

    Args:
        members: The parameters.
        finite: Whether each gradient is finite.
        retraction: A retraction that pulls them.
        state: The state of the optimizer.
        maximize: Whether the gradients are those of minus the loss.
    """
    kept, sign = Kept(members, finite, retraction, state), -1 if maximize else 1

    def weights(place: int, part: int, products: Products) -> Combination:
        return retraction.pull(products, kept.new[place][part])

    pairs = [Pair(m, m.local, sign * local_grad(m.param)) for m in members]
    found = combined(pairs, weights, rows=retraction.rows)
    kept.write()
    return [(sign * g).to(m.param.dtype) for m, g in zip(members, found, strict=True)]


def move(
    members: Sequence[Member],
    directions: Sequence[Tensor],
    sizes: Sequence[StepSize],
    finite: Sequence[Flag],
    retraction: Retraction,
    state: State,
) -> None:
    """Move weights along directions, in place; they stay where a gradient was not finite.

    Args:
        members: The parameters.
        directions: The directions, laid out as they are.
        sizes: How far each step goes.
        finite: Whether each gradient is finite.
        retraction: The way in which they take the step.
        state: The state of the optimizer.
    """
    kept = Kept(members, finite, retraction, state)

    def weights(place: int, part: int, products: Products) -> Combination:
        return retraction.move(products, sizes[place], kept.new[place][part])

    pairs = [Pair(m, m.local, d) for m, d in zip(members, directions, strict=True)]
    found = combined(pairs, weights, rows=retraction.rows)
    kept.write()
    replace([m.local for m in members], found, finite)


class Kept:
    """The numbers that a retraction keeps of parameters, and those that come to their place.

    Args:
        members: The parameters.
        finite: Whether each gradient is finite; what is kept stays where it is not.
        retraction: The retraction.
        state: The state of the optimizer.
    """

    def __init__(
        self,
        members: Sequence[Member],
        finite: Sequence[Flag],
        retraction: Retraction,
        state: State,
    ) -> None:
        self.finite = finite
        self.old = [recall(m, retraction.state_shapes, state) for m in members]
        self.new = [
            [{n: _wide(t, m) for n, t in kept_at("retraction", part).items()} for part in parts]
            for m, parts in zip(members, self.old, strict=True)
        ]

    def write(self) -> None:
        """Keep the new values."""
        olds: list[Tensor] = []
        news: list[Tensor] = []
        flags: list[Flag] = []
        for parts, others, ok in zip(self.old, self.new, self.finite, strict=True):
            for part, other in zip(parts, others, strict=True):
                olds += part.values()
                news += other.values()
                flags += [ok] * len(part)
        if olds:
            replace(olds, news, flags)


def _wide(kept: Tensor, member: Member) -> Tensor:
    """A copy of what is kept, in the type in which products with the weights are computed."""
    dtype = torch.promote_types(kept.dtype, widened(member.param.dtype))
    return kept.to(dtype, copy=True)
