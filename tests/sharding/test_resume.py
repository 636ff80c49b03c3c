"""A checkpoint of torch.distributed.checkpoint goes on with other processes, cut in another way.

One table holds every optimizer of the family. A run makes steps, in one of which a gradient is NaN,
is saved, and goes on; another number of processes goes on from what was saved, with a model and an
optimizer that have not made a step, and has the same losses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

import steepest
from steepest import EMANesterov, LoRAMuon, Muon, Muown, PolarGrad, Scion, SteepestDescent, norms
from steepest.optim import momentum
from steepest.optim.presets import PRESETS
from steepest.polar import Svd
from steepest.sharding import is_sharded
from steepest.transforms import BalancedRows, RowSecondMoment
from tests.sharding.models import Spread, spread
from tests.sharding.pool import pool

pytestmark = pytest.mark.xdist_group("dist")

HALF = 4
SMALLEST, SHORTEST = momentum.SMALLEST, momentum.SHORTEST
EXACT = ("fsdp", "hsdp", "ddp", "fsdp+tp", "tp")


@dataclass(frozen=True)
class Row:
    """An optimizer, its model, and the layouts in which it goes on.

    Args:
        make: the optimizer of a model on its processes.
        model: a name of `tests.sharding.models`.
        layouts: those in which it goes on as in one process.
        within: largest relative difference of a loss.
    """

    make: Callable[[Spread], Any]
    model: str = "gpt"
    layouts: tuple[str, ...] = EXACT
    within: float = 1e-9


OPTIONS: Mapping[str, Mapping[str, Any]] = {
    **{name: {"lr": 0.02} for name in ("SGD", "NormalizedSGD", "SpectralDescent", "PolarGrad")},
    "SGD": {"lr": 0.1, "momentum": 0.9},
    "Lion": {"lr": 0.01},
    "SignSGD": {"lr": 0.01},
    "Scion": {"lr": 0.02, "head_scale": 2.0},
    "Aurora": {"lr": 0.02, "before": BalancedRows(polar=Svd())},
}
WITH_POLAR = {name for name, row in PRESETS.items() if "Mu" in name or row.retraction or row.before}


def preset(name: str) -> Row:
    """A row of the table of named optimizers, with exact polar factors where it takes a method."""
    options = dict(OPTIONS.get(name, {"lr": 0.02}))
    if name in WITH_POLAR:
        options["polar"] = Svd()
    # Signs of what is nearly zero differ where sums are taken in another order.
    signs = name in ("Lion", "SignSGD", "AdaMuon", "SOAPMuon")
    make = getattr(steepest, name)
    return Row(lambda s: make(s.module, adamw_lr=0.01, **options), within=1e-7 if signs else 1e-9)


def muon(run: Spread, **options: Any) -> Muon:
    """Muon with exact polar factors."""
    return Muon(run.module, **{"lr": 0.02, "polar": Svd(), "adamw_lr": 0.01, **options})


TABLE: Mapping[str, Row] = {
    **{name: preset(name) for name in PRESETS},
    "muown and normuon": Row(
        lambda s: Muown(s.module, lr=0.02, polar=Svd(), adamw_lr=0.01, after=RowSecondMoment())
    ),
    "int8": Row(
        lambda s: muon(s, momentum_dtype=torch.int8),
        # Elsewhere rows are cut, and the blocks of 8 bits end at other places.
        layouts=("fsdp", "hsdp", "ddp"),
    ),
    "float32": Row(lambda s: muon(s, momentum_dtype=torch.float32), within=1e-5),
    "projection": Row(lambda s: muon(s, constraint="project", weight_decay=0.3)),
    "cautious": Row(lambda s: muon(s, decay="cautious", nesterov=False)),
    "torch's method": Row(lambda s: muon(s, polar=None, ns_steps=5), within=1e-2),
    "schatten": Row(
        lambda s: SteepestDescent(
            s.module, norms.Schatten(4), lr=0.02, momentum=0.9, nesterov=True, adamw_lr=0.01
        )
    ),
    "two weights": Row(
        lambda s: SteepestDescent(s.module, norms.Spectral(), lr=0.02, betas=(0.8, 0.9))
    ),
    "estimate": Row(
        lambda s: SteepestDescent(s.module, norms.Spectral(), sharpness="estimate", adamw_lr=0.01),
        within=1e-7,
    ),
    "line search": Row(
        lambda s: SteepestDescent(s.module, norms.L2(), scale="linesearch"),
        layouts=("fsdp", "hsdp", "ddp"),
        within=1e-7,
    ),
    "ema nesterov": Row(
        lambda s: EMANesterov(muon(s), start=1, stop=6, look_ahead=0.8, ema=0.5),
    ),
    "ema nesterov of polar grad": Row(
        lambda s: EMANesterov(
            PolarGrad(s.module, lr=0.1, adamw_lr=0.01), start=1, stop=None, look_ahead=0.8, ema=0.5
        ),
    ),
    "pairs": Row(
        lambda s: LoRAMuon(s.module, lr=0.05, weight_decay=0.1, polar=Svd(), adamw_lr=0.01),
        model="adapters",
        layouts=("fsdp", "hsdp", "ddp"),
    ),
    "scion, projected": Row(
        lambda s: Scion(s.module, lr=0.02, constraint="project", weight_decay=0.2)
    ),
}


def steps(run: Spread, optimizer: Any, start: int) -> list[float]:
    """The losses of some steps; in the second one the gradient of a matrix is NaN."""
    losses = []
    first = next(p for p in run.module.parameters() if p.requires_grad and p.ndim > 1)
    for step in range(start, start + HALF):

        def closure(step: int = step) -> torch.Tensor:
            optimizer.zero_grad()
            loss = run.loss(step, torch.float64)
            loss.backward()
            if step == 1 and first.grad is not None:
                first.grad.mul_(float("nan"))
            return loss

        if isinstance(optimizer, EMANesterov):
            optimizer.train()
        losses.append(float(optimizer.step(closure).detach()))
    return losses


def started(name: str, layout: str, rank: int, world: int) -> Spread:
    """The model of a row; in 8 bits it keeps small tensors as well."""
    eight = name == "int8"
    momentum.SMALLEST, momentum.SHORTEST = (1, 1) if eight else (SMALLEST, SHORTEST)
    return spread(TABLE[name].model, layout, rank, world, torch.float64)


def saved(
    rank: int, world: int, layout: str, names: list[str], folder: Path
) -> list[tuple[list[float], int]]:
    """Train, save, and go on: the losses after that, and what was skipped before; by name."""
    found = []
    for name in names:
        run = started(name, layout, rank, world)
        optimizer = TABLE[name].make(run)
        steps(run, optimizer, 0)
        model, state = get_state_dict(run.module, optimizer)
        content = {"model": model, "optimizer": state}
        checkpoint.save(content, checkpoint_id=folder / name.replace(" ", "-"))
        count = optimizer.skipped
        found.append((steps(run, optimizer, HALF), count))
    momentum.SMALLEST, momentum.SHORTEST = SMALLEST, SHORTEST
    return found


def resumed(
    rank: int, world: int, layout: str, names: list[str], folder: Path
) -> list[tuple[list[float], int]]:
    """Go on from what was saved, with a model and an optimizer that have not made a step."""
    found = []
    for name in names:
        run = started(name, layout, rank, world)
        with torch.no_grad():
            for p in run.model.parameters():
                p.zero_()
        optimizer = TABLE[name].make(run)
        model, state = get_state_dict(run.module, optimizer)
        content = {"model": model, "optimizer": state}
        checkpoint.load(content, checkpoint_id=folder / name.replace(" ", "-"))
        set_state_dict(
            run.module,
            optimizer,
            model_state_dict=content["model"],
            optim_state_dict=content["optimizer"],
        )
        count = optimizer.skipped
        found.append((steps(run, optimizer, HALF), count))
    momentum.SMALLEST, momentum.SHORTEST = SMALLEST, SHORTEST
    return found


def check(names: list[str], start: tuple[int, str], goes: list[tuple[int, str]], to: Path) -> None:
    """Save with one layout and go on with others."""
    told = pool(start[0]).run(saved, start[1], names, to)
    counts = [count for _, count in told[0]]
    assert all(counts), "an update was skipped"
    for world, layout in goes:
        chosen = [n for n in names if layout == "one" or layout in TABLE[n].layouts]
        ranks = pool(world).run(resumed, layout, chosen, to)
        for i, name in enumerate(chosen):
            number = names.index(name)
            expected = mean([rank[number][0] for rank in told])
            got = mean([rank[i][0] for rank in ranks])
            assert got == pytest.approx(expected, rel=TABLE[name].within), (name, world, layout)
            assert {rank[i][1] for rank in ranks} == {counts[number]}, (name, world, layout)


def counted(rank: int, world: int, names: list[str]) -> list[tuple[dict[str, torch.Tensor], bool]]:
    """What this rank keeps of its own, beside parts of tensors, and whether its part may be empty.

    Such as counts of steps, of which a checkpoint has that of any rank.
    """
    found = []
    for name in names:
        momentum.SMALLEST, momentum.SHORTEST = (1, 1) if name == "int8" else (SMALLEST, SHORTEST)
        run = spread("adapters", "fsdp", rank, world, torch.float64)
        optimizer = TABLE[name].make(run)
        steps(run, optimizer, 0)
        kept = {
            f"{param} {key}": value
            for param, p in run.module.named_parameters()
            for key, value in optimizer.state.get(p, {}).items()
            if isinstance(value, torch.Tensor) and not is_sharded(value)
        }
        empty = any(is_sharded(p) and not p.to_local().numel() for p in run.module.parameters())
        found.append((kept, empty))
    momentum.SMALLEST, momentum.SHORTEST = SMALLEST, SHORTEST
    return found


SOME = ["Muon", "SOAPMuon", "Hyperball", "pairs"]
EVERY = [name for name, row in TABLE.items() if "fsdp" in row.layouts]


@pytest.mark.parametrize(
    "names", [SOME, pytest.param(EVERY, marks=pytest.mark.slow)], ids=["some", "every"]
)
def test_every_rank_keeps_the_same_counts(names: list[str]) -> None:
    """Also one that has no row of a parameter."""
    ranks = pool(4).run(counted, names)
    for name, first, *others in zip(names, *ranks, strict=True):
        assert any(empty for _, empty in others)
        for kept, _ in others:
            assert kept.keys() == first[0].keys(), name
            for key, value in kept.items():
                assert torch.equal(value, first[0][key]), (name, key)


def mean(ranks: list[list[float]]) -> list[float]:
    """The losses of whole batches."""
    return [sum(step) / len(ranks) for step in zip(*ranks, strict=True)]


@pytest.mark.parametrize("name", TABLE)
def test_one_process_saves_and_two_resume(name: str, tmp_path: Path) -> None:
    check([name], (1, "one"), [(2, "fsdp")], tmp_path)


@pytest.mark.parametrize("name", ["Muon", "NorMuon"])
def test_two_ranks_save_and_one_and_copies_resume(name: str, tmp_path: Path) -> None:
    check([name], (2, "fsdp"), [(1, "one"), (2, "ddp")], tmp_path)


FROM = [(2, "fsdp"), (4, "fsdp"), (2, "ddp"), (4, "hsdp"), (4, "fsdp+tp")]
INTO = [(1, "one"), (2, "fsdp"), (4, "fsdp"), (2, "ddp"), (4, "hsdp"), (2, "tp"), (4, "fsdp+tp")]


@pytest.mark.slow
@pytest.mark.parametrize("start", FROM, ids=str)
def test_every_optimizer_goes_on_in_every_layout(start: tuple[int, str], tmp_path: Path) -> None:
    for name, row in TABLE.items():
        if start[1] in row.layouts:
            check([name], start, INTO, tmp_path)
