"""What a plan says that is communicated, against counted collectives of processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from packaging.version import Version
from torch import nn

from steepest.apps.plan import exchange
from steepest.apps.plan.costs import Cost, Task, dtensor, gather, layers
from steepest.apps.plan.costs import exchange as exchanged
from steepest.apps.plan.exchange import held, largest, owners_of, travel
from steepest.apps.plan.hardware import preset
from steepest.apps.plan.mesh import Mesh
from steepest.apps.plan.models import Weights, linear
from steepest.apps.plan.modules import of_module
from steepest.sharding import Layout, assign_owners
from tests.sharding import plan_counts as counted
from tests.sharding.plan_counts import EVEN, SMALL_BUCKET, WEIGHTS, Counts, meshes, placements
from tests.sharding.pool import pool

WORLDS = (1, 2, 4, pytest.param(8, marks=pytest.mark.slow))
FEW = WORLDS[1:]


def task(weights: tuple[Weights, ...] | nn.Module, mesh: Mesh) -> Task:
    device, links = preset("h100")
    # torch counts one CPU in a host, and plans by that.
    links = type(links)(**{**vars(links), "node": 1})
    model = of_module(weights) if isinstance(weights, nn.Module) else counted.model(weights)
    return Task(model=model, mesh=mesh, device=device, links=links)


@contextmanager
def buckets(*, small: bool) -> Iterator[None]:
    """The usual buckets, or those of `counted.small_buckets`."""
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(exchange, "BUCKET", SMALL_BUCKET)
        owners_of.cache_clear()
        yield
    owners_of.cache_clear()


def told(cost: Cost) -> Counts:
    """What a cost says, as a counter does."""
    calls, handed = Counter[str](), Counter[str]()
    for c in cost.collectives:
        # Processes on CPUs do an all-to-all between shards by an all-gather of the same input.
        swap = cost.name == "torch DTensor" and c.name == "all_to_all_single"
        name = "all_gather_into_tensor" if swap else c.name
        calls[name] += c.calls
        handed[name] += c.handed
    return {name: (calls[name], handed[name]) for name in calls}


def most(ranks: list[Counts]) -> Counts:
    """Of each collective the largest count of any rank."""
    names = {name for counts in ranks for name in counts}
    return {n: max(counts.get(n, (0, 0)) for counts in ranks) for n in names}


@pytest.mark.parametrize("world", WORLDS)
def test_the_exchange(world: int) -> None:
    ranks = pool(world).run(counted.exchanges)
    tried = [
        (m, small) for m in meshes(world) for small in ((False, True) if world == 4 else (False,))
    ]
    for i, (mesh, small) in enumerate(tried):
        t = task(WEIGHTS, mesh)
        with buckets(small=small):
            cost, owners = exchanged(t), owners_of(t.travelling, world, 4)
        found = [r[i] for r in ranks]
        if world == 1:  # whoever is alone agrees with itself, and sends nothing
            assert list(found[0]) == ["all_reduce"]
            found = [{}]
        assert told(cost) == most(found), (mesh, small)
        if world > 1:
            sent, _ = travel(t.travelling, owners, mesh, torch.arange(world))
            each = [counts["all_to_all_single"][1] for counts in found]
            assert (4 * sent).tolist() == each, (mesh, small)


@pytest.mark.parametrize("world", FEW)
def test_copies_of_a_model(world: int) -> None:
    ranks = pool(world).run(counted.replicas)
    for small in (False, True):
        with buckets(small=small):
            cost = exchanged(task(counted.chain(EVEN), Mesh(replicate=world)))
        assert told(cost) == most([r[small] for r in ranks])


@pytest.mark.parametrize("world", FEW)
def test_the_alternatives(world: int) -> None:
    ranks = pool(world).run(counted.alternatives)
    t = task(EVEN, Mesh(fsdp=world))
    for i, way in enumerate((gather, layers)):
        assert told(way(t)) == most([r[i] for r in ranks]), way.__name__


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.13"),
    reason="docs/plan.md has the counts of torch 2.13 and newer: 2.10 adds up where they scatter",
)
@pytest.mark.parametrize("world", FEW)
def test_torchs_own_muon_on_dtensors(world: int) -> None:
    ranks = pool(world).run(counted.dtensors)
    assert told(dtensor(task(EVEN, Mesh(fsdp=world)))) == most(ranks)


def test_what_a_rank_holds_is_what_its_layout_says() -> None:
    for shape in ((10, 4), (4, 10), (7, 7), (5, 23), (23, 5), (6, 4, 4), (1, 9)):
        one = Weights(count=1, shape=shape, parts=((1, *shape[-2:]),))
        for fsdp in (1, 2, 3, 8):
            for tp in (1, 2, 3, 4):
                mesh = Mesh(replicate=2, fsdp=fsdp, tp=tp)
                sizes = Layout.of(shape, (2, fsdp, tp), placements(one, mesh)).sizes
                assert held(one, mesh).tolist() * 2 == sizes
                assert largest(one, mesh) == max(sizes)


def test_the_busiest_rank_is_among_those_that_are_looked_at() -> None:
    weights = (linear(5, 24, 16), linear(3, 13, 11), linear(2, 3, 40))
    for mesh in (Mesh(fsdp=32), Mesh(replicate=3, fsdp=4, tp=2), Mesh(replicate=16, fsdp=2)):
        owners = owners_of(weights, mesh.devices, 4)
        sent, received = travel(weights, owners, mesh, torch.arange(mesh.devices))
        assert exchange.busiest(weights, owners, mesh) == (int(sent.max()), int(received.max()))
        # Nothing is lost: what is sent arrives.
        assert int(sent.sum()) == int(received.sum())
        costs = [float(w.work) for w in weights for _ in range(w.count)]
        assert sorted(set(assign_owners(costs, mesh.devices))) == owners.ranks.tolist()
