"""A checkpoint of torch.distributed.checkpoint goes on with other processes, cut in another way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from steepest import Muon, Muown, Scion, SOAPMuon
from steepest.polar import Svd
from steepest.transforms import RowSecondMoment
from tests.sharding.models import Spread, spread
from tests.sharding.pool import pool

HALF = 4
MAKE: Mapping[str, Callable[[Spread], torch.optim.Optimizer]] = {
    "muon": lambda s: Muon(s.module, lr=0.02, polar=Svd(), adamw_lr=0.01),
    "soapmuon": lambda s: SOAPMuon(s.module, lr=0.02, polar=Svd(), adamw_lr=0.01),
    "muown and normuon": lambda s: Muown(
        s.module, lr=0.02, polar=Svd(), adamw_lr=0.01, after=RowSecondMoment()
    ),
    "scion": lambda s: Scion(s.module, lr=0.02, head_scale=2.0, momentum=0.9),
}


def steps(run: Spread, optimizer: torch.optim.Optimizer, start: int) -> list[float]:
    """The losses of some steps."""
    losses = []
    for step in range(start, start + HALF):
        optimizer.zero_grad()
        loss = run.loss(step, torch.float64)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def save(rank: int, world: int, layout: str, name: str, folder: Path) -> list[float]:
    """Train, save, and go on; the losses after that."""
    run = spread("gpt", layout, rank, world, torch.float64)
    optimizer = MAKE[name](run)
    steps(run, optimizer, 0)
    model, state = get_state_dict(run.module, optimizer)
    checkpoint.save({"model": model, "optimizer": state}, checkpoint_id=folder)
    return steps(run, optimizer, HALF)


def resume(rank: int, world: int, layout: str, name: str, folder: Path) -> list[float]:
    """Go on from what was saved, with a model and an optimizer that have not made a step."""
    run = spread("gpt", layout, rank, world, torch.float64)
    with torch.no_grad():
        for p in run.model.parameters():
            p.zero_()
    optimizer = MAKE[name](run)
    model, state = get_state_dict(run.module, optimizer)
    content = {"model": model, "optimizer": state}
    checkpoint.load(content, checkpoint_id=folder)
    set_state_dict(
        run.module,
        optimizer,
        model_state_dict=content["model"],
        optim_state_dict=content["optimizer"],
    )
    return steps(run, optimizer, HALF)


def mean(ranks: list[list[float]]) -> list[float]:
    """The losses of whole batches."""
    return [sum(step) / len(ranks) for step in zip(*ranks, strict=True)]


@pytest.mark.parametrize(
    "name", ["muon", "soapmuon", "muown and normuon", pytest.param("scion", marks=pytest.mark.slow)]
)
def test_four_ranks_save_and_others_resume(name: str, tmp_path: Path) -> None:
    expected = mean(pool(4).run(save, "fsdp", name, tmp_path / "saved"))
    for world, layout in (1, "one"), (2, "fsdp"), (2, "ddp"), (4, "fsdp+tp"):
        got = mean(pool(world).run(resume, layout, name, tmp_path / "saved"))
        assert got == pytest.approx(expected, rel=1e-9), (world, layout)
