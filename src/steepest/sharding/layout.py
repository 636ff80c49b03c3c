"""The part of a tensor that lies on each rank, read from torch's own placements.

Everything but `layout_of` and `local` is arithmetic on numbers and needs no process group.
"""

from __future__ import annotations

import heapq
import itertools
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeGuard

import torch
from torch import Tensor

from steepest._common.errors import invalid

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor, Placement
else:
    # Their import takes as long as that of torch, and who shards has it anyway.
    DTensor, Placement = Tensor, object

Runs: TypeAlias = tuple[tuple[int, int], ...]
"""The indices that a rank holds of one axis: (first, one past the last) of each run, in order."""

Region: TypeAlias = tuple[Runs, ...]
"""The part of a tensor that a rank holds: the runs of each axis."""


class ShardBlock(NamedTuple):
    """A block without gaps of what a rank holds."""

    whole: tuple[slice, ...]
    """Its place in the whole tensor."""
    local: tuple[slice, ...]
    """Its place in the rank's own tensor."""


@dataclass(frozen=True)
class Layout:
    """The parts of one tensor that the ranks of a mesh hold.

    Args:
        shape: the shape of the whole tensor.
        regions: the part that each rank of the mesh holds, in the mesh's row-major order.

    Examples:
        >>> from torch.distributed.tensor import Shard
        >>> Layout.of((10, 4), (4,), (Shard(0),)).shapes
        [(3, 4), (3, 4), (3, 4), (1, 4)]
    """

    shape: tuple[int, ...]
    regions: tuple[Region, ...]

    @staticmethod
    def of(
        shape: Sequence[int], mesh_shape: Sequence[int], placements: Sequence[Placement]
    ) -> Layout:
        """The layout of a tensor with these placements, one for each axis of a mesh.

        Args:
            shape: the shape of the whole tensor.
            mesh_shape: ranks along each axis of the mesh.
            placements: `Shard`, FSDP2's strided shards over tensor parallel ones, or `Replicate`.

        Raises:
            ValueError: a tensor that is only a partial sum, or cut in another way.
        """
        return _layout(tuple(shape), tuple(mesh_shape), tuple(placements))

    @staticmethod
    def replicated(shape: Sequence[int], ranks: int) -> Layout:
        """The layout of a tensor that every rank holds as a whole."""
        return Layout(tuple(shape), (_everything(shape),) * ranks)

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of what each rank holds."""
        return [tuple(_length(runs) for runs in region) for region in self.regions]

    @cached_property
    def sizes(self) -> list[int]:
        """How many numbers each rank holds."""
        return [math.prod(shape) for shape in self.shapes]

    @cached_property
    def is_replicated(self) -> bool:
        """Whether every rank holds the whole."""
        return all(region == _everything(self.shape) for region in self.regions)

    @cached_property
    def sharded_dims(self) -> frozenset[int]:
        """The axes along which the tensor is cut up."""
        whole = _everything(self.shape)
        axes = range(len(self.shape))
        return frozenset(a for a in axes if any(r[a] != whole[a] for r in self.regions))

    @cached_property
    def _holders(self) -> dict[Region, list[int]]:
        """The ranks that hold each part, for all parts that are not empty."""
        found = defaultdict(list)
        for rank, region in enumerate(self.regions):
            if self.sizes[rank]:
                found[region].append(rank)
        return dict(found)

    def replicas(self, rank: int) -> int:
        """How many ranks hold what a rank holds, which is not empty."""
        return len(self._holders[self.regions[rank]])

    def sources(self, owner: int) -> list[int]:
        """The ranks that the owner gets the whole tensor from: one holder of each part.

        Of several the one in the owner's own replica, so that every replica sends its share.
        """
        mine = self._holders.get(self.regions[owner], [owner])
        replica = mine.index(owner)
        return [
            owner if owner in holders else holders[replica % len(holders)]
            for holders in self._holders.values()
        ]

    def cells(self, rank: int) -> Iterator[ShardBlock]:
        """The blocks of what a rank holds: one, unless strided shards are uneven."""
        axes = []
        for runs in self.regions[rank]:
            offset, pairs = 0, []
            for start, stop in runs:
                pairs.append((slice(start, stop), slice(offset, offset + stop - start)))
                offset += stop - start
            axes.append(pairs)
        for block in itertools.product(*axes):
            yield ShardBlock(tuple(w for w, _ in block), tuple(p for _, p in block))

    def put(self, whole: Tensor, rank: int, part: Tensor) -> None:
        """Write what a rank holds into the whole tensor."""
        part = part.view(self.shapes[rank])
        for cell in self.cells(rank):
            whole[cell.whole] = part[cell.local]

    def take(self, whole: Tensor, rank: int) -> Tensor:
        """Take a rank's part of the whole tensor: a view where it is one block."""
        cells = list(self.cells(rank))
        if len(cells) == 1:
            return whole[cells[0].whole]
        part = whole.new_empty(self.shapes[rank])
        for cell in cells:
            part[cell.local] = whole[cell.whole]
        return part


def _everything(shape: Sequence[int]) -> Region:
    """The region of a rank that holds all of a tensor."""
    return tuple(((0, size),) if size else () for size in shape)


def _length(runs: Runs) -> int:
    return sum(stop - start for start, stop in runs)


def _picked(runs: Runs, chosen: Runs) -> Runs:
    """The indices that runs of positions select from runs of indices, neighbours joined."""
    out: list[tuple[int, int]] = []
    for first, last in chosen:
        offset = 0
        for start, stop in runs:
            low = max(start, start + first - offset)
            high = min(stop, start + last - offset)
            offset += stop - start
            if low < high and out and out[-1][1] == low:
                out[-1] = (out[-1][0], high)
            elif low < high:
                out.append((low, high))
    return tuple(out)


