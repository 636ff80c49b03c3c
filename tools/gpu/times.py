"""The times of steps and polar methods on a device, beside what else there is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import steepest
from gpu.checks import ADAMW, FAST, Captured, Finding, checked
from gpu.report import Report
from steepest.apps.bench import contenders, peers
from steepest.apps.bench.accuracy import spectrum_probe
from steepest.apps.bench.contenders import (
    FLOOR,
    LR,
    WEIGHT_DECAY,
    AbsentError,
    Contender,
    StepRunner,
    Steps,
    optimizer,
)
from steepest.apps.bench.execute import PATIENCE
from steepest.apps.bench.floor import floors
from steepest.apps.bench.measure import (
    MEASURED,
    Result,
    Turns,
    gradients,
    is_floor,
    measure,
    parameters,
)
from steepest.apps.bench.report import number
from steepest.apps.bench.rounds import Clock
from steepest.apps.bench.sets import ShapeSet

SEED = 0
# An eigenvalue problem of 4096 rows takes seconds, and every contender has some twenty turns.
SLOW = ("Svd(", "GramEigh(")
PROMISED = {"steepest.Muon": 0.05, "steepest.Muon, graph": 0.05, "steepest.Muon, error 1e-3": 1e-3}
"""The largest relative error of a factor in a step, at the condition number of the probes."""


def clock_of(device: torch.device) -> Clock:
    """Seconds, after all that the device has been given is done."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


class StaticRunner(StepRunner):
    """A runner with gradients of its own, which lie where they are: a graph reads them there."""

    def __init__(self, stepped: Steps, params: Sequence[nn.Parameter], lr: float) -> None:
        super().__init__(stepped, params, lr)
        self._mine = [(p, torch.zeros_like(p)) for p in params]

    def load(self, matrices: Sequence[Tensor]) -> None:
        """Copy the gradients to their place."""
        for (p, own), g in zip(self._mine, matrices, strict=True):
            p.grad = own.copy_(g)


def graphed() -> Contender:
    """steepest.Muon whose steps are replays of a CUDA graph."""

    def start(params: list[nn.Parameter], lr: float, decay: float) -> StaticRunner:
        stepped = steepest.Muon(params, lr=lr, weight_decay=decay, polar=FAST)
        return StaticRunner(Captured(stepped), params, lr)

    note = "the default, its whole step in one CUDA graph"
    return Contender(name="steepest.Muon, graph", note=note, start=start)


def adamw() -> Contender:
    """AdamW, which has no polar factor: what a step costs at the least."""
    return optimizer(
        ADAMW,
        "no polar factor; fused",
        lambda p, lr, decay: torch.optim.AdamW(p, lr=lr, weight_decay=decay, fused=True),
    )


def flops(
    contenders: Sequence[Contender], shapes: ShapeSet, device: torch.device
) -> dict[str, int]:
    """The flops of the products of one run of each, as torch counts them.

    Cholesky factors, eigenvalues and singular values are not counted, nor what is compiled.
    """
    found = {}
    matrices = gradients(shapes, torch.Generator(device))
    for each in contenders:
        shared = parameters(shapes, str(device))
        try:
            runner = each.start(shared, LR, WEIGHT_DECAY)
            runner.load(matrices)
            with FlopCounterMode(display=False) as counter:
                runner.run()
        except AbsentError:
            continue
        except Exception:  # said by the times, where it raises as well
            continue
        # The floors of all types do the same products, and one of them is kept.
        found[FLOOR if is_floor(each.name) else each.name] = counter.get_total_flops()
    return found


def steps(report: Report, device: torch.device, rounds: int, shapes: ShapeSet) -> None:
    """The times of whole steps on a set; the factors in them keep their promise."""
    rows = contenders.optimizers(None, [])
    broken = [c for c in report.failed if (c.part, c.name) == ("graph", "Muon")]
    if device.type == "cuda" and not broken:
        rows.append(graphed())
    rows += [adamw(), *peers.contenders(quick=True)]
    result = timed(report, "steps", rows, device, rounds, shapes)

    def find() -> Finding:
        found = {r.name: r for r in result.rows if r.name in PROMISED}
        wrong = [f"{r.name}: {r.message}" for r in found.values() if r.status != MEASURED]
        errors = {n: r.error for n, r in found.items() if r.error is not None}
        wrong += [f"{n}: error {e:.2g}" for n, e in errors.items() if not e <= PROMISED[n]]
        text = ", ".join(f"{n} {number(r.ms)} ms" for n, r in found.items())
        return not wrong, "; ".join(wrong) or text, {}

    report.add([checked("steps", shapes.name, find)])


def methods(report: Report, device: torch.device, rounds: int, shapes: ShapeSet) -> None:
    """The times of polar methods on a set."""
    rows = [c for c in contenders.methods(None) if not c.name.startswith(SLOW)]
    result = timed(report, "methods", rows, device, rounds, shapes)
    wrong = [f"{r.name}: {r.message}" for r in result.rows if r.status != MEASURED]
    found = not wrong, "; ".join(wrong) or f"{len(result.rows)} were timed", dict[str, Any]()
    report.add([checked("methods", shapes.name, lambda: found)])


def timed(
    report: Report,
    bench: str,
    rows: list[contenders.Contender],
    device: torch.device,
    rounds: int,
    shapes: ShapeSet,
) -> Result:
    """Measure the contenders and the floors beneath them; count their flops."""
    clock = clock_of(device)
    rows = [*rows, *floors(clock)]
    # The third and last step that does not count is the first replay of a graph.
    turns = Turns(
        rounds=min(rounds, shapes.rounds),
        warmup=3,
        seed=SEED,
        clock=clock,
        device=str(device),
        patience=PATIENCE,
    )
    generator = torch.Generator(device).manual_seed(SEED)
    count = len(shapes.block) * shapes.probed
    known = [spectrum_probe(shape, generator) for shape in shapes.shapes[:count]]
    result = measure(bench, shapes, rows, known, turns, data="spectrum")
    # A step of AdamW has no polar factor.
    plain = [replace(r, error=None) if r.name == ADAMW else r for r in result.rows]
    result = replace(result, rows=tuple(plain))
    report.results.append((result, flops(rows, shapes, device)))
    return result
