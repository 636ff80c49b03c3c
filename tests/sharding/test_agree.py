"""However the parameters are spread, the losses are those of one process, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from itertools import product
from typing import TypeAlias

import pytest
import torch

from steepest import (
    Lion,
    LionK,
    Muon,
    PolarGrad,
    Scion,
    SteepestDescent,
    maps,
    norms,
)
from steepest.polar import GramEigh, Svd
from tests.sharding.models import MODELS, Spread, spread
from tests.sharding.pool import pool
from tests.sharding.wells import Wells, replicas

STEPS = 50
TRIED = 6
"""Steps of each of the many optimizers."""
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}

Case: TypeAlias = tuple[str, str, str, torch.dtype]
"""The layout, the model, the optimizer and the type of the parameters."""

# Each on parameters of every shape.
OPTIMIZERS: Mapping[str, Callable[[Wells], torch.optim.Optimizer]] = {
    "muon": lambda w: Muon(w.matrices(), lr=0.05, momentum=0.9, polar=Svd()),
    "muon_rms": lambda w: Muon(
        w.matrices(),
        lr=0.05,
        nesterov=False,
        adjust_lr_fn="match_rms_adamw",
        decay="cautious",
        polar=GramEigh(),
    ),
    "projected": lambda w: Muon(w.matrices(), lr=0.05, constraint="project", polar=Svd()),
    "spectral": lambda w: SteepestDescent(
        w.matrices(), norms.Spectral(), sharpness=9.0, momentum=0.8, nesterov=True
    ),
    "rows": lambda w: SteepestDescent(
        w.matrices(), norms.Operator("rms", math.inf), lr=0.05, momentum=0.9
    ),
    "columns": lambda w: SteepestDescent(
        w.matrices(), norms.Operator(1, "rms"), sharpness=9.0, momentum=0.9
    ),
    "schatten": lambda w: SteepestDescent(w.matrices(), norms.Schatten(4), lr=0.1, momentum=0.9),
    "max": lambda w: SteepestDescent(w.named(), norms.LInf(), sharpness=300.0, momentum=0.9),
    "rms": lambda w: SteepestDescent(w.named(), norms.RMS(), lr=0.05, momentum=0.9),
    "euclidean": lambda w: SteepestDescent(
        w.named(), norms.L2(), sharpness=5.0, momentum=0.9, weight_decay=0.1, decay="implicit"
    ),
    "modular": lambda w: SteepestDescent(w.named(), modular(w), sharpness=50.0, momentum=0.9),
    "estimate": lambda w: SteepestDescent(w.named(), norms.LInf(), sharpness="estimate"),
    "lion": lambda w: Lion(w.named(), lr=0.02),
    "nuclear": lambda w: LionK(
        w.matrices(), lr=0.05, weight_decay=0.1, K=maps.NuclearMap(), constraint="project"
    ),
    "smooth": lambda w: LionK(w.matrices(), lr=0.05, K=maps.SmoothNuclear(1e-2)),
    "polar_grad": lambda w: PolarGrad(w.matrices(), lr=0.1),
    "adamw": lambda w: torch.optim.AdamW(w.params.values(), lr=0.05),  # what the harness can do
}


# Each on a whole model; DistributedDataParallel is passed as it is, so that the work is divided.
FOR_MODELS: Mapping[str, Callable[[Spread], torch.optim.Optimizer]] = {
    "muon": lambda s: Muon(s.module, lr=0.02, momentum=0.9, polar=Svd(), adamw_lr=0.01),
    "muon_rms": lambda s: Muon(
        s.module, lr=0.01, momentum=0.9, adjust_lr_fn="match_rms_adamw", polar=GramEigh()
    ),
    "scion": lambda s: Scion(s.module, lr=0.02, head_scale=2.0, momentum=0.9, weight_decay=0.1),
    "signs": lambda s: Lion(s.module, lr=0.003),
    "adamw": lambda s: torch.optim.AdamW(s.module.parameters(), lr=0.01),
}


def modular(wells: Wells) -> norms.Modular:
    """Every kind of norm in one: entries, rows and whole matrices share the length of the step."""
    kinds = norms.Operator("rms", "rms"), norms.Operator("rms", math.inf), norms.LInf()
    names = [n for n, (shape, _) in wells.shapes.items()]
    flat = {n for n, (shape, _) in wells.shapes.items() if len(shape) != 2}
    return norms.Modular(
        {n: (norms.LInf() if n in flat else kinds[i % 3], 1.0 + i % 2) for i, n in enumerate(names)}
    )


KINDS = ["spectral", "columns", "modular"]
SPREADS = [
    ("fsdp", 4),
    ("fsdp", 8),
    ("tp", 2),
    ("hsdp", 4),
    ("replicated", 4),
    ("fsdp+tp", 4),
]

Totals: TypeAlias = dict[str, list[float]]
"""Of each optimizer the losses of its steps."""


@pytest.fixture(scope="module")
def alone() -> Callable[[torch.dtype], Totals]:
    """What one process does, which is asked for once."""
    return cache(lambda dtype: totals("one", 1, dtype, list(OPTIMIZERS)))


def descend(
    rank: int, world: int, layout: str, dtype: torch.dtype, names: list[str]
) -> dict[str, list[list[float]]]:
    """For each optimizer and step the losses of this rank's parts."""
    losses = {}
    for name in names:
        wells = Wells(layout, world, dtype)
        optimizer = OPTIMIZERS[name](wells)
        losses[name] = []
        for step in range(TRIED):
            losses[name].append(wells.pull(step))
            optimizer.step()
    return losses


