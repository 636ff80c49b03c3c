"""However the parameters are spread, the losses are those of one process, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

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
from tests.dist.models import MODELS, spread
from tests.dist.pool import pool
from tests.dist.wells import Wells, replicas

STEPS = 50
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}

Make = Callable[[Any], torch.optim.Optimizer]

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
        w.matrices(), lr=0.05, weight_decay=0.1, K=maps.Nuclear(), constraint="project"
    ),
    "smooth": lambda w: LionK(w.matrices(), lr=0.05, K=maps.SmoothNuclear(1e-2)),
    "polar_grad": lambda w: PolarGrad(w.matrices(), lr=0.1),
    "adamw": lambda w: torch.optim.AdamW(w.params.values(), lr=0.05),  # what the harness can do
}


def modular(wells: Wells) -> norms.Modular:
    """Every kind of norm in one: entries, rows and whole matrices share the length of the step."""
    kinds = norms.Operator("rms", "rms"), norms.Operator("rms", math.inf), norms.LInf()
    names = [n for n, (shape, _) in wells.shapes.items()]
    flat = {n for n, (shape, _) in wells.shapes.items() if len(shape) != 2}
    return norms.Modular(
        {n: (norms.LInf() if n in flat else kinds[i % 3], 1.0 + i % 2) for i, n in enumerate(names)}
    )


def descend(
    rank: int, world: int, layout: str, dtype: torch.dtype, names: list[str]
) -> dict[str, list[list[float]]]:
    """For each optimizer and step the losses of this rank's parts."""
    losses = {}
    for name in names:
        wells = Wells(layout, world, dtype)
        optimizer = OPTIMIZERS[name](wells)
        losses[name] = []
        for step in range(STEPS):
            losses[name].append(wells.pull(step))
            optimizer.step()
    return losses


def totals(layout: str, world: int, dtype: torch.dtype, names: list[str]) -> dict[str, list[float]]:
    """For each optimizer the losses over all ranks."""
    ranks = pool(world).run(descend, layout, dtype, names)
    return {
        name: [
            math.fsum(part for rank in ranks for part in rank[name][step])
            / replicas(layout, world)
            for step in range(STEPS)
        ]
        for name in names
    }


def assert_agree(got: list[float], expected: list[float], dtype: torch.dtype, what: str) -> None:
    """Step by step, relative; and something was learnt on the way."""
    worst = max(abs(a - b) / abs(b) for a, b in zip(got, expected, strict=True))
    assert worst <= TOLERANCE[dtype], f"{what}: {worst:.1e} at worst"
    assert min(expected) < 0.9 * expected[0], f"{what} learns nothing"
