"""Sharded parameters: gather each matrix at the rank that owns it, scatter its update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from steepest.norms import Norm
from steepest.norms.norm import inner
from steepest.optim.batching import (
    Batch,
    GroupStep,
    Lengths,
    StackedBatch,
    Update,
)
from steepest.optim.member import Member
from steepest.optim.plan import Bucket, StepPlan
from steepest.optim.rule import UpdateRule
from steepest.optim.sharded_state import StateTrip
from steepest.sharding import RankGroup, is_sharded, layout_of, local, local_like, sharded_like
from steepest.sharding.reductions import together
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
    """⟨u, direction⟩ over all parts."""
    pairs = zip(update.u, update.direction, strict=True)
    return torch.stack([norm.inner(u, d).sum() for u, d in pairs]).sum()


def _share_of_dual(update: Update) -> Tensor | None:
    """This rank's share of ⟨u, direction⟩ of DTensors: all shares add up to it; None for none."""
    param = update.member.param
    assert is_sharded(param), "so says the plan"
    layout, rank = layout_of(param), RankGroup.of_mesh(param.device_mesh).rank
    if not layout.sizes[rank]:
        return None
    pairs = zip(update.u, update.direction, strict=True)
    products = [inner(local(u), local_like(d, u)).sum() for u, d in pairs]
    return torch.stack(products).sum() / layout.replicas(rank)


@dataclass(frozen=True)
class JointRule:
    """The rules of several averages whose reductions over ranks are carried out together.

    Args:
        rules: The rule of each average.
    """

    rules: Sequence[UpdateRule]
    keeps_state: ClassVar[bool] = False

    def directions(self, us: Sequence[Tensor], states: Sequence[State] = ()) -> list[Tensor]:
        """The direction of each average by its own rule."""
        pairs = zip(self.rules, us, strict=True)
        return [d for (d,) in together([partial(rule.directions, [u]) for rule, u in pairs])]


@dataclass(eq=False)
class DTensorBatch:
    """Parameters whose directions are computed as DTensors: every rank has its part of them.

    Args:
        members: The parameters, of one type.
        step: The step of their group.
    """

    members: Sequence[Member]
    step: GroupStep
    u: list[list[Tensor]] = field(default_factory=list, init=False)
    """The parts of each average, as DTensors."""

    @property
    def rules(self) -> list[UpdateRule]:
        """The rule of each average."""
        return [self.step.rule] * sum(max(1, len(m.shapes)) for m in self.members)

    def averages(self) -> list[Tensor]:
        """Update the momentum; the averages as DTensors, split into what the norm measures."""
        # This rank's shards of u; as a DTensor each has the shape of the whole.
        us = [torch.empty_like(m.local, dtype=m.stack_dtype) for m in self.members]
        self.step.average(self.members, us, us, split=False)
        pairs = zip(self.members, us, strict=True)
        self.u = [m.split(sharded_like(u, m.param)) for m, u in pairs]
        return [part for parts in self.u for part in parts]

    def states(self) -> list[State]:
        """Nothing: matrices of which a state is kept go to an owner."""
        return []

    def apply(self, directions: Sequence[Tensor]) -> None:
        """Move this rank's shards of the parameters along directions, which are used up."""
        step, left = self.step, list(directions)
        updates: list[Update] = []
        for member, u in zip(self.members, self.u, strict=True):
            own, left = left[: len(u)], left[len(u) :]
            finite = step.finite[member.param]
            update = Update(member, finite, u, own)
            dual = _share_of_dual(update) if step.inner else None
            joined = _joined_direction(update, step.rule.lengths(member.shapes))
            shard = local_like(joined, member.param)
            updates.append(ShardUpdate(member, finite, [], [shard], dual))
        self.u = []
        step.apply(updates)


def _dtensor_batches(
    placed: Sequence[tuple[int, Member]], steps: Mapping[int, GroupStep]
) -> list[DTensorBatch]:
    """A batch for each group and type."""
    alike: dict[tuple[object, ...], list[tuple[int, Member]]] = {}
    for place, member in placed:
        key = (place, member.param.dtype, member.dtype, member.like.device)
        alike.setdefault(key, []).append((place, member))
    return [DTensorBatch([m for _, m in own], steps[own[0][0]]) for own in alike.values()]


