"""Whole tensors brought to their owners, and the results handed back, in one collective each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from steepest.sharding.layout import Layout

T = TypeVar("T")

BUCKET = 2**25
"""Bytes that one owner gets in a bucket: more hide the latency, fewer come sooner and hold less."""


@dataclass(frozen=True)
class RankGroup:
    """The ranks of a mesh as one process group.

    Args:
        group: the processes.
        order: the mesh rank of each rank of the group; ranks of a mesh count row by row.
        rank: the mesh rank of this process.
    """

    group: dist.ProcessGroup
    order: tuple[int, ...]
    rank: int

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self.order)

    @staticmethod
    def of_group(group: dist.ProcessGroup) -> RankGroup:
        """The ranks of a process group, in its own order."""
        return RankGroup(group, tuple(range(dist.get_world_size(group))), dist.get_rank(group))

    @staticmethod
    def of_mesh(mesh: DeviceMesh) -> RankGroup:
        """All ranks of a mesh.

        A mesh of one axis has its group. For one of several axes, one is made when all its ranks
        call this for the first time, and kept.
        """
        ranks = mesh.mesh.flatten().tolist()
        group = mesh.get_group() if mesh.ndim == 1 else _group_of(tuple(ranks), _world())
        order = tuple(ranks.index(rank) for rank in dist.get_process_group_ranks(group))
        return RankGroup(group, order, ranks.index(dist.get_rank()))


def _world() -> dist.ProcessGroup:
    world = dist.group.WORLD
    assert world is not None, "there is a mesh, so there are processes"
    return world


# They do not keep it alive: a process may leave its world and join another, with other groups.
_GROUPS: WeakKeyDictionary[dist.ProcessGroup, dict[tuple[int, ...], dist.ProcessGroup]] = (
    WeakKeyDictionary()
)


def _group_of(ranks: tuple[int, ...], world: dist.ProcessGroup) -> dist.ProcessGroup:
    if ranks == tuple(dist.get_process_group_ranks(world)):
        return world
    groups = _GROUPS.setdefault(world, {})
    if ranks not in groups:
        group = dist.new_group(list(ranks), use_local_synchronization=True)
        assert isinstance(group, dist.ProcessGroup), "this rank is one of them"
        groups[ranks] = group
    return groups[ranks]


@dataclass
class AsyncResult(Generic[T]):
    """The result of a collective that is on its way.

    Args:
        result: a function that makes the result once the collective is done.
        work: the handle that torch returned for the collective; None where nothing had to travel.
        sent: the send buffer, which must not be freed before the collective is done.
    """

    result: Callable[[], T]
    work: dist.Work | None = None
    sent: Tensor | None = None

    def wait(self) -> T:
        """The result, as soon as it is there."""
        if self.work is not None:
            self.work.wait()
        return self.result()


@dataclass(frozen=True)
class OwnedTensor:
    """A tensor that goes to its owner and comes back.

    Args:
        layout: the part of it that each rank holds.
        owner: the mesh rank of the owner.
    """

    layout: Layout
    owner: int


@dataclass(eq=False)
class Exchange:
    """Tensors of one type that travel together: to their owners whole, and back in parts.

        bytes sent by a rank:  its own parts  +  what others hold of the tensors it owns

    What a rank holds of its own tensors is never sent. Of several holders of one part the one in
    the owner's replica sends it. Where everybody holds everything nothing is gathered, and the
    results come in one all-gather, each rank's padded to the longest.

    Args:
        ranks: the ranks.
        tensors: the tensors; alike on every rank.
        dtype: the type in which they travel to their owners.
        back: the type in which the results come back.
        device: the device on which they lie.
    """

    ranks: RankGroup
    tensors: Sequence[OwnedTensor]
    dtype: torch.dtype
    back: torch.dtype
    device: torch.device

    owned: list[int] = field(init=False)
    """Indices of the tensors that this rank owns."""
    needed: frozenset[int] = field(init=False)
    """Indices of the tensors whose local part some owner (this rank included) needs."""
    _of: list[list[int]] = field(init=False)
    _out: list[list[int]] = field(init=False)
    _in: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        me, size = self.ranks.rank, self.ranks.size
        self._of = [[] for _ in range(size)]
        for i, tensor in enumerate(self.tensors):
            self._of[tensor.owner].append(i)
        self.owned = self._of[me]
        # By mesh rank: what this rank sends there, and what it gets from there. All ranks derive
        # them from the layouts, in the order of the tensors, so no sizes have to be exchanged.
        self._out, self._in = [[] for _ in range(size)], [[] for _ in range(size)]
        for i, tensor in enumerate(self.tensors):
            for source in tensor.layout.sources(tensor.owner):
                if source == me:
                    self._out[tensor.owner].append(i)
                if tensor.owner == me:
                    self._in[source].append(i)
        self.needed = frozenset(i for out in self._out for i in out)
        # What is here stays here.
        self._out[me] = []

    @property
    def is_replicated(self) -> bool:
        """Whether every rank holds all of every tensor."""
        return all(tensor.layout.is_replicated for tensor in self.tensors)

    def gather(self, parts: Mapping[int, Tensor]) -> AsyncResult[dict[int, Tensor]]:
        """Send parts to the owners.

        Args:
            parts: this rank's part of each tensor that is `needed`, by index.

        Returns:
            The tensors that this rank owns, whole, when they are there.
        """
        if self.is_replicated:
            return AsyncResult(lambda: {i: parts[i].to(self.dtype) for i in self.owned})
        me = self.ranks.rank
        layouts = [p.layout for p in self.tensors]
        sent = [[parts[i] for i in out] for out in self._out]
        # By source, the numbers in each of its parts: uneven shards differ. What this rank holds
        # itself counts 0: `result` puts it in its place without a journey.
        counts = [
            [layouts[i].sizes[source] if source != me else 0 for i in each]
            for source, each in enumerate(self._in)
        ]
        received, work, out = self._all_to_all(sent, [sum(c) for c in counts], self.dtype)

        def result() -> dict[int, Tensor]:
            wholes = {i: self._whole(i) for i in self.owned}
            # received[source] is flat, (Σ counts[source],): parts in the order of the tensors.
            for source, each in enumerate(self._in):
                pieces = received[source].split(counts[source])
                for i, piece in zip(each, pieces, strict=True):
                    part = parts[i].to(self.dtype) if source == me else piece
                    layouts[i].put(wholes[i], source, part)
            return wholes

        return AsyncResult(result, work, out)

    def scatter(self, wholes: Mapping[int, Tensor]) -> AsyncResult[list[Tensor]]:
        """Hand results back.

        Args:
            wholes: the whole result of each tensor that this rank owns, by index.

        Returns:
            The part of each tensor that this rank holds, when it is there.
        """
        if self.is_replicated:
            return self._all_gather(wholes)
        me, size = self.ranks.rank, self.ranks.size
        layouts = [p.layout for p in self.tensors]
        # Rounded as what the others get, or replicas of a part would not stay alike.
        mine = {i: layouts[i].take(wholes[i], me).to(self.back) for i in self.owned}
        # To every holder of a part, replicas too, where `gather` takes one copy of each part.
        sent = [
            [layouts[i].take(wholes[i], rank) for i in self.owned if rank != me]
            for rank in range(size)
        ]
        coming = [each if rank != me else [] for rank, each in enumerate(self._of)]
        counts = [[layouts[i].sizes[me] for i in each] for each in coming]
        received, work, out = self._all_to_all(sent, [sum(c) for c in counts], self.back)

        def result() -> list[Tensor]:
            parts = dict(mine)
            for buffer, each, count in zip(received, coming, counts, strict=True):
                for i, part in zip(each, buffer.split(count), strict=True):
                    parts[i] = part.view(layouts[i].shapes[me])
            return [parts[i] for i in range(len(layouts))]

        return AsyncResult(result, work, out)

    def _whole(self, i: int) -> Tensor:
        return torch.empty(self.tensors[i].layout.shape, dtype=self.dtype, device=self.device)

    def _all_to_all(
        self, sent: Sequence[Sequence[Tensor]], counts: Sequence[int], dtype: torch.dtype
    ) -> tuple[list[Tensor], dist.Work | None, Tensor]:
        """Send some tensors to each rank, and get so many numbers from each.

        Returns:
            The numbers from each rank, not there before the work is done; the work; what is sent.
        """
        # torch numbers the ranks of the group; all other lists here go by mesh rank.
        order = self.ranks.order
        splits = [counts[mesh_rank] for mesh_rank in order]
        out = _flat([x for mesh_rank in order for x in sent[mesh_rank]], dtype, self.device)
        into = torch.empty(sum(splits), dtype=dtype, device=self.device)
        by_rank = into.split(splits)
        received = [by_rank[order.index(mesh_rank)] for mesh_rank in range(self.ranks.size)]
        if self.ranks.size == 1:
            return received, None, out
        # As bytes, since not every backend knows every type.
        width = dtype.itemsize
        work = dist.all_to_all_single(
            into.view(torch.uint8),
            out.view(torch.uint8),
            [n * width for n in splits],
            [width * sum(x.numel() for x in sent[mesh_rank]) for mesh_rank in order],
            group=self.ranks.group,
            async_op=True,
        )
        return received, work, out

    def _all_gather(self, wholes: Mapping[int, Tensor]) -> AsyncResult[list[Tensor]]:
        order = self.ranks.order
        numels = [torch.Size(p.layout.shape).numel() for p in self.tensors]
        of_rank = [self._of[mesh_rank] for mesh_rank in order]
        # An all-gather wants equal inputs: (longest,) from each rank, into (ranks · longest,).
        longest = max(sum(numels[i] for i in each) for each in of_rank)
        out = _flat([wholes[i] for i in self.owned], self.back, self.device)
        out = torch.cat([out, out.new_zeros(longest - out.numel())])
        into = torch.empty(self.ranks.size * longest, dtype=self.back, device=self.device)
        all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
        work = all_gather(
            into.view(torch.uint8), out.view(torch.uint8), group=self.ranks.group, async_op=True
        )

        def result() -> list[Tensor]:
            parts = dict[int, Tensor]()
            for each, buffer in zip(of_rank, into.split(longest), strict=True):
                ends = pairwise(accumulate((numels[i] for i in each), initial=0))
                for i, (start, stop) in zip(each, ends, strict=True):
                    parts[i] = buffer[start:stop].view(self.tensors[i].layout.shape)
            return [parts[i] for i in range(len(numels))]

        return AsyncResult(result, work, out)


def _flat(tensors: Sequence[Tensor], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The numbers of some tensors, one after the other."""
    if not tensors:
        return torch.empty(0, dtype=dtype, device=device)
    return torch.cat([x.to(dtype).reshape(-1) for x in tensors])
