"""Momentum in 8 bits on several processes: it lies where its shard lies, in blocks of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from steepest import Lion, Muon, SteepestDescent, norms
from steepest.optim.blockwise import block_count, dequantise
from steepest.optim.momentum import units_shape
from steepest.polar import Svd
from steepest.sharding import Layout
from steepest.views import EXPERTS, LINEAR, MatrixView
from tests.sharding.pool import pool
from tests.sharding.wells import Wells, replicas

pytestmark = pytest.mark.xdist_group("dist")

# All but the last are large enough. Rows that no number of processes divides, fewer of them than
# processes, and blocks of which no end is where a row is cut.
SHAPES: Mapping[str, tuple[tuple[int, ...], MatrixView | None]] = {
    "wide": ((67, 300), LINEAR),
    "tall": ((129, 35), LINEAR),
    "low": ((3, 1500), LINEAR),
    "qkv": ((96, 64), MatrixView(split=3)),
    "experts": ((5, 24, 50), EXPERTS),
    "bias": ((7,), None),
}
EIGHT: dict[str, Any] = {"lr": 0.1, "momentum_dtype": torch.int8}
MAKE: Mapping[str, Callable[[Wells], torch.optim.Optimizer]] = {
    "muon": lambda w: Muon(w.matrices(), polar=Svd(), **EIGHT),
    "rows": lambda w: SteepestDescent(w.matrices(), norms.RowNorm(), momentum=0.9, **EIGHT),
    "lion": lambda w: Lion(w.named(), **EIGHT),
    "one number": lambda w: SteepestDescent(w.named(), norms.L2(), momentum=0.9, **EIGHT),
}
STEPS = 4


def steps(wells: Wells, optimizer: torch.optim.Optimizer, start: int = 0) -> list[list[float]]:
    """The losses of some steps, of every parameter: this rank's part."""
    losses = []
    for step in range(start, start + STEPS):
        losses.append(wells.pull(step))
        optimizer.step()
    return losses


def train(rank: int, world: int, layout: str) -> dict[str, list[list[float]]]:
    """The losses, by optimizer."""
    found = {}
    for name, make in MAKE.items():
        wells = Wells(layout, world, torch.float64, SHAPES)
        found[name] = steps(wells, make(wells))
    return found


def furthest(world: int, layout: str) -> dict[str, float]:
    """How far any loss is from that of one process, over the largest; by optimizer."""
    expected, got = pool(1).run(train, "one")[0], pool(world).run(train, layout)
    apart = {}
    for name, losses in expected.items():
        own = torch.tensor(losses, dtype=torch.float64)
        ranks = torch.stack([torch.tensor(r[name], dtype=torch.float64) for r in got])
        difference = ranks.sum(0) / replicas(layout, world) - own
        apart[name] = float((difference.abs() / own.max()).max())
    return apart


@pytest.mark.parametrize(
    ("world", "layout"), [(2, "fsdp"), (2, "replicated"), (4, "fsdp"), (4, "hsdp")]
)
def test_whole_rows_make_the_blocks_of_one_process(world: int, layout: str) -> None:
    apart = furthest(world, layout)
    assert max(apart.values()) < 1e-12, apart


@pytest.mark.parametrize(("world", "layout"), [(2, "tp"), (4, "fsdp+tp")])
def test_parts_of_rows_differ_by_what_a_quantiser_may(world: int, layout: str) -> None:
    """At most half a unit of 1/127 for each step; and other blocks do make a difference."""
    apart = furthest(world, layout)
    assert 1e-9 < max(apart.values()) < STEPS / 254, apart


def state(rank: int, world: int, layout: str) -> dict[str, tuple[Any, ...]]:
    """For each parameter: how its state lies here, and the whole average, codes and units."""
    wells = Wells(layout, world, torch.float64, SHAPES)
    optimizer = MAKE["muon"](wells)
    steps(wells, optimizer)
    found = {}
    for name, p in wells.params.items():
        own = optimizer.state[p]
        if name == "bias":
            assert "exp_avg" in own
            continue
        assert own.keys() == {"momentum_codes", "momentum_units"}
        codes, units = own.values()
        assert codes.shape == p.shape and tuple(units.shape) == units_shape(p)
        if isinstance(p, DTensor):
            assert codes.placements == units.placements == p.placements
            here, part, place = codes.to_local(), units.to_local(), p.to_local()
            assert here.shape == place.shape
            assert part.shape == (place.shape[0], *[1] * (p.ndim - 1), units.shape[-1])
            average = dequantise(here, part.reshape(part.shape[0], part.shape[-1]))
            (view,) = [v for v in optimizer.parameter_views() if v.param is p]
            assert isinstance(view.momentum, DTensor)
            assert torch.equal(view.momentum.to_local(), average)
            codes, units = codes.full_tensor(), units.full_tensor()
        found[name] = codes.tolist(), units.flatten().tolist()
    return found


