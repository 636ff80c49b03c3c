"""Who holds what, on numbers alone: against torch's own answer, and against what it is for."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor._utils import _compute_local_shape_and_global_offset
from torch.distributed.tensor.placement_types import _StridedShard

from steepest.sharding import Layout, assign_owners

MESHES = [((1,), 1), ((3,), 1), ((4,), 1), ((2, 2), 2), ((3, 2), 2), ((2, 1, 2), 3)]
SHAPES = [(8, 6), (7, 5), (3, 9), (1, 4), (5,), (4, 3, 2)]


def cases():
    """Every shape on every mesh, with every placement that torch makes."""
    for shape, (mesh, axes) in itertools.product(SHAPES, MESHES):
        options = [Replicate(), *(Shard(dim) for dim in range(len(shape)))]
        for placements in itertools.product(options, repeat=axes):
            yield shape, mesh, placements
        if axes == 2:
            for dim in range(len(shape)):
                yield shape, mesh, (_StridedShard(dim, split_factor=mesh[1]), Shard(dim))


def test_layouts_are_those_of_torch():
    for shape, mesh, placements in cases():
        layout = Layout.of(shape, mesh, placements)
        coordinates = itertools.product(*map(range, mesh))
        for rank, coordinate in enumerate(coordinates):
            size, offset = _compute_local_shape_and_global_offset(
                shape, mesh, list(coordinate), placements
            )
            case = shape, mesh, placements, coordinate
            assert layout.shapes[rank] == tuple(size), case
            if math.prod(size):
                cell = next(layout.cells(rank))
                assert tuple(s.start for s in cell.whole) == tuple(offset), case


def test_parts_make_the_whole_and_every_replica_makes_it_once():
    for shape, mesh, placements in cases():
        layout = Layout.of(shape, mesh, placements)
        x = torch.arange(math.prod(shape)).reshape(shape)
        for owner in range(math.prod(mesh)):
            sources = layout.sources(owner)
            whole = torch.full(shape, -1)
            for rank in sources:
                layout.put(whole, rank, layout.take(x, rank).reshape(-1))
            assert torch.equal(whole, x)
            # No number comes twice, and what the owner has it takes from itself.
            assert sum(layout.sizes[rank] for rank in sources) == x.numel()
            assert owner in sources or not layout.sizes[owner]


def test_what_is_cut_and_what_is_copied():
    assert Layout.of((4, 4), (2, 2), (Replicate(), Shard(1))).sharded_dims == {1}
    assert Layout.of((4, 4), (2, 2), (Replicate(), Replicate())).is_replicated
    assert Layout.of((4, 4), (1,), (Shard(0),)).is_replicated
    assert Layout.of((4, 4), (2, 2), (Replicate(), Shard(1))).replicas(0) == 2
    assert Layout.replicated((3, 2), 2) == Layout.of((3, 2), (2,), (Replicate(),))


def test_a_partial_sum_is_refused():
    with pytest.raises(ValueError, match=r"placements.*redistribute partial sums"):
        Layout.of((4, 4), (2,), (Partial(),))


def test_no_rank_has_much_more_work_than_the_mean():
    draw = random.Random(0)
    for ranks in (1, 2, 5, 16):
        costs = [draw.random() ** 3 for _ in range(40)]
        owners = assign_owners(costs, ranks)
        loads = [sum(c for c, o in zip(costs, owners, strict=True) if o == r) for r in range(ranks)]
        assert max(loads) <= 4 / 3 * max(sum(costs) / ranks, *costs)
    # GPT-2 small, 12 blocks: the share of the busiest of four ranks.
    block = [(2304, 768), (768, 768), (3072, 768), (768, 3072)]
    costs = [float(m * n * min(m, n)) for m, n in block * 12]
    owners = assign_owners(costs, 4)
    loads = [sum(c for c, o in zip(costs, owners, strict=True) if o == r) for r in range(4)]
    assert max(loads) <= 1.25 * sum(costs) / 4


def test_every_replica_sends_its_share():
    """Two replicas of two halves: an owner asks those of its own replica."""
    layout = Layout.of((8, 4), (2, 2), (Replicate(), Shard(0)))
    assert [layout.sources(owner) for owner in range(4)] == [[0, 1], [0, 1], [2, 3], [2, 3]]
