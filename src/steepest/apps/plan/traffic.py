"""Collectives as a plan counts them: what a rank hands over, what then travels, and how long."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from steepest.apps.plan.hardware import Links

# What leaves a rank, over what it hands over, in a group of g: rings, and pairs for an all-to-all.
_TRAVELS: Mapping[str, Callable[[int], float]] = {
    "all_gather_into_tensor": lambda g: g - 1,
    "all_reduce": lambda g: 2 * (g - 1) / g,
    "reduce_scatter_tensor": lambda g: (g - 1) / g,
    "all_to_all_single": lambda g: (g - 1) / g,
    "reduce": lambda g: (g - 1) / g,
    "broadcast": lambda g: (g - 1) / g,
}


@dataclass(frozen=True, kw_only=True)
class Collective:
    """Equal collectives of one group of ranks.

    Args:
        name: the name that `steepest.sharding.CollectiveCounter` calls them.
        ranks: the number of ranks in the group.
        stride: devices from one rank of the group to the next.
        calls: the number of calls.
        handed: bytes of all their inputs, of the rank with the most.
        sent: bytes that leave that rank; None for what a ring makes of `handed`.
        received: bytes that reach a rank; None for as many.
        partners: the number of ranks that one exchanges something with, for an all-to-all.
    """

    name: str
    ranks: int
    stride: int = 1
    calls: int
    handed: int
    sent: float | None = None
    received: float | None = None
    partners: int = 1

    @property
    def out(self) -> float:
        """Bytes that leave a rank."""
        travels = _TRAVELS[self.name](self.ranks) if self.ranks > 1 else 0.0
        return self.handed * travels if self.sent is None else self.sent

    @property
    def into(self) -> float:
        """Bytes that reach a rank."""
        return self.out if self.received is None else self.received

    def latency(self, links: Links) -> float:
        """Seconds that they take however little they carry."""
        if self.ranks == 1:
            return 0.0
        if self.name == "all_to_all_single":
            away = links.within(self.ranks, self.stride) < self.ranks
            hop = links.outer_latency if away else links.inner_latency
            start = links.all_to_all + hop + (self.partners - 1) * links.message
            return self.calls * start
        # NCCL has trees for sums only.
        tree = self.name == "all_reduce"
        return self.calls * links.latency(self.ranks, self.stride, tree=tree)

    def transfer(self, links: Links) -> float:
        """Seconds for their bytes: a ring at the speed of its slowest link, pairs over both."""
        most = max(self.out, self.into)
        if self.name != "all_to_all_single":
            return most / links.ring(self.ranks, self.stride)
        # Partners are spread evenly: so many of them are in other nodes.
        away = 1 - links.within(self.ranks, self.stride) / self.ranks
        return max(most * away / links.outer, most * (1 - away) / links.inner)
