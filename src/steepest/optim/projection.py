"""Weights projected on the ball of their norm, by the ranks that own them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from steepest._common.errors import shape_text
from steepest._common.numerics import is_known, widened
from steepest.norms import Norm
from steepest.optim.batching import GroupStep, Lengths, scalar
from steepest.optim.member import Member
from steepest.optim.plan import Bucket, StepPlan
from steepest.optim.sharded import travelling


class WeightTrip:
    """Weights go to the owners, and this rank's shards of their projections come back."""

    def __init__(self) -> None:
        self.back: list[tuple[Member, Tensor]] = []

    def send(self, bucket: Bucket) -> dict[int, Tensor]:
        """The weights that are needed."""
        return {i: bucket.members[i].local for i in bucket.exchange.needed}

    def arrive(self, bucket: Bucket, shards: Sequence[Tensor]) -> None:
        """Keep them."""
        self.back += zip(bucket.members, shards, strict=True)


def project_member(member: Member, value: Tensor, ball: Norm, radii: Lengths) -> Tensor:
    """A parameter with each of its parts projected on its ball.

    Args:
        member: The parameter.
        value: Its value, of the shape of `member.like`.
        ball: The norm of the balls.
        radii: The radius of each part's ball.

    Raises:
        FloatingPointError: it has NaN or inf entries, in the memory of the host; an accelerator is
            not waited for, and such a part stays without a number.
    """
    value = value.detach()  # a Parameter is not of the type Tensor
    if is_known(value) and not bool(torch.isfinite(value).all()):
        raise FloatingPointError(
            f"a parameter of shape {shape_text(value.shape)} has NaN or inf entries, and no "
            "point of the ball is nearest to it: start again from weights that are finite"
        )
    parts = member.split(value.to(widened(value.dtype)))
    return member.join([ball.project(x, r, check=False) for x, r in zip(parts, radii, strict=True)])


def projected(plan: StepPlan, steps: Mapping[int, GroupStep]) -> Iterator[tuple[Member, Tensor]]:
    """The shards of this rank of the parameters of some groups, projected on their balls.

    Args:
        plan: The plan of the step.
        steps: The step of each group that is projected, by its place.
    """
    for place, bundle in plan.here:
        if place in steps:
            for member in (member for batch in bundle for member in batch):
                yield member, _inside(member, member.local, steps[place])
    # Weights travel in their own type, averages in that of the momentum.
    trip = WeightTrip()
    for bucket, wholes, results in travelling(plan.weights, trip):
        for i in bucket.exchange.owned:
            results[i] = _inside(bucket.members[i], wholes[i], steps[bucket.places[i]])
    yield from trip.back


def _inside(member: Member, value: Tensor, step: GroupStep) -> Tensor:
    """A parameter projected on the balls of its group."""
    ball, weight_decay = step.rule.ball, scalar(step.group["weight_decay"])
    assert ball is not None, "checked before the step"
    radii = [length / weight_decay for length in step.rule.lengths(member.shapes)]
    return project_member(member, value, ball.with_polar(None), radii)
