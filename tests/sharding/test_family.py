"""Maps and retractions of matrices that lie on several processes: as of whole ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

import steepest
from steepest import MatrixView, retractions, transforms
from steepest.optim.presets import FAMILY
from steepest.polar import Svd
from tests.sharding.pool import pool
from tests.sharding.wells import SHAPES, Wells, replicas

pytestmark = pytest.mark.xdist_group("dist")

LAYOUTS = [(2, "fsdp"), (2, "replicated"), (4, "fsdp"), (4, "hsdp"), (4, "tp"), (4, "fsdp+tp")]
BALANCED = transforms.BalancedRows(polar=Svd())
OPTIONS: Mapping[str, Mapping[str, Any]] = {"Aurora": {"before": BALANCED}}
MORE: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "rows of floors": lambda groups: steepest.Muon(
        groups, lr=0.1, retraction=retractions.UpdateFloor(2.0, rows=True), polar=Svd()
    ),
    "all three": lambda groups: steepest.Muon(
        groups,
        lr=0.1,
        before=transforms.GradientSecondMoment(),
        after=transforms.RowSecondMoment(),
        retraction=retractions.RowMagnitudes(),
        polar=Svd(),
    ),
    "rows of another norm, on spheres": lambda groups: steepest.SteepestDescent(
        groups,
        "operator:rms:inf",
        lr=torch.tensor(0.1, dtype=torch.float64),
        momentum=0.9,
        retraction=retractions.Sphere(2.0),
    ),
    "rows of another norm": lambda groups: steepest.SteepestDescent(
        groups, "operator:rms:inf", lr=0.1, momentum=0.9, after=transforms.RowSecondMoment()
    ),
}


# Gate and up projections of experts in one weight; of four experts, and of three on two ranks.
FUSED = MatrixView(batch=(0,), rows=(1,), cols=(2,), split=2, split_dim=1)
SPLIT = {**SHAPES, "gate_up": ((4, 6, 5), FUSED), "three": ((3, 6, 5), FUSED)}


def make(name: str, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """An optimizer of the table with exact polar factors."""
    if name in MORE:
        return MORE[name](groups)
    return getattr(steepest, name)(groups, lr=0.1, polar=Svd(), **OPTIONS.get(name, {}))


def train(rank: int, world: int, layout: str, names: list[str]) -> dict[str, list[list[float]]]:
    """The losses of every parameter in each step, by optimizer: this rank's part."""
    losses = {}
    for name in names:
        wells = Wells(layout, world, torch.float64, SPLIT)
        optimizer = make(name, wells.matrices())
        losses[name] = []
        for step in range(4):
            losses[name].append(wells.pull(step))
            optimizer.step()
    return losses


def totals(ranks: list[dict[str, list[list[float]]]], name: str, copies: int) -> torch.Tensor:
    """The losses of whole parameters, shape (steps, parameters)."""
    return torch.stack([torch.tensor(r[name], dtype=torch.float64) for r in ranks]).sum(0) / copies


@pytest.mark.parametrize(("world", "layout"), LAYOUTS)
def test_losses_are_those_of_one_process(world: int, layout: str) -> None:
    names = [*FAMILY, *MORE]
    expected, got = pool(1).run(train, "one", names), pool(world).run(train, layout, names)
    apart = {
        name: float((totals(got, name, replicas(layout, world)) - own).abs().max() / own.max())
        for name in names
        for own in [totals(expected, name, 1)]
    }
    assert max(apart.values()) < 1e-9, apart
