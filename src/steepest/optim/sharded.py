"""Sharded parameters: gather each matrix at the rank that owns it, scatter its update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from steepest._common.errors import shape_text
from steepest._common.numerics import is_known, widened
from steepest.norms import Norm
from steepest.optim.batching import (
    Batch,
    GroupStep,
    Lengths,
    StackedBatch,
    Update,
    scalar,
)
from steepest.optim.member import Member
from steepest.optim.plan import Bucket, StepPlan
from steepest.optim.sharded_state import StateTrip
from steepest.sharding import RankGroup, is_sharded, layout_of, local_like, sharded_like, whole
from steepest.transforms import State


@dataclass(eq=False, slots=True)
class ShardUpdate(Update):
    """This rank's shard of the update of a parameter: its part of the direction, in one piece.

    Args:
        dual: ⟨u, direction⟩ if this rank is the one to count it, and if it was asked for.
    """

    dual: Tensor | None = None

    def joined(self, lengths: Lengths) -> tuple[Tensor, Tensor | float]:
        """The direction, and the factor that it has yet to get."""
        return self.direction[0], lengths[0] if _alike(lengths) else 1.0


def _alike(lengths: Lengths) -> bool:
    """Whether all parts of a parameter go equally far."""
    first = lengths[0]
    return all(x is first or (isinstance(x, float) and x == first) for x in lengths)


def _joined_direction(update: Update, lengths: Lengths) -> Tensor:
    """The direction in one tensor; if the lengths differ, each part is scaled first, in place.

    Only the joined tensor is sent, and `ShardUpdate` cannot tell its parts apart.
    """
    alike = _alike(lengths)
    return update.member.join(update.direction) if alike else update.joined(lengths)[0]


def _dual(update: Update, norm: Norm) -> Tensor:
    """⟨u, direction⟩ over all parts; of DTensors on every rank."""
    pairs = zip(update.u, update.direction, strict=True)
    return torch.stack([whole(norm.inner(u, d)).sum() for u, d in pairs]).sum()


@dataclass(eq=False)
class DTensorBatch:
    """One parameter whose direction is computed as a DTensor: torch does the reducing.

    Args:
        member: The parameter.
        step: The step of its group.
    """

    member: Member
    step: GroupStep
    u: list[Tensor] = field(default_factory=list, init=False)
    """The parts of the average, as DTensors."""

    def averages(self) -> list[Tensor]:
        """Update the momentum; the average as a DTensor, split into what the norm measures."""
        member = self.member
        # This rank's shard of u; as a DTensor it has the shape of the whole.
        u = torch.empty_like(member.local, dtype=member.stack_dtype)
        self.step.average([member], [u], [u], split=False)
        assert is_sharded(member.param), "so says the plan"
        self.u = member.split(sharded_like(u, member.param))
        return self.u

    def states(self) -> list[State]:
        """Nothing: matrices of which a state is kept go to an owner."""
        return []

    def apply(self, directions: Sequence[Tensor]) -> None:
        """Move this rank's shard of the parameter along directions, which are used up."""
        member, step = self.member, self.step
        assert is_sharded(member.param), "so says the plan"
        finite = step.finite[member.param]
        update = Update(member, finite, self.u, list(directions))
        # Every rank knows the dual norm, and the ranks' numbers are going to be added up.
        ranks = member.param.device_mesh.size()
        dual = _dual(update, step.inner) / ranks if step.inner else None
        joined = _joined_direction(update, step.rule.lengths(member.shapes))
        step.apply([ShardUpdate(member, finite, [], [local_like(joined, member.param)], dual)])


@dataclass(eq=False)
class OwnedStep(GroupStep):
    """The part of a step that an owner takes: averages have come, directions go back.

    Args:
        bucket: The parameters that travel together.
        come: The averages that have come, whole and by their number in the bucket.
        results: A mapping that takes the directions, by number.
        duals: A mapping that takes ⟨u, direction⟩ of each parameter, if it is asked for.
        trip: The state that has come with them, if the rule keeps one.
    """

    bucket: Bucket = field(kw_only=True)
    come: Mapping[int, Tensor] = field(kw_only=True)
    results: dict[int, Tensor] = field(kw_only=True)
    duals: dict[Member, Tensor] = field(kw_only=True)
    trip: StateTrip | None = field(kw_only=True)

    def recall(self, member: Member) -> list[dict[str, Tensor]]:
        """The state that the rule keeps of a parameter, whole."""
        assert self.trip is not None, "the rule keeps a state"
        return self.trip.recall(member)

    def observed(self, member: Member) -> Tensor:
        """The gradient that the rule looks at, whole."""
        assert self.trip is not None, "the rule keeps a state"
        return self.trip.gradients[self.bucket.number[member]]

    def average(
        self,
        members: Sequence[Member],
        out: Sequence[Tensor] | None,
        stacks: Sequence[Tensor],
        *,
        split: bool = True,
    ) -> Sequence[Tensor]:
        """Write the averages that have come: the ranks that hold the shards updated them."""
        number = self.bucket.number
        # Whole averages in the parameter's shape, split into matrices as their stacks hold them.
        parts = [part for m in members for part in m.split(self.come[number[m]])]
        if out is None:
            return parts
        for place, part in zip(out, parts, strict=True):
            place.copy_(part)
        return out

    def apply(self, updates: Sequence[Update], lengths: Sequence[Lengths] | None = None) -> None:
        """Put the directions, joined to whole parameters, where they go back from."""
        for update in updates:
            member = update.member
            if self.inner:
                self.duals[member] = _dual(update, self.inner)
            joined = _joined_direction(update, self.rule.lengths(member.shapes))
            self.results[self.bucket.number[member]] = joined