def totals(layout: str, world: int, dtype: torch.dtype, names: list[str]) -> Totals:
    """For each optimizer the losses over all ranks."""
    ranks = pool(world).run(descend, layout, dtype, names)
    return {
        name: [
            math.fsum(part for rank in ranks for part in rank[name][step]) / replicas(layout, world)
            for step in range(TRIED)
        ]
        for name in names
    }


def assert_agree(got: list[float], expected: list[float], dtype: torch.dtype, what: str) -> None:
    """Step by step, relative; and something was learnt on the way."""
    worst = max(abs(a - b) / abs(b) for a, b in zip(got, expected, strict=True))
    assert worst <= TOLERANCE[dtype], f"{what}: {worst:.1e} at worst"
    assert min(expected) < 0.9 * expected[0], f"{what} learns nothing"


@pytest.mark.parametrize(
    ("layout", "world", "dtype", "names"),
    [
        # One of each kind of step; all of them with -m slow.
        ("fsdp+tp", 4, torch.float64, KINDS),
        *(
            pytest.param(*more, dtype, list(OPTIMIZERS), marks=pytest.mark.slow)
            for more in SPREADS
            for dtype in TOLERANCE
        ),
    ],
    ids=str,
)
def test_every_optimizer_agrees_with_one_process(
    layout: str,
    world: int,
    dtype: torch.dtype,
    names: list[str],
    alone: Callable[[torch.dtype], Totals],
) -> None:
    expected = alone(dtype)
    for name, got in totals(layout, world, dtype, names).items():
        assert_agree(got, expected[name], dtype, name)


def train(rank: int, world: int, cases: list[Case]) -> list[list[float]]:
    """The losses of this rank's shares of the batches, for each case."""
    out = []
    for layout, model, name, dtype in cases:
        run = spread(model, layout, rank, world, dtype)
        optimizer = FOR_MODELS[name](run)
        out.append([])
        for step in range(STEPS):
            optimizer.zero_grad()
            loss = run.loss(step, dtype)
            loss.backward()
            optimizer.step()
            out[-1].append(loss.item())
    return out


def means(world: int, cases: list[Case]) -> list[list[float]]:
    """For each case the losses of whole batches: every rank has an equal share, or the whole."""
    ranks = pool(world).run(train, cases, timeout=600)
    return [
        [math.fsum(step) / world for step in zip(*case, strict=True)]
        for case in zip(*ranks, strict=True)
    ]


def check(world: int, cases: list[Case]) -> None:
    """Against one process."""
    expected = means(1, [("one", *rest) for _, *rest in cases])
    for case, a, b in zip(cases, means(world, cases), expected, strict=True):
        assert_agree(a, b, case[-1], " ".join(map(str, case)))


GATED = {
    2: [
        ("ddp", "gpt", "muon"),
        ("fsdp", "conv", "muon"),
        ("tp", "mixture", "muon_rms"),
    ],
    4: [
        ("fsdp", "mlp", "muon"),
        ("fsdp+tp", "mlp", "muon_rms"),
    ],
}


@pytest.mark.parametrize("world", GATED)
def test_models_agree_with_one_process(world: int) -> None:
    cases = [(*case, torch.float64) for case in GATED[world]]
    if world == 2:
        cases.append((*GATED[world][1], torch.float32))
    check(world, cases)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("world", [2, 4])
def test_all_models_agree_with_one_process(world: int, dtype: torch.dtype) -> None:
    layouts = ("ddp", "fsdp", "tp") if world == 2 else ("ddp", "fsdp", "tp", "hsdp", "fsdp+tp")
    cases = set(product(layouts, MODELS, FOR_MODELS))
    if world == 4:  # torch 2.13's own AdamW takes no layer of three rows on four ranks
        cases.remove(("tp", "mlp", "adamw"))
    check(world, [(*case, dtype) for case in sorted(cases)])
