"""A gradient that has become zero brings a matrix to rest on all ranks as on one."""

from __future__ import annotations

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from steepest import SGD, Lion, Muon, SignSGD
from steepest.polar import Svd
from tests.sharding.pool import pool
from tests.sharding.wells import Wells

STEPS = 60
"""An average with weight 1/2 of the past needs some 40 steps from size 1 to be forgotten."""


def whole(x: torch.Tensor) -> torch.Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def coast(rank: int, world: int, layout: str) -> tuple[dict[str, list[float]], bool]:
    """The weights after one gradient and many that are zero; whether the last moved any."""
    wells = Wells(layout, world, torch.float64)
    optimizer = Muon(wells.matrices(), 0.05, 0.0, 0.5, polar=Svd())
    wells.pull(0)
    optimizer.step()
    matrices = {name: p for name, p in wells.params.items() if name != "bias"}
    for _ in range(STEPS):
        before = [p.detach().clone() for p in matrices.values()]
        for p in wells.params.values():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    moved = [
        not torch.equal(whole(a), whole(b.detach()))
        for a, b in zip(before, matrices.values(), strict=True)
    ]
    ends = {name: whole(p.detach()).flatten().tolist() for name, p in matrices.items()}
    return ends, any(moved)


def test_all_ranks_come_to_rest_where_one_process_does() -> None:
    ((expected, moved),) = pool(1).run(coast, "one")
    assert not moved
    for ends, moved in pool(4).run(coast, "fsdp+tp"):
        assert not moved
        for name, values in ends.items():
            got, want = torch.tensor(values), torch.tensor(expected[name])
            torch.testing.assert_close(got, want, rtol=0, atol=1e-6, msg=name)


def short(rank: int, world: int) -> list[list[float]]:
    """Steps of a tensor with fewer rows than ranks, beside one with a gradient that has a zero."""
    mesh = init_device_mesh("cpu", (world,))
    ends = []
    for make in (SGD, SignSGD, Lion, Muon):
        shapes = ((1, 5), (4, 5)) if make is not Muon else ((4, 5), (1, 5))
        params = [
            torch.nn.Parameter(distribute_tensor(torch.ones(s), mesh, [Shard(0)])) for s in shapes
        ]
        optimizer = make(params, lr=0.1)
        for step in range(2):
            for p in params:
                grad = torch.arange(float(step), step + p.numel()).reshape(p.shape)
                p.grad = distribute_tensor(grad, mesh, [Shard(0)])
            optimizer.step()
        ends += [whole(p.detach()).flatten().tolist() for p in params]
    return ends


def test_a_rank_may_hold_nothing_of_a_tensor() -> None:
    (expected,) = pool(1).run(short)
    for ends in pool(2).run(short):
        for got, want in zip(ends, expected, strict=True):
            torch.testing.assert_close(torch.tensor(got), torch.tensor(want), rtol=1e-5, atol=1e-6)
