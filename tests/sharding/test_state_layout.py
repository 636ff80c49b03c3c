"""A state that lies otherwise on the ranks than its parameters is refused by its name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import steepest
from tests.sharding.models import mesh
from tests.sharding.pool import pool

pytestmark = pytest.mark.xdist_group("dist")

SHAPES = ((8, 6), (6,))
ADVICE = "load with torch.distributed.checkpoint.state_dict.set_optimizer_state_dict"
OTHERS = {
    "whole": "what is kept of .* is whole here",
    "replicated": r"what is kept of .* is sharded here, \(Replicate\(\),\) on DeviceMesh",
    "rows": r"what is kept of .* is sharded here, \(Shard\(dim=0\),\) on DeviceMesh",
    "columns": r"what is kept of .* is sharded here, \(Shard\(dim=1\),\) on DeviceMesh",
    "another mesh": r"what is kept of .* is sharded here, \(Shard\(dim=0\), Replicate\(\)\) on",
}


def placed(kind: str, world: int) -> list[nn.Parameter]:
    """A matrix and a bias that lie on the ranks in some way."""
    found = []
    for shape in SHAPES:
        whole = torch.arange(float(torch.Size(shape).numel())).reshape(shape).sin()
        one = mesh(dp=world)
        part: Any = whole
        if kind == "replicated":
            part = distribute_tensor(whole, one, [Replicate()], src_data_rank=None)
        elif kind in ("rows", "columns"):
            axis = len(shape) - 1 if kind == "columns" else 0
            part = distribute_tensor(whole, one, [Shard(axis)], src_data_rank=None)
        elif kind == "another mesh":
            both = mesh(dp=world, mp=1)
            part = distribute_tensor(whole, both, [Shard(0), Replicate()], src_data_rank=None)
        found.append(nn.Parameter(part))
    return found


def made(kind: str, world: int, name: str, steps: int = 1) -> tuple[list[nn.Parameter], Any]:
    """Parameters, and their optimizer after some steps."""
    matrix, bias = placed(kind, world)
    optimizer = getattr(steepest, name)(
        [{"params": [matrix]}, {"params": [bias], "adamw": True}], lr=0.1
    )
    for _ in range(steps):
        step(optimizer, [matrix, bias])
    return [matrix, bias], optimizer


def step(optimizer: Any, params: list[nn.Parameter]) -> None:
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()


def loaded(rank: int, world: int, name: str) -> dict[tuple[str, str], str]:
    """What is said where each way to lie on the ranks is loaded into each other one."""
    said = {}
    for here in OTHERS:
        for there in OTHERS:
            params, optimizer = made(here, world, name)
            saved = made(there, world, name)[1].state_dict()
            before = {p: dict(own) for p, own in optimizer.state.items()}
            try:
                optimizer.load_state_dict(saved)
                said[here, there] = ""
            except ValueError as error:
                said[here, there] = str(error)
                assert all(
                    own[k] is v for p, own in optimizer.state.items() for k, v in before[p].items()
                )
            step(optimizer, params)
    return said


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "name", ["Muon", *(pytest.param(n, marks=SLOW) for n in ("NorMuon", "SOAPMuon", "Muown"))]
)
def test_another_layout_is_refused_by_name(name: str) -> None:
    for rank in pool(2).run(loaded, name):
        for (here, there), text in rank.items():
            if here == there:
                assert text == ""
                continue
            assert re.match(r"state\[0\]\['momentum_buffer'\]=", text), (here, there, text)
            assert re.search(f"['\"]: {OTHERS[here]}", text) and ADVICE in text, (here, there, text)
            assert "a whole tensor" in text or there != "whole"
            assert len(text.splitlines()) == 1


def looks_ahead(rank: int, world: int) -> list[str]:
    """What is said of an average that lies otherwise than the weights."""
    said = []
    for here, there in (("rows", "whole"), ("whole", "rows"), ("rows", "another mesh")):
        made_of = []
        for kind in (here, there):
            params, inner = made(kind, world, "SGD", steps=0)
            optimizer = steepest.EMANesterov(inner, start=0, stop=None)
            optimizer.train()
            step(optimizer, params)
            made_of.append(optimizer)
        try:
            saved = made_of[1].state_dict()
            made_of[0].load_state_dict(saved)
            said.append("")
        except ValueError as error:
            said.append(str(error))
    return said


def test_so_is_the_average_of_moves() -> None:
    for texts in pool(2).run(looks_ahead):
        for text in texts:
            assert "ema_nesterov_average on " in text and ADVICE in text, texts


def kept(rank: int, world: int, change: str) -> str:
    """What is said of what a map keeps, alone: of a square's rows, in SOAP."""
    _, optimizer = made("rows", world, "SOAPMuon")
    saved = optimizer.state_dict()
    value = saved["state"][0]["before.second_moment"]
    assert isinstance(value, DTensor) and value.placements == (Shard(1),)
    changes: dict[str, Callable[[], Any]] = {
        "whole": value.full_tensor,
        "local": value.to_local,
        "replicated": lambda: value.redistribute(placements=[Replicate()]),
    }
    saved["state"][0] = {**saved["state"][0], "before.second_moment": changes[change]()}
    try:
        optimizer.load_state_dict(saved)
    except ValueError as error:
        return str(error)
    finally:
        dist.barrier()
    return ""


@pytest.mark.parametrize("change", ["whole", "local", "replicated"])
def test_so_is_what_maps_keep(change: str) -> None:
    for text in pool(2).run(kept, change):
        assert re.match(r"state\[0\]\['before\.second_moment'\]=", text), text
        assert "1×8×6 belongs here" in text if change == "local" else ADVICE in text


def same_mesh(rank: int, world: int) -> None:
    """A mesh that was made again is the same one."""
    (matrix, bias), optimizer = made("rows", world, "Muon")
    saved = optimizer.state_dict()
    again = init_device_mesh("cpu", (world,), mesh_dim_names=("dp",))
    for own in saved["state"].values():
        for name, value in own.items():
            if isinstance(value, DTensor):
                own[name] = DTensor.from_local(value.to_local(), again, value.placements)
    optimizer.load_state_dict(saved)
    step(optimizer, [matrix, bias])


def test_an_equal_mesh_is_no_other() -> None:
    pool(2).run(same_mesh)
