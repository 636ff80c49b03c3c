"""Pairs of factors and clipped heads that lie on several processes: as of whole ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

import steepest
from steepest.polar import Svd
from steepest.routing import HeadRows, QueryKey
from tests.sharding.pool import pool
from tests.sharding.wells import Wells, placed, replicas

pytestmark = pytest.mark.xdist_group("dist")

LAYOUTS = [(2, "fsdp"), (2, "replicated"), (4, "fsdp"), (4, "hsdp"), (4, "tp"), (4, "fsdp+tp")]
# More ranks than rows of A, rows that no number of processes divides, a convolution, a square pair.
SHAPES: dict[str, tuple[tuple[int, ...], None]] = {
    "low.lora_A": ((3, 9), None),
    "low.lora_B": ((7, 3), None),
    "high.lora_A": ((4, 5), None),
    "high.lora_B": ((5, 4), None),
    "conv.lora_A": ((2, 3, 2, 2), None),
    "conv.lora_B": ((5, 2, 1, 1), None),
    "low.magnitude": ((7,), None),
}


def train(rank: int, world: int, layout: str, decay: float) -> list[list[float]]:
    """The losses of every factor in each step: this rank's part."""
    wells = Wells(layout, world, torch.float64, SHAPES)
    optimizer = steepest.LoRAMuon(
        wells.named(), lr=0.3, lora_scale=2.0, weight_decay=decay, polar=Svd()
    )
    losses = []
    for step in range(4):
        losses.append(wells.pull(step))
        optimizer.step()
        kept = {key for state in optimizer.state.values() for key in state}
        assert kept == {"momentum_buffer", "step", "exp_avg", "exp_avg_sq"}
    return losses


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(("world", "layout"), LAYOUTS)
def test_pairs_move_as_in_one_process(world: int, layout: str, decay: float) -> None:
    (expected,) = torch.tensor(pool(1).run(train, "one", decay), dtype=torch.float64)
    parts = torch.tensor(pool(world).run(train, layout, decay), dtype=torch.float64)
    total = parts.sum(0) / replicas(layout, world)
    assert float((total - expected).abs().max() / expected.max()) < 1e-9


def data_parallel(rank: int, world: int) -> list[float]:
    """The losses of copies whose polar factors the ranks divide among them."""
    wells = Wells("one", world, torch.float64, SHAPES)
    optimizer = steepest.LoRAMuon(wells.named(), lr=0.3, lora_scale=2.0, polar=Svd())
    optimizer.set_replicas(dist.group.WORLD)
    losses = []
    for step in range(4):
        losses.append(sum(wells.pull(step)))
        optimizer.step()
    return losses


def test_copies_move_as_one() -> None:
    (expected,) = torch.tensor(pool(1).run(train, "one", 0.0), dtype=torch.float64).sum(-1)
    for own in pool(2).run(data_parallel):
        torch.testing.assert_close(torch.tensor(own, dtype=torch.float64), expected)


def wholes() -> dict[str, Tensor]:
    """Query, key and value in one weight with a bias, and latent attention's two."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"qkv": (24, 6), "bias": (24,), "q": (24, 5), "kv": (20, 7)}
    return {k: torch.randn(s, generator=generator).double() for k, s in shapes.items()}


def maxima(rank: int) -> dict[str, Tensor]:
    """What each rank has seen of its own batch."""
    return {
        "fused": torch.tensor([[3.0, -1.0, 0.5], [1.0, float("nan"), 0.2]])[rank],
        "latent": torch.tensor([[0.1, 0.2], [7.0, float("inf")]])[rank],
    }


def clipped(rank: int, world: int, layout: str) -> dict[str, Tensor]:
    """The weights after clipping, whole."""
    params: dict[str, Any] = {}
    for i, (name, value) in enumerate(wholes().items()):
        where = placed(layout, world, i, value.ndim)
        if where is not None:
            value = distribute_tensor(value, *where, src_data_rank=None)
        params[name] = nn.Parameter(value)
    split = (3, 1, 1, 3, 1, 3) * 2
    layers = {
        "fused": QueryKey(
            [HeadRows(params[n], 12, range(3)) for n in ("qkv", "bias")],
            [HeadRows(params[n], 12, range(3, 6)) for n in ("qkv", "bias")],
        ),
        "latent": QueryKey(
            [HeadRows(params["q"], split, (0, 6))],
            [HeadRows(params["kv"], (2, 8, 2, 8), (0, 2))],
            [HeadRows(params["q"], split, (1, 7))],
        ),
    }
    group = None if layout == "one" else dist.group.WORLD
    clip = steepest.QKClip(layers, 1.0, group=group)
    if layout == "one":
        first, second = maxima(0), maxima(1)
        clip({k: torch.fmax(first[k], second[k].nan_to_num(posinf=-1)) for k in first})
    else:
        for name, own in maxima(rank % 2).items():
            if name == "latent" or rank % 2 == 0:  # every other rank has not run a layer
                clip.record(name, own)
        clip.after_step()
    return {
        n: (p.full_tensor() if isinstance(p, DTensor) else p).detach() for n, p in params.items()
    }


@pytest.mark.parametrize(("world", "layout"), LAYOUTS)
def test_heads_are_clipped_as_in_one_process(world: int, layout: str) -> None:
    (expected,) = pool(1).run(clipped, "one")
    before = wholes()
    assert all(not torch.equal(expected[name], before[name]) for name in before)
    for found in pool(world).run(clipped, layout):
        assert all(torch.equal(found[name], expected[name]) for name in expected), layout
