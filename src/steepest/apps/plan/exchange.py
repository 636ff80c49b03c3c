"""How many bytes each rank sends and gets when matrices go to owners and come back.

The owners and the buckets are those of the optimizers; what each rank holds is a closed form of
`steepest.sharding.Layout`, since a list for each of 65 536 ranks takes too long.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, repeat

import torch
from torch import Tensor

from steepest.apps.plan.mesh import Mesh
from steepest.apps.plan.models import Weights
from steepest.sharding import BUCKET, assign_owners, make_buckets

SINGLE = 4
"""Bytes of a number in single precision, in which averages and directions travel at least."""


def on_the_way(itemsize: int) -> int:
    """Bytes of a number that travels, of parameters whose numbers have so many."""
    return max(SINGLE, itemsize)


def _chunks(length: Tensor, pieces: int) -> Tensor:
    """Lengths of the pieces of `torch.chunk`, along a new last axis; the last ones may be empty."""
    length = length.unsqueeze(-1)
    size = -(-length // pieces)
    return (length - size * torch.arange(pieces)).clamp(min=0).minimum(size)


def tensor_axis(weights: Weights) -> int:
    """The axis that tensor parallelism cuts: experts and filters, or the longer side."""
    out, into = weights.shape[:2]
    return 0 if len(weights.shape) > 2 or out >= into else 1


@lru_cache(maxsize=64)
def held(weights: Weights, mesh: Mesh) -> Tensor:
    """The numbers of one parameter that each rank of a replica holds.

    FSDP2 cuts the first axis. Where tensor parallelism has cut that already, every rank's shard has
    rows of each of its pieces.

    Examples:
        >>> held(Weights(count=1, shape=(10, 4), parts=((1, 10, 4),)), Mesh(fsdp=4))
        tensor([12, 12, 12,  4])
    """
    first, numel = torch.tensor(weights.shape[0]), weights.numel
    if tensor_axis(weights) == 0:
        rows = _chunks(_chunks(_chunks(first, mesh.tp), mesh.fsdp).sum(0), mesh.tp)
        return (rows * (numel // weights.shape[0])).flatten()
    cols = _chunks(torch.tensor(weights.shape[1]), mesh.tp)
    return (_chunks(first, mesh.fsdp).unsqueeze(-1) * cols).flatten()


def largest(weights: Weights, mesh: Mesh) -> int:
    """The same for the first rank, which holds the most.

    Examples:
        >>> largest(Weights(count=1, shape=(10, 4), parts=((1, 10, 4),)), Mesh(fsdp=4))
        12
    """
    first, numel = weights.shape[0], weights.numel
    if tensor_axis(weights) == 1:
        return -(-first // mesh.fsdp) * -(-weights.shape[1] // mesh.tp)
    strip = -(-first // mesh.tp)
    strips = [max(0, min(strip, first - i * strip)) for i in range(mesh.tp)]
    rows = -(-sum(min(s, -(-s // mesh.fsdp)) for s in strips) // mesh.tp)
    return rows * (numel // first)


@dataclass(frozen=True, eq=False)
class Owners:
    """The owners of the parameters.

    Args:
        ranks: the ranks that own something, ascending.
        counts: the number of parameters that each of them owns, for each kind of weights.
        sums: numbers that its busiest owner gets, for each bucket.
    """

    ranks: Tensor
    counts: tuple[Tensor, ...]
    sums: tuple[int, ...]


@lru_cache(maxsize=256)
def owners_of(weights: tuple[Weights, ...], ranks: int, itemsize: int) -> Owners:
    """The owners of parameters that travel, and their buckets."""
    kinds = list(chain.from_iterable(repeat(i, w.count) for i, w in enumerate(weights)))
    sizes = [weights[i].numel for i in kinds]
    owners = assign_owners([float(weights[i].work) for i in kinds], ranks)
    kind, (busy, owner) = torch.tensor(kinds), torch.tensor(owners).unique(return_inverse=True)
    counts = [torch.bincount(owner[kind == i], minlength=len(busy)) for i in range(len(weights))]
    sums = []
    for bucket in make_buckets([n * itemsize for n in sizes], owners, BUCKET):
        got = Counter[int]()
        for i in bucket:
            got[owners[i]] += sizes[i]
        sums.append(max(got.values()))
    return Owners(busy, tuple(counts), tuple(sums))


def travel(
    weights: Sequence[Weights], owners: Owners, mesh: Mesh, ranks: Tensor
) -> tuple[Tensor, Tensor]:
    """Numbers that travel where no rank holds everything.

        there: a rank sends its part to every owner in its replica, but not to itself
        back:  an owner sends to every rank, of every replica, that rank's part

    Args:
        weights: parameters, of the kinds that the owners were made for.
        owners: theirs.
        mesh: the mesh of the ranks.
        ranks: the ranks whose traffic is asked for.

    Returns:
        What each of `ranks` sends, and what it receives.
    """
    sent = torch.zeros(len(ranks), dtype=torch.int64)
    received = sent.clone()
    place = torch.searchsorted(owners.ranks, ranks).clamp(max=len(owners.ranks) - 1)
    is_owner = owners.ranks[place] == ranks
    for one, counts in zip(weights, owners.counts, strict=True):
        parts = held(one, mesh)
        # An owner that holds nothing itself is served by the first replica.
        replica = torch.where(parts[owners.ranks % mesh.shards] > 0, owners.ranks // mesh.shards, 0)
        near = torch.zeros(mesh.replicate, dtype=torch.int64).index_add(0, replica, counts)
        part, own = parts[ranks % mesh.shards], torch.where(is_owner, counts[place], 0)
        sent += part * (near[ranks // mesh.shards] - own) + own * (
            mesh.replicate * one.numel - part
        )
        received += own * (one.numel - part) + part * (one.count - own)
    return sent, received


def busiest(weights: Sequence[Weights], owners: Owners, mesh: Mesh) -> tuple[int, int]:
    """The most numbers that a rank sends, and that a rank receives.

    It is an owner, or the first rank of a replica: no other rank holds more, or owns anything.
    """
    first = torch.arange(mesh.replicate) * mesh.shards
    ranks = torch.cat([owners.ranks, first]).unique()
    sent, received = travel(weights, owners, mesh, ranks)
    return int(sent.max()), int(received.max())