def sharded_batches(plan: StepPlan, step: GroupStep) -> Iterator[list[Batch]]:
    """The batches of parameters that lie on several ranks, in bundles that are mapped together.

    What other ranks own is moved when it comes back from them, while the iterator goes on: the next
    bucket is on its way before a bundle is yielded.
    """
    for member in plan.apart:
        yield [DTensorBatch(member, step)]
    trip = AverageTrip(step)
    for bucket, come, results in travelling(plan.buckets, trip):
        states = StateTrip(bucket, step) if step.rule.keeps_state else None
        if states is not None:
            states.gather()
        own = OwnedStep(
            place=step.place,
            group=step.group,
            rule=step.rule,
            finite=step.finite,
            state=step.state,
            inner=step.inner,
            bucket=bucket,
            come=come,
            results=results,
            duals=trip.duals,
            trip=states,
        )
        for bundle in bucket.own:
            yield [StackedBatch(members, own) for members in bundle]
        if states is not None:
            states.scatter()


class RoundTrip(Protocol):
    """The tensors that are sent to their owners, and the use of the results that come back."""

    def send(self, bucket: Bucket) -> dict[int, Tensor]:
        """This rank's shards of the tensors that an owner needs, by number."""

    def arrive(self, bucket: Bucket, shards: Sequence[Tensor]) -> None:
        """Take this rank's shard of each result."""


def travelling(
    buckets: Sequence[Bucket], trip: RoundTrip
) -> Iterator[tuple[Bucket, dict[int, Tensor], dict[int, Tensor]]]:
    """Yield each bucket when it has come to its owners; its neighbours travel meanwhile.

    Yields:
        The bucket, the whole tensors of it that this rank owns, by number, and a mapping for the
        results, which are sent back when the next bucket is asked for.
    """
    coming = buckets[0].exchange.gather(trip.send(buckets[0])) if buckets else None
    back = None
    for i, bucket in enumerate(buckets):
        assert coming is not None, "there is a bucket"
        wholes = coming.wait()
        if i + 1 < len(buckets):
            coming = buckets[i + 1].exchange.gather(trip.send(buckets[i + 1]))
        results = dict[int, Tensor]()
        yield bucket, wholes, results
        going = bucket.exchange.scatter(results)
        if back is not None:
            trip.arrive(back[0], back[1].wait())
        back = bucket, going
    if back is not None:
        trip.arrive(back[0], back[1].wait())


class AverageTrip:
    """Averages go to the owners, and this rank's shards of the directions come back.

    Args:
        step: The step of the group.
    """

    def __init__(self, step: GroupStep) -> None:
        self.step = step
        self.duals: dict[Member, Tensor] = {}
        """⟨u, direction⟩ of the parameters that this rank owns."""

    def send(self, bucket: Bucket) -> dict[int, Tensor]:
        """Update the momentum of all; the averages that are needed."""
        if self.step.rule.retraction is not None and self.step.rule.retraction.pulls:
            self.step.pull(bucket.members)  # together, before each rank averages what it sends
        asked = sorted(bucket.exchange.needed)
        out = {
            i: torch.empty_like(bucket.members[i].local, dtype=bucket.members[i].stack_dtype)
            for i in asked
        }
        # Shards of u, in the shapes of this rank's parts; momentum stays where it is.
        parts = list(out.values())
        self.step.average([bucket.members[i] for i in asked], parts, parts, split=False)
        self.step.average([x for i, x in enumerate(bucket.members) if i not in out], [], [])
        return out

    def arrive(self, bucket: Bucket, shards: Sequence[Tensor]) -> None:
        """Move this rank's shards of the parameters."""
        finite, duals = self.step.finite, self.duals
        pairs = zip(bucket.members, shards, strict=True)
        self.step.apply(
            [
                ShardUpdate(m, finite[m.param], [], [x.to(widened(x.dtype))], duals.get(m))
                for m, x in pairs
            ]
        )


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


def projected(plan: StepPlan, ball: Norm, step: GroupStep) -> Iterator[tuple[Member, Tensor]]:
    """The shards of this rank of the parameters of a group, projected on their balls."""
    for member in plan.at_home:
        yield member, project_member(member, member.local, ball, _radii(member, step))
    for member in plan.apart:
        assert is_sharded(member.param), "so says the plan"
        full = project_member(member, whole(member.param), ball, _radii(member, step))
        place = RankGroup.of_mesh(member.param.device_mesh).rank
        yield member, layout_of(member.param).take(full, place)
    # Weights travel in their own type, averages in that of the momentum.
    own = [
        replace(b, exchange=replace(b.exchange, dtype=widened(b.members[0].param.dtype)))
        for b in plan.buckets
    ]
    trip = WeightTrip()
    for bucket, wholes, results in travelling(own, trip):
        for i in bucket.exchange.owned:
            member = bucket.members[i]
            results[i] = project_member(member, wholes[i], ball, _radii(member, step))
    yield from trip.back


def _radii(member: Member, step: GroupStep) -> list[Tensor | float]:
    """The radius of the ball of each part of a parameter."""
    weight_decay = scalar(step.group["weight_decay"])
    return [length / weight_decay for length in step.rule.lengths(member.shapes)]
