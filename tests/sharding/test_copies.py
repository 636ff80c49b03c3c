"""Copies of a model under DistributedDataParallel: their gradients are averaged, and stay alike."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import steepest
from steepest import norms
from steepest.polar import Svd
from tests.sharding.pool import pool

pytestmark = pytest.mark.xdist_group("dist")

Make = Callable[[Any], steepest.optim.SteepestOptimizer]

MAKE: dict[str, Make] = {
    "muon": lambda given: steepest.Muon(given, lr=0.02, polar=Svd()),
    "signs": lambda given: steepest.SignSGD(given, lr=0.02),
    "estimate": lambda given: steepest.SteepestDescent(given, norms.LInf(), sharpness="estimate"),
}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Linear(8, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 4)
    names = "first", "norm", "act", "hidden", "head"
    return nn.Sequential(OrderedDict(zip(names, layers, strict=True)))


def inputs(rank: int, step: int, count: int = 4) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(100 * step + rank))


def alike(module: nn.Module) -> bool:
    """Whether all ranks have the same parameters, bit for bit."""
    mine = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    found = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(found, mine)
    return all(torch.equal(one, mine) for one in found)


def bad_on_one(rank: int, world: int, name: str, known: str) -> tuple[bool, list[bool], int]:
    """One entry of a gain and of a bias is NaN on a rank: who has moved, and what was skipped."""
    model = net()
    early = DistributedDataParallel(model) if known == "module" else model
    optimizer = MAKE[name](early)
    module = early if known == "module" else DistributedDataParallel(model)
    if known == "group":
        optimizer.set_replicas(dist.group.WORLD)
    for step in range(2):
        optimizer.zero_grad()
        module(inputs(rank, step)).square().mean().backward()
        before = [p.detach().clone() for p in model.parameters()]
        if step == 1 and rank == world - 1:
            for p in (model[1].weight, model[3].bias):
                p.grad[0] = float("nan")
        optimizer.step()
    stayed = [torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    return alike(model), stayed, optimizer.skipped


@pytest.mark.parametrize(
    ("name", "known"),
    [("muon", "module"), ("muon", "later"), ("muon", "group"), ("signs", "module")],
)
def test_what_is_not_finite_on_one_rank_is_skipped_on_all(name: str, known: str) -> None:
    names = [name for name, _ in net().named_parameters()]
    for same, stayed, skipped in pool(2).run(bad_on_one, name, known):
        assert same and skipped == 2
        assert {n for n, s in zip(names, stayed, strict=True) if s} == {
            "norm.weight",
            "hidden.bias",
        }


def lengths(rank: int, world: int, *, spread: bool) -> list[float]:
    """The losses of steps of one length for all parameters, on a batch that all ranks have."""
    model = net().double()
    optimizer = MAKE["estimate"](DistributedDataParallel(model) if spread else model)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(inputs(0, 0).double()).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def lengths_of_copies(rank: int, world: int) -> tuple[list[float], list[float]]:
    return lengths(rank, world, spread=True), lengths(rank, world, spread=False)


def test_a_slope_that_every_rank_knows_counts_once() -> None:
    for copies, alone in pool(2).run(lengths_of_copies):
        assert copies == pytest.approx(alone, rel=1e-12)
        assert alone[-1] < alone[0]


def large_batches(rank: int, world: int) -> tuple[float, list[str]]:
    """How far norms of gradients of large batches are apart, and how two steps are answered."""
    model = net()
    optimizer = MAKE["muon"](model)
    optimizer.set_replicas(dist.group.WORLD)
    model(inputs(rank, 0, 60_000)).square().mean().backward()
    sizes = torch.stack([p.grad.double().norm() for p in model.parameters() if p.ndim == 2])
    ends = torch.stack([sizes, -sizes])
    dist.all_reduce(ends, op=dist.ReduceOp.MAX)
    apart = float(((ends[0] + ends[1]) / ends[0]).max())
    said = []
    for _ in range(2):
        try:
            optimizer.step()
            said.append("")
        except ValueError as error:
            said.append(str(error))
        for p in model.parameters():  # averaged, and rounded by each rank in its own way
            dist.all_reduce(p.grad)
            p.grad *= (1 + 1e-5 * rank) / world
    return apart, said


def test_gradients_of_large_batches_are_told_apart_and_roundings_are_not() -> None:
    for apart, (unaveraged, averaged) in pool(2).run(large_batches):
        assert apart < 1e-2
        assert "not the same on all ranks that hold copies" in unaveraged
        assert averaged == ""


def rates(rank: int, world: int) -> str:
    optimizer = steepest.Muon(DistributedDataParallel(net()), lr=0.02 * (rank + 1))
    for p in optimizer.views():
        p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match="not the same on all 2 ranks") as error:
        optimizer.step()
    return str(error.value)


def test_another_learning_rate_is_called_so() -> None:
    assert all(said.startswith("lr=") for said in pool(2).run(rates))


def added(rank: int, world: int, way: str) -> tuple[list[str], list[str], bool, bool, str]:
    """What two wrapped models in one optimizer come to, of which a warning may speak."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return together(rank, way)


def together(rank: int, way: str) -> tuple[list[str], list[str], bool, bool, str]:
    """Two wrapped models in one optimizer, the second as a group.

    The names, those of one process, whether the work is divided, whether all stay alike, and what
    is said of a step after `no_sync`.
    """
    models = [net(), net()]
    expected = MAKE["muon"](copy.deepcopy(models[0]))
    expected.add_param_group({"params": copy.deepcopy(models[1])[:2]})
    parts = [models[0], models[1][:2]]
    wraps = [DistributedDataParallel(p) if p is not parts[0] or way != "one" else p for p in parts]
    if way == "constructor":
        optimizer = MAKE["muon"]([{"params": wrap} for wrap in wraps])
    else:
        optimizer = MAKE["muon"](wraps[0] if way == "both" else parts[0])
        optimizer.add_param_group({"params": wraps[1]})

    def passes(step: int) -> None:
        optimizer.zero_grad()
        for wrap in wraps:
            x = inputs(0 if wrap is parts[0] else rank, step)
            wrap(x).square().mean().backward()

    passes(0)
    optimizer.step()
    divided, same = optimizer._replicas is not None, all(alike(part) for part in parts)
    optimizer.zero_grad()
    with wraps[1].no_sync():
        passes(1)
    said = "moved"
    try:
        optimizer.step()
    except ValueError as error:
        said = str(error)
    names = [
        [n for group in one.param_groups for n in group["param_names"]]
        for one in (optimizer, expected)
    ]
    return names[0], names[1], divided, same, said


@pytest.mark.parametrize("way", ["both", "constructor", "one"])
def test_groups_are_unwrapped_as_the_module_of_the_constructor_is(way: str) -> None:
    for names, expected, divided, same, said in pool(2).run(added, way):
        assert sorted(names) == sorted(expected)
        assert divided == (way != "one") and same
        assert "outside of no_sync" in said
