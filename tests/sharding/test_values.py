"""The values of groups, which ranks may write for themselves: one that differs is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import steepest
from steepest.optim import finite
from steepest.polar import Svd
from tests.sharding.pool import pool
from tests.sharding.test_copies import inputs, net
from tests.sharding.test_orders import muon, refused

pytestmark = pytest.mark.xdist_group("dist")

WRITE: Mapping[str, Callable[[dict[str, Any]], None]] = {
    "lr": lambda group: group.update(lr=0.03),
    "weight_decay": lambda group: group.update(weight_decay=0.2),
    "momentum": lambda group: group.update(momentum=0.5),
    "betas": lambda group: group.update(betas=(0.8, 0.9)),
    "lr of a tensor": lambda group: group.update(lr=torch.tensor(0.03)),
}


def written(rank: int, world: int, key: str, layout: str) -> str:
    """What is said of a number that one rank has written; once it is right, all goes on."""
    model = net()
    if layout == "fsdp":
        fully_shard(model)
    module = DistributedDataParallel(model) if layout == "ddp" else model
    optimizer = muon(module)
    group = next(g for g in optimizer.param_groups if g["adamw"] == (key == "betas"))

    def passes(step: int) -> None:
        optimizer.zero_grad()
        module(inputs(rank, step)).square().mean().backward()

    passes(0)
    optimizer.step()
    before = dict(group)
    if rank:
        WRITE[key](group)  # type: ignore[arg-type]
    passes(1)
    said = refused(optimizer)
    group.update(before)  # type: ignore[typeddict-item]
    optimizer.step()
    return said


@pytest.mark.parametrize("layout", ["ddp", "fsdp"])
@pytest.mark.parametrize("key", WRITE)
def test_a_number_that_one_rank_writes_later_is_named(key: str, layout: str) -> None:
    for said in pool(2).run(written, key, layout):
        assert said.startswith(f"{key.partition(' ')[0]}='not the same on all 2 ranks'")
        assert "on every rank" in said


def loaded(rank: int, world: int, known: bool) -> list[str]:
    """What is said after a state with another learning rate was loaded on one rank.

    Args:
        rank: The rank.
        world: The number of ranks.
        known: Whether a step may look at what the ranks have agreed on: not on an accelerator.
    """
    model = net()
    ddp = DistributedDataParallel(model)
    optimizer, other = muon(ddp), steepest.Muon(net(), lr=0.5, adamw_lr=0.0075, polar=Svd())
    patch = pytest.MonkeyPatch()
    said = []
    for step in range(2):
        optimizer.zero_grad()
        ddp(inputs(rank, step)).square().mean().backward()
        if step and rank:
            optimizer.load_state_dict(other.state_dict())
        if step and not known:
            patch.setattr(finite, "is_known", lambda _: False)
            # The rank that has loaded raises, and would leave the other one waiting.
            patch.setattr(optimizer, "_move", lambda steps: None)
        try:
            optimizer.step()
        except ValueError as error:
            said.append(str(error))
    patch.undo()
    return said


def test_a_state_that_one_rank_loads_is_refused() -> None:
    for said in pool(2).run(loaded, True):
        assert len(said) == 1 and said[0].startswith("lr='not the same on all 2 ranks'")


def test_without_waiting_the_rank_that_loads_a_state_compares() -> None:
    first, second = pool(2).run(loaded, False)
    assert first == []
    assert len(second) == 1 and second[0].startswith("param_groups='not the same on all 2 ranks'")
