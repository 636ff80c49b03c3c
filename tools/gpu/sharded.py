"""Steps of parameters that a group of ranks holds, as far as one rank on one device can show them.

A mesh of one rank has the flags, reductions and placements of sharded parameters. A group of one
that is told to divide its work sends every matrix through the buckets and collectives of owners.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import steepest
from gpu.checks import Finding, Groups, Make, compared, groups
from steepest import norms, polar
from steepest.apps.bench.sets import Shape
from steepest.sharding import RankGroup

OPTIMIZERS: Mapping[str, Make] = {
    "Muon": lambda g, lr: steepest.Muon(g, lr=lr, adamw_lr=lr, polar=polar.Auto(error=1e-3)),
    "Muon, bfloat16 on the way": lambda g, lr: steepest.Muon(
        g, lr=lr, polar=polar.Auto(error=1e-3), exchange_dtype=torch.bfloat16
    ),
    "NorMuon": lambda g, lr: steepest.NorMuon(g, lr=lr, polar=polar.Auto(error=1e-3)),
    "SteepestDescent, columns": lambda g, lr: steepest.SteepestDescent(
        g, norms.ColumnNorm(), lr=lr
    ),
    "Lion": lambda g, lr: steepest.Lion(g, lr=lr, weight_decay=0.1),
}


@contextmanager
def one_rank(device: torch.device) -> Iterator[None]:
    """A process group of this process alone: NCCL on a GPU, gloo on a CPU."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    with TemporaryDirectory() as folder:
        store = (Path(folder) / "store").as_uri()
        dist.init_process_group(backend, init_method=store, rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def on_a_mesh(make: Make, given: Groups, lr: Any) -> Any:
    """An optimizer of the same parameters, as DTensors on a mesh of one rank."""
    device = given[0]["params"][0].device
    mesh = init_device_mesh(device.type, (1,))
    return make(
        [
            {
                **group,
                "params": [
                    nn.Parameter(distribute_tensor(p.detach().clone(), mesh, [Shard(0)]))
                    for p in group["params"]
                ],
            }
            for group in given
        ],
        lr,
    )


def divided(make: Make, given: Groups, lr: Any) -> Any:
    """An optimizer that divides its work among the ranks of a group, of which there is one."""
    optimizer = make(given, lr)
    world = dist.group.WORLD
    assert world is not None, "there is a group"
    optimizer._replicas = RankGroup.of_group(world)
    return optimizer


LAYOUTS = {"on a mesh": on_a_mesh, "divided": divided}

SPREAD: Mapping[str, Make] = {
    f"{name}, {layout}": partial(spread, make)
    for name, make in OPTIMIZERS.items()
    for layout, spread in LAYOUTS.items()
}
"""Optimizers of sharded and of replicated parameters, by name."""


def as_alone(name: str, device: torch.device, shapes: Sequence[Shape]) -> Finding:
    """Steps of parameters that a group holds against those of the same parameters alone."""
    plain = OPTIMIZERS[name.rpartition(", ")[0]]
    rates = [torch.tensor(0.1, device=device) for _ in range(2)]
    alone = plain(groups(device, shapes), rates[0])
    spread = SPREAD[name](groups(device, shapes), rates[1])
    return compared([alone, spread], [alone.step, spread.step])
