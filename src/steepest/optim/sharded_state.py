"""The state of sharded matrices: brought to their owners for a step, and handed back."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from steepest.optim.batching import GroupStep
from steepest.optim.kept import KeptTensor, kept_tensors, recalled
from steepest.optim.member import Member
from steepest.optim.plan import Bucket
from steepest.sharding import Exchange, OwnedTensor, local


@dataclass(eq=False)
class StateTrip:
    """The state of the parameters of a bucket, on its way with them.

    Args:
        bucket: The parameters that travel together.
        step: The step of their group.
    """

    bucket: Bucket
    step: GroupStep
    places: list[tuple[Member, KeptTensor]] = field(init=False)
    exchange: Exchange = field(init=False)
    wholes: dict[int, Tensor] = field(default_factory=dict, init=False)
    """Tensors that this rank owns, whole and by their places."""
    gradients: dict[int, Tensor] = field(default_factory=dict, init=False)
    """The gradients of the parameters that this rank owns, by number, if the rule looks at them."""

    def __post_init__(self) -> None:
        step, exchange, members = self.step, self.bucket.exchange, self.bucket.members
        kept = [list(kept_tensors(m, step.rule.state_shapes)) for m in members]
        self.places = [(m, each) for m, own in zip(members, kept, strict=True) for each in own]
        owners = {m: t.owner for m, t in zip(members, exchange.tensors, strict=True)}
        tensors = [OwnedTensor(k.layout(m, exchange.ranks), owners[m]) for m, k in self.places]
        dtype = members[0].compute_dtype
        self.exchange = Exchange(exchange.ranks, tensors, dtype, exchange.device)

    def gather(self) -> None:
        """Bring what is kept to the owners; every rank makes its part of what is not there yet."""
        parts = [local(recalled(m, k, self.step.state)) for m, k in self.places]
        self.wholes = self.exchange.gather(dict(enumerate(parts))).wait()
        if self.step.rule.observes:
            members, trip = self.bucket.members, self.bucket.exchange
            needed = {i: self.step.observed(members[i]) for i in sorted(trip.needed)}
            self.gradients = trip.gather(needed).wait()

    def scatter(self) -> None:
        """Hand back what the owners have changed."""
        parts = self.exchange.scatter(self.wholes).wait()
        for (member, kept), part in zip(self.places, parts, strict=True):
            local(recalled(member, kept, self.step.state)).copy_(part)

    def recall(self, member: Member) -> list[dict[str, Tensor]]:
        """The state of each part of a parameter that this rank owns, by name."""
        found: list[dict[str, Tensor]] = [{} for _ in member.shapes]
        for i, (other, kept) in enumerate(self.places):
            if other is member:
                found[kept.part][kept.name] = self.wholes[i]
        return found