def test_codes_and_units_lie_where_their_parameter_does() -> None:
    ((expected),) = pool(1).run(state, "one")
    for world, layout in (2, "fsdp"), (2, "tp"), (4, "hsdp"), (4, "fsdp+tp"):
        for found in pool(world).run(state, layout):
            assert found.keys() == expected.keys()
            # Those of which the rows are whole: `placed` cuts rows and columns in turn.
            for name in ("wide", "low", "experts") if "tp" in layout else found:
                assert found[name] == expected[name], (layout, name)


PLACEMENTS = [
    (Shard(0), Shard(1)),
    (Shard(1), Shard(1)),
    (Shard(2), Replicate()),
    (_StridedShard(0, split_factor=3), Shard(0)),
    (_StridedShard(1, split_factor=3), Shard(1)),
]


@pytest.mark.parametrize("placements", PLACEMENTS, ids=str)
def test_each_rank_has_the_units_of_its_rows(placements: tuple[Any, ...]) -> None:
    """They are placed as the parameter is: one entry of each axis but the first is here."""
    shape, ranks = (7, 12, 301), (2, 3)
    layout = Layout.of(shape, ranks, placements)
    like = SimpleNamespace(
        shape=shape, ndim=3, device_mesh=SimpleNamespace(shape=ranks), placements=placements
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("steepest.optim.momentum.is_sharded", lambda _: True)
        whole = units_shape(like)  # type: ignore[arg-type]
    longest = max(math.prod(part[1:]) for part in layout.shapes)
    assert whole[-1] == block_count(longest)
    for part, own in zip(Layout.of(whole, ranks, placements).shapes, layout.shapes, strict=True):
        assert part == (own[0], 1, 1, whole[-1])


def module_of(wells: Wells) -> nn.Module:
    """A module with the parameters, for the functions of torch that ask for one."""
    module = nn.ParameterDict(wells.params)
    assert all(module[name] is p for name, p in wells.params.items())
    return module


def content_of(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What a checkpoint holds."""
    state = get_optimizer_state_dict(module, optimizer)
    return {"model": module.state_dict(), "optimizer": state}


def save(rank: int, world: int, layout: str, folder: Path) -> list[list[float]]:
    """Train, save, and go on; the losses after that."""
    wells = Wells(layout, world, torch.float64, SHAPES)
    optimizer, module = MAKE["muon"](wells), module_of(wells)
    steps(wells, optimizer)
    checkpoint.save(content_of(module, optimizer), checkpoint_id=folder)
    return steps(wells, optimizer, STEPS)


def resume(
    rank: int, world: int, layout: str, folder: Path, dtype: torch.dtype | None
) -> list[list[float]] | str:
    """Go on from what was saved; or the reason why not."""
    wells = Wells(layout, world, torch.float64, SHAPES)
    optimizer = Muon(wells.matrices(), 0.1, polar=Svd(), momentum_dtype=dtype)
    module = module_of(wells)
    content = content_of(module, optimizer)
    try:
        checkpoint.load(content, checkpoint_id=folder)
    except BaseException as error:  # of torch, and no Exception
        return str(error).strip().splitlines()[-1]
    set_optimizer_state_dict(module, optimizer, content["optimizer"])
    return steps(wells, optimizer, STEPS)


def total(ranks: list[Any], copies: int) -> Tensor:
    """The losses of whole parameters."""
    return torch.stack([torch.tensor(r, dtype=torch.float64) for r in ranks]).sum(0) / copies


def test_a_checkpoint_of_whole_rows_goes_on_with_other_processes(tmp_path: Path) -> None:
    expected = total(pool(2).run(save, "fsdp", tmp_path), 1)
    for world, layout in (1, "one"), (2, "fsdp"), (4, "hsdp"):
        got = total(pool(world).run(resume, layout, tmp_path, torch.int8), replicas(layout, world))
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_a_checkpoint_of_parts_of_rows_goes_on_where_they_are_cut_alike(tmp_path: Path) -> None:
    expected = total(pool(2).run(save, "tp", tmp_path), 1)
    got = total(pool(2).run(resume, "tp", tmp_path, torch.int8), 1)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    (why,) = pool(1).run(resume, "one", tmp_path, torch.int8)
    assert isinstance(why, str) and "Size mismatch" in why and "momentum_units" in why


def test_whole_averages_and_codes_are_not_taken_for_each_other(tmp_path: Path) -> None:
    pool(2).run(save, "fsdp", tmp_path)
    for why in pool(2).run(resume, "fsdp", tmp_path, None):
        assert isinstance(why, str) and "Missing key" in why and "momentum_buffer" in why
