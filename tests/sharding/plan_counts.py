"""Steps of real optimizers on real processes, with the collectives that they issue counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import Placement, _StridedShard

import steepest
from steepest.apps.plan.exchange import tensor_axis
from steepest.apps.plan.mesh import Mesh
from steepest.apps.plan.models import Model, Weights, experts, linear
from steepest.optim import plan as planning
from steepest.sharding import CollectiveCounter, Layout
from steepest.views import EXPERTS, LINEAR

Counts = dict[str, tuple[int, int]]
"""Calls and bytes handed over, by the name of the collective."""

SMALL_BUCKET = 4096

WEIGHTS = (
    linear(2, 24, 16),
    linear(1, 13, 11),
    linear(3, 16, 24),
    linear(1, 3, 40),
    experts(1, 8, 6, 4, 1.0),
    experts(2, 6, 5, 4, 1.0),
)
EVEN = (linear(2, 32, 16), linear(2, 16, 32), linear(1, 32, 32))


def model(weights: tuple[Weights, ...]) -> Model:
    """A model of these weights and nothing else."""
    return Model(
        name="test",
        source="",
        weights=weights,
        rest=(0, 0),
        active=0,
        tokens=64,
        blocks=1,
        added=8,
    )


def placements(weights: Weights, mesh: Mesh) -> tuple[Placement, ...]:
    """Those that a plan takes a parameter to have, on the axes replicate, fsdp and tp."""
    axis = tensor_axis(weights)
    strided = axis == 0 and mesh.tp > 1
    rows = _StridedShard(0, split_factor=mesh.tp) if strided else Shard(0)
    return Replicate(), rows, Shard(axis)


def meshes(world: int) -> list[Mesh]:
    """Meshes of so many processes: each kind occurs, and one of all axes."""
    more = {
        2: [Mesh(tp=2)],
        4: [Mesh(replicate=2, fsdp=2), Mesh(fsdp=2, tp=2)],
        8: [Mesh(replicate=2, fsdp=2, tp=2)],
    }
    return [Mesh(fsdp=world), *more.get(world, [])]


def _sharded(
    weights: Sequence[Weights], mesh: Mesh, devices: DeviceMesh, rank: int
) -> list[tuple[Weights, nn.Parameter]]:
    """Parameters of these shapes with gradients, laid out as a plan has it."""
    out = []
    for one in weights:
        place = placements(one, mesh)
        layout = Layout.of(one.shape, (mesh.replicate, mesh.fsdp, mesh.tp), place)
        if mesh.devices == mesh.fsdp:
            place = (Shard(0),)

        def make(shape: tuple[int, ...], whole: Weights, at: tuple[Placement, ...]) -> DTensor:
            stride = tuple(math.prod(whole.shape[i + 1 :]) for i in range(len(whole.shape)))
            size = torch.Size(whole.shape)
            return DTensor.from_local(
                torch.randn(shape), devices, at, run_check=False, shape=size, stride=stride
            )

        for _ in range(one.count):
            p = nn.Parameter(make(layout.shapes[rank], one, place))
            p.grad = torch.ones_like(p)  # alike on ranks that hold copies
            out.append((one, p))
    return out


def _count(work: Callable[[], object]) -> Counts:
    with CollectiveCounter() as counter:
        work()
    return {name: (counter.calls[name], counter.sent[name]) for name in counter.calls}


def _muon(parameters: Sequence[tuple[Weights, nn.Parameter]]) -> Counts:
    """The second step of this library's Muon: the first one also compares the ranks' models."""
    views = tuple(EXPERTS if one.stacked else LINEAR for one, _ in parameters)
    optimizer = steepest.Muon([{"params": [p for _, p in parameters], "views": views}])
    optimizer.step()
    return _count(optimizer.step)


@contextmanager
def small_buckets() -> Iterator[None]:
    """Buckets of a few kilobytes, so that small parameters need several."""
    usual, planning.BUCKET = planning.BUCKET, SMALL_BUCKET
    try:
        yield
    finally:
        planning.BUCKET = usual


def exchanges(rank: int, world: int) -> list[Counts]:
    """This library's exchange on every mesh; on four ranks also with small buckets."""
    out = []
    for mesh in meshes(world):
        shape = (mesh.fsdp,) if mesh.devices == mesh.fsdp else (mesh.replicate, mesh.fsdp, mesh.tp)
        parameters = _sharded(WEIGHTS, mesh, init_device_mesh("cpu", shape), rank)
        out.append(_muon(parameters))
        if world == 4:
            with small_buckets():
                out.append(_muon(parameters))
    return out


def chain(weights: Sequence[Weights]) -> nn.Module:
    """Layers of these shapes in a module, and a head."""
    shapes = [w.shape for w in weights for _ in range(w.count)]
    layers = {f"layer{i}": nn.Linear(into, out) for i, (out, into) in enumerate(shapes)}
    return nn.ModuleDict({**layers, "head": nn.Linear(shapes[-1][0], 5)})


def replicas(rank: int, world: int) -> list[Counts]:
    """The same for copies of a model, whose ranks are named."""
    out = []
    for small in (False, True):
        module = chain(EVEN)
        for p in module.parameters():
            p.grad = torch.ones_like(p)
        with small_buckets() if small else torch.no_grad():
            optimizer = steepest.Muon(module)
            optimizer.set_replicas(dist.group.WORLD)
            optimizer.step()
            out.append(_count(optimizer.step))
    return out


def dtensors(rank: int, world: int) -> Counts:
    """torch.optim.Muon on DTensors."""
    mesh = Mesh(fsdp=world)
    parameters = [p for _, p in _sharded(EVEN, mesh, init_device_mesh("cpu", (world,)), rank)]
    return _count(torch.optim.Muon(parameters).step)


def alternatives(rank: int, world: int) -> list[Counts]:
    """Every matrix gathered everywhere, and layer-wise owners."""
    mesh = Mesh(fsdp=world)
    parameters = [p for _, p in _sharded(EVEN, mesh, init_device_mesh("cpu", (world,)), rank)]
    whole = [torch.randn(p.shape) for p in parameters]

    def owners() -> None:
        for i, x in enumerate(whole):
            dist.reduce(x, i % world)
            dist.broadcast(x, i % world)

    return [
        _count(lambda: [p.grad.full_tensor() for p in parameters]),  # type: ignore[union-attr]
        _count(owners),
    ]
