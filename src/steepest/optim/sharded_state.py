"""The state of sharded matrices: brought to their owners for a step, and handed back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from steepest.optim.batching import GroupStep
from steepest.optim.kept import KeptTensor, recalled
from steepest.optim.member import Member
from steepest.optim.plan import MatrixBucket
from steepest.sharding import local


@dataclass(eq=False)
class StateTrip:
    """The state of the parameters of a bucket, on its way with them.

    Args:
        bucket: The parameters that travel together.
        steps: The steps of their groups, by place.
    """

    bucket: MatrixBucket
    steps: Mapping[int, GroupStep]
    wholes: dict[Member, list[tuple[KeptTensor, Tensor]]] = field(default_factory=dict, init=False)
    """Whole tensors that are kept of each parameter that this rank owns."""
    gradients: dict[Member, Tensor] = field(default_factory=dict, init=False)
    """The gradients of the parameters that this rank owns, if a rule looks at them."""
    _kept: list[Tensor] = field(init=False)
    """This rank's part of each tensor."""

    def gather(self) -> None:
        """Bring what is kept to the owners; every rank makes its part of what is not there yet."""
        bucket, state = self.bucket, next(iter(self.steps.values())).state
        self._kept = [local(recalled(m, k, state)) for m, k in bucket.kept]
        coming = bucket.kept_exchange.gather(dict(enumerate(self._kept)))
        if (observed := bucket.observed) is not None:
            seen = {
                i: self.steps[observed.places[i]].observed(observed.members[i])
                for i in sorted(observed.exchange.needed)
            }
            found = observed.exchange.gather(seen).wait()
            self.gradients = {observed.members[i]: x for i, x in found.items()}
        for i, whole in coming.wait().items():
            member, kept = bucket.kept[i]
            self.wholes.setdefault(member, []).append((kept, whole))

    def scatter(self) -> None:
        """Hand back what the owners have changed."""
        exchange = self.bucket.kept_exchange
        # In the order of the bucket, in which they have come.
        flat = [whole for own in self.wholes.values() for _, whole in own]
        parts = exchange.scatter(dict(zip(exchange.owned, flat, strict=True))).wait()
        for own, part in zip(self._kept, parts, strict=True):
            own.copy_(part)

    def recall(self, member: Member) -> list[dict[str, Tensor]]:
        """The state of each part of a parameter that this rank owns, by name."""
        found: list[dict[str, Tensor]] = [{} for _ in member.shapes]
        for kept, whole in self.wholes.get(member, ()):
            found[kept.part][kept.name] = whole
        return found