def _chunk(start: int, stop: int, pieces: int, index: int) -> tuple[int, int]:
    """One of the pieces of an interval as `torch.chunk` cuts it; the last ones may be empty."""
    size = -(-(stop - start) // pieces)
    return min(start + index * size, stop), min(start + (index + 1) * size, stop)


# Every layer of a model has the same few layouts.
@lru_cache(maxsize=4096)
def _layout(
    shape: tuple[int, ...], mesh_shape: tuple[int, ...], placements: tuple[Placement, ...]
) -> Layout:
    regions = []
    for coordinate in itertools.product(*map(range, mesh_shape)):
        region = list(_everything(shape))
        for index, pieces, placement in zip(coordinate, mesh_shape, placements, strict=True):
            if placement.is_replicate():
                continue
            axis = getattr(placement, "dim", None)
            if axis is None or not (placement.is_shard() or hasattr(placement, "split_factor")):
                raise invalid(
                    "placements",
                    placements,
                    "give parameters that are sharded or replicated: redistribute partial sums",
                )
            axis %= len(shape)
            length, strides = _length(region[axis]), getattr(placement, "split_factor", 1)
            strips = [_chunk(0, length, strides, i) for i in range(strides)]
            chosen = [_chunk(*strip, pieces, index) for strip in strips]
            region[axis] = _picked(region[axis], tuple(chosen))
        regions.append(tuple(region))
    return Layout(shape, tuple(regions))


def assign_owners(
    costs: Sequence[float], ranks: int, before: Sequence[float] | None = None
) -> list[int]:
    """An owner for each thing, such that the largest load of a rank is small.

    Costliest first, each to the rank with the least so far: from ranks that have nothing at most
    4/3 of the least possible.

    Args:
        costs: the cost of each thing.
        ranks: number of owners.
        before: the load that each owner has already; None means none.

    Examples:
        >>> assign_owners([3.0, 1.0, 2.0, 2.0], 2)
        [0, 0, 1, 1]

    Sources:
        Graham, Bounds on multiprocessing timing anomalies, SIAM J. Appl. Math. 17 (1969).
    """
    loads = [(load, rank) for rank, load in enumerate(before or [0.0] * ranks)]
    heapq.heapify(loads)
    owners = [0] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        load, owners[i] = loads[0]
        heapq.heapreplace(loads, (load + costs[i], owners[i]))
    return owners


def make_buckets(sizes: Sequence[int], owners: Sequence[int], room: int) -> list[list[int]]:
    """Things with owners, as many to a bucket as every owner has room for, but at least one.

    Args:
        sizes: the size of each thing, in bytes.
        owners: the owner of each thing.
        room: bytes that an owner has in a bucket.

    Examples:
        >>> make_buckets([3, 3, 3, 9], [0, 0, 0, 1], 6)
        [[0, 1, 3], [2]]
    """
    filled, number = dict[int, int](), dict[int, int]()
    buckets: list[list[int]] = []
    for i, (size, owner) in enumerate(zip(sizes, owners, strict=True)):
        k = number.setdefault(owner, 0)
        if owner in filled and filled[owner] + size > room:
            k, filled[owner] = k + 1, 0
        number[owner], filled[owner] = k, filled.get(owner, 0) + size
        if k == len(buckets):
            buckets.append([])
        buckets[k].append(i)
    return buckets


def is_sharded(x: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is a DTensor."""
    # Without the import no tensor can be one.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def placements_along(x: DTensor, axis: int) -> tuple[Placement, ...]:
    """The placements of a tensor that is cut along one axis where `x` is cut along any."""
    from torch.distributed.tensor import Replicate, Shard

    return tuple(Replicate() if p.is_replicate() else Shard(axis) for p in x.placements)


def local(x: Tensor) -> Tensor:
    """The part of a tensor that lies on this rank, in the tensor's own memory; itself if whole."""
    if not is_sharded(x):
        return x
    with torch.no_grad():
        part: Tensor = x.to_local()
        return part


def local_like(x: Tensor, other: Tensor) -> Tensor:
    """This rank's part of `x`, laid out as `other`, which has its shape."""
    if is_sharded(x) and is_sharded(other) and x.placements != other.placements:
        return local(x.redistribute(placements=other.placements))
    return local(x)


def sharded_like(part: Tensor, other: Tensor) -> Tensor:
    """The tensor with the layout of `other` of which this rank holds `part`; itself if whole."""
    if not is_sharded(other):
        return part
    return type(other).from_local(
        part,
        other.device_mesh,
        other.placements,
        run_check=False,
        shape=other.shape,
        stride=other.stride(),
    )


def sharded_as(
    part: Tensor, other: DTensor, placements: Sequence[Placement], shape: Sequence[int]
) -> DTensor:
    """The tensor of a shape, on the mesh of `other`, of which this rank holds `part`."""
    return type(other).from_local(
        part,
        other.device_mesh,
        placements,
        run_check=False,
        shape=torch.Size(shape),
        stride=torch.empty(shape, device="meta").stride(),
    )


def whole(x: Tensor) -> Tensor:
    """A tensor on every rank of its mesh, all of which have to call; itself if not a DTensor."""
    if not is_sharded(x):
        return x
    full: Tensor = x.full_tensor()
    return full


def layout_of(x: DTensor) -> Layout:
    """The layout of a DTensor on its mesh.

    Raises:
        ValueError: it is a partial sum.
    """
    return Layout.of(x.shape, x.device_mesh.shape, x.placements)
