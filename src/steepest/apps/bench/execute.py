"""Carry a plan out: measure set after set, and keep what is finished."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from steepest._common.errors import invalid
from steepest._common.files import write_atomic, write_json
from steepest.apps._terminal import make_folder, say
from steepest.apps.bench import contenders, peers
from steepest.apps.bench.accuracy import Probe, gradient_probe, spectrum_probe
from steepest.apps.bench.floor import floors
from steepest.apps.bench.gradients import averages
from steepest.apps.bench.machine import describe
from steepest.apps.bench.measure import Result, Turns, measure
from steepest.apps.bench.picture import draw
from steepest.apps.bench.report import absences, table
from steepest.apps.bench.rounds import Clock
from steepest.apps.bench.sets import BENCHES as BENCHES
from steepest.apps.bench.sets import DATA, SETS, ShapeSet
from steepest.apps.bench.sets import PATIENCE as PATIENCE
from steepest.apps.bench.verdict import lines, verdicts
from steepest.polar import CostTable

RESULTS = "bench.json"
WARMUP, QUICK_WARMUP, QUICK_ROUNDS = 3, 1, 3


@dataclass(frozen=True, kw_only=True)
class BenchPlan:
    """The sets, benches and rounds to measure.

    Args:
        sets: the sets of matrices.
        benches: names out of `BENCHES`.
        rounds: rounds that count; None for those of each set, and 3 in a quick run.
        data: the matrices that errors are measured on, one of `DATA`.
        resolution: the smallest σ/σ₁ over which errors are stated with gradients.
        seed: fixes matrices, order and runs.
        quick: few rounds, and no contender that compiles.
        table: the costs by which `Auto` chooses; None for the shipped ones.
        patience: seconds after which the first step of a contender is its last one.

    Raises:
        ValueError: a value out of its range.
    """

    sets: Sequence[ShapeSet] = field(default_factory=lambda: tuple(SETS.values()))
    benches: Sequence[str] = BENCHES
    rounds: int | None = None
    data: str = "spectrum"
    resolution: float = 3e-3
    seed: int = 0
    quick: bool = False
    table: CostTable | None = None
    patience: float = PATIENCE

    def __post_init__(self) -> None:
        if self.rounds is not None and self.rounds < 1:
            raise invalid("rounds", self.rounds, "give a whole number >= 1")
        if self.data not in DATA:
            raise invalid("data", self.data, f"choose from {', '.join(DATA)}")
        if not (math.isfinite(self.resolution) and 0 < self.resolution < 1):
            raise invalid("resolution", self.resolution, "give a number in (0, 1)")
        if not self.patience > 0:
            raise invalid("patience", self.patience, "give seconds > 0, inf for no limit")

    def turns(self, shapes: ShapeSet, clock: Clock) -> Turns:
        """The rounds, warm-up and clock of one set."""
        rounds = self.rounds or (QUICK_ROUNDS if self.quick else shapes.rounds)
        warmup = QUICK_WARMUP if self.quick else WARMUP
        return Turns(
            rounds=rounds, warmup=warmup, seed=self.seed, clock=clock, patience=self.patience
        )

    def contenders(self, bench: str) -> list[contenders.Contender]:
        """Those of one bench, the baseline first and the floors last."""
        if bench == "methods":
            rows = contenders.methods(self.table)
        else:
            rows = contenders.optimizers(self.table, peers.contenders(quick=self.quick))
        return [*rows, *floors()]


def probes(shapes: ShapeSet, plan: BenchPlan) -> list[Probe]:
    """Matrices with known factors for the first blocks of a set; none without gradients."""
    count = len(shapes.block) * shapes.probed
    if plan.data == "gradients":
        if shapes.training is None:
            return []
        found = averages(shapes, seed=plan.seed)[:count]
        return [gradient_probe(x, plan.resolution) for x in found]
    generator = torch.Generator().manual_seed(plan.seed)
    return [spectrum_probe(shape, generator) for shape in shapes.shapes[:count]]


@contextmanager
def quiet_compiler() -> Iterator[None]:
    """Silence the warnings of torch's compiler about itself, which a peer may start."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
        yield


def document(plan: BenchPlan, results: Sequence[Result]) -> dict[str, Any]:
    """The content of `bench.json`."""
    return {
        "machine": describe(),
        "peers": peers.versions(),
        "plan": {
            "sets": [s.name for s in plan.sets],
            "benches": list(plan.benches),
            "data": plan.data,
            "resolution": plan.resolution,
            "seed": plan.seed,
            "quick": plan.quick,
            "table": plan.table.to_json() if plan.table else None,
            "patience": plan.patience if math.isfinite(plan.patience) else None,
        },
        "verdicts": verdicts(results),
        "results": [r.to_json() for r in results],
    }


def keep(plan: BenchPlan, results: Sequence[Result], out: Path) -> list[Path]:
    """Write what is finished: the numbers, and a picture of each bench.

    Raises:
        OSError: the folder cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / RESULTS, document(plan, results))
    written = [out / RESULTS]
    for bench in BENCHES:
        of_bench = [r for r in results if r.bench == bench]
        if of_bench:
            written.append(out / f"{bench}.png")
            write_atomic(written[-1], draw(of_bench))
    return written


def execute(
    plan: BenchPlan, out: Path, console: Console, *, clock: Clock = time.perf_counter
) -> list[Path]:
    """Measure every set, and write after each bench what is finished.

    Returns:
        The files that were written.

    Raises:
        ValueError: the data for real gradients are missing.
        OSError: the folder cannot be written.
    """
    make_folder(out)
    results: list[Result] = []
    written: list[Path] = []
    with quiet_compiler():
        for shapes in plan.sets:
            say(console, f"{shapes.name}: matrices with known factors ({plan.data})")
            known = probes(shapes, plan)
            for bench in plan.benches:
                turns = plan.turns(shapes, clock)
                rows = plan.contenders(bench)
                say(console, f"{shapes.name}: {bench}, {turns.rounds} rounds of {len(rows)}")
                result = measure(bench, shapes, rows, known, turns, data=plan.data)
                results.append(result)
                console.print(table(result))
                for line in absences(result):
                    say(console, line)
                written = keep(plan, results, out)
    for line in lines(results):
        say(console, line)
    return written