@dataclass(eq=False)
class OwnedStep(GroupStep):
    """The part of a step of a group that an owner takes: averages have come, directions go back.

    Args:
        bucket: The parameters that travel together.
        come: The averages that have come, whole and by their number in the bucket.
        results: A mapping that takes the directions, by number.
        duals: A mapping that takes ⟨u, direction⟩ of each parameter, if it is asked for.
        trip: The state that has come with them, if a rule keeps one.
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
        return self.trip.gradients[member]

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
            return [part.to(members[0].stack_dtype) for part in parts]
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


Bundled = tuple[UpdateRule | JointRule, list[Batch]]
"""Batches whose averages are mapped together, and what maps them."""


def sharded_batches(plan: StepPlan, steps: Mapping[int, GroupStep]) -> Iterator[Bundled]:
    """The batches of parameters that lie on several ranks, in bundles that are mapped together.

    What other ranks own is moved when it comes back from them, while the iterator goes on: the next
    bucket is on its way before a bundle is yielded.

    Args:
        plan: The plan of the step.
        steps: The step of each group, by its place.
    """
    for placed in plan.apart:
        batches = _dtensor_batches(placed, steps)
        rule = JointRule([rule for batch in batches for rule in batch.rules])
        yield rule, list[Batch](batches)
    trip = AverageTrip(steps)
    for bucket, come, results in travelling(plan.buckets, trip):
        states = StateTrip(bucket, steps) if bucket.kept or bucket.observed else None
        if states is not None:
            states.gather()
        own = {
            place: _owned(steps[place], bucket, come, results, trip, states)
            for place in bucket.of_group
        }
        for place, bundle in bucket.own:
            yield steps[place].rule, [StackedBatch(members, own[place]) for members in bundle]
        if states is not None:
            states.scatter()


def _owned(
    step: GroupStep,
    bucket: Bucket,
    come: Mapping[int, Tensor],
    results: dict[int, Tensor],
    trip: AverageTrip,
    states: StateTrip | None,
) -> OwnedStep:
    """The part of a step that this rank takes for others."""
    return OwnedStep(
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


class RoundTrip(Protocol):
    """The tensors that are sent to their owners, and the use of the results that come back."""

    def send(self, bucket: Bucket) -> dict[int, Tensor]:
        """This rank's shards of the tensors that an owner needs, by number."""

    def arrive(self, bucket: Bucket, shards: Sequence[Tensor]) -> None:
        """Take this rank's shard of each result."""


B = TypeVar("B", bound=Bucket)


def travelling(
    buckets: Sequence[B], trip: RoundTrip
) -> Iterator[tuple[B, dict[int, Tensor], dict[int, Tensor]]]:
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
        steps: The step of each group, by its place.
    """

    def __init__(self, steps: Mapping[int, GroupStep]) -> None:
        self.steps = steps
        self.duals: dict[Member, Tensor] = {}
        """⟨u, direction⟩ of the parameters that this rank owns."""

    def send(self, bucket: Bucket) -> dict[int, Tensor]:
        """Update the momentum of all; the averages that are needed."""
        out: dict[int, Tensor] = {}
        for place, numbers in bucket.of_group.items():
            step, members = self.steps[place], [bucket.members[i] for i in numbers]
            if step.rule.retraction is not None and step.rule.retraction.pulls:
                step.pull(members)  # together, before each rank averages what it sends
            asked = [i for i in numbers if i in bucket.exchange.needed]
            needed = [bucket.members[i] for i in asked]
            # Shards of u, in the shapes of this rank's parts; momentum stays where it is.
            parts = [torch.empty_like(m.local, dtype=m.stack_dtype) for m in needed]
            step.average(needed, parts, parts, split=False)
            step.average([m for m in members if m not in set(needed)], [], [])
            out.update(zip(asked, parts, strict=True))
        return out

    def arrive(self, bucket: Bucket, shards: Sequence[Tensor]) -> None:
        """Move this rank's shards of the parameters."""
        for place, numbers in bucket.of_group.items():
            step, updates = self.steps[place], list[Update]()
            for i in numbers:
                m = bucket.members[i]
                shard = shards[i].to(m.stack_dtype)
                dual = self.duals.get(m)
                updates.append(ShardUpdate(m, step.finite[m.param], [], [shard], dual))
            step.apply(updates)
