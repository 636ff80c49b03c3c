"""EMANesterov of parameters that lie on several processes: as of whole ones, and saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.tensor import DTensor

from steepest import EMANesterov, Muon
from steepest.optim.ema_nesterov import AVERAGE
from steepest.polar import Svd
from tests.sharding.models import Spread, spread
from tests.sharding.pool import pool
from tests.sharding.wells import Wells, replicas

pytestmark = pytest.mark.xdist_group("dist")

LAYOUTS = [(2, "fsdp"), (2, "replicated"), (4, "hsdp"), (4, "fsdp+tp")]
HALF = 4


def wrapped(inner: torch.optim.Optimizer) -> EMANesterov:
    """One that looks ahead from the second step to the sixth."""
    return EMANesterov(inner, start=1, stop=6, look_ahead=0.8, ema=0.5)


def train(rank: int, world: int, layout: str) -> list[list[float]]:
    """The losses of every parameter in each step, at the point ahead: this rank's part."""
    wells = Wells(layout, world, torch.float64)
    optimizer = wrapped(Muon(wells.matrices(), lr=0.1, adamw_lr=0.05, polar=Svd()))
    losses = []
    for step in range(5):
        optimizer.train()
        losses.append(wells.pull(step))
        if step == 3:
            optimizer.eval()
            losses.append(wells.pull(step))
            optimizer.train()
        optimizer.step()
    saved = optimizer.state_dict()["state"]
    for number, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        average = saved[number][AVERAGE]
        assert type(average) is (DTensor if layout != "one" else torch.Tensor)
        assert average.shape == p.shape
        if isinstance(average, DTensor):
            assert average.placements == p.placements
    return losses


@pytest.mark.parametrize(("world", "layout"), LAYOUTS)
def test_losses_are_those_of_one_process(world: int, layout: str) -> None:
    own = torch.tensor(pool(1).run(train, "one")[0], dtype=torch.float64)
    ranks = torch.tensor(pool(world).run(train, layout), dtype=torch.float64)
    got = ranks.sum(0) / replicas(layout, world)
    assert float((got - own).abs().max() / own.max()) < 1e-9
    # The same targets are seen from the point ahead and from the weights.
    assert (own[3] - own[4]).abs().max() > 1e-3


def steps(run: Spread, optimizer: EMANesterov, start: int) -> list[float]:
    """The losses of some steps."""
    losses = []
    for step in range(start, start + HALF):
        optimizer.train()
        optimizer.zero_grad()
        loss = run.loss(step, torch.float64)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def make(run: Spread) -> EMANesterov:
    """The optimizer of a model."""
    return wrapped(Muon(run.module, lr=0.02, polar=Svd(), adamw_lr=0.01))


def save(rank: int, world: int, layout: str, folder: Path) -> list[float]:
    """Train, save, and go on; the losses after that."""
    run = spread("gpt", layout, rank, world, torch.float64)
    optimizer = make(run)
    steps(run, optimizer, 0)
    model, state = get_state_dict(run.module, optimizer)
    checkpoint.save({"model": model, "optimizer": state}, checkpoint_id=folder)
    return steps(run, optimizer, HALF)


def resume(rank: int, world: int, layout: str, folder: Path) -> list[float]:
    """Go on from what was saved, with a model and an optimizer that have not made a step."""
    run = spread("gpt", layout, rank, world, torch.float64)
    with torch.no_grad():
        for p in run.model.parameters():
            p.zero_()
    optimizer = make(run)
    model, state = get_state_dict(run.module, optimizer)
    content = {"model": model, "optimizer": state}
    checkpoint.load(content, checkpoint_id=folder)
    set_state_dict(
        run.module,
        optimizer,
        model_state_dict=content["model"],
        optim_state_dict=content["optimizer"],
    )
    assert optimizer.steps == HALF
    return steps(run, optimizer, HALF)


def test_four_ranks_save_and_others_resume(tmp_path: Path) -> None:
    def mean(ranks: list[list[float]]) -> list[float]:
        return [sum(step) / len(ranks) for step in zip(*ranks, strict=True)]

    expected = mean(pool(4).run(save, "fsdp", tmp_path / "saved"))
    for world, layout in (1, "one"), (2, "fsdp"), (4, "fsdp+tp"):
        got = mean(pool(world).run(resume, layout, tmp_path / "saved"))
        assert got == pytest.approx(expected, rel=1e-9), (world, layout)
