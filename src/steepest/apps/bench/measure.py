"""One bench of one set: errors first, then turns, and the rows of its table."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from steepest.apps.bench.accuracy import Probe
from steepest.apps.bench.contenders import FLOOR, LR, WEIGHT_DECAY, AbsentError, Contender
from steepest.apps.bench.rounds import (
    Clock,
    Runner,
    Times,
    message,
    paired_ratio,
    quartiles,
    take_turns,
)
from steepest.apps.bench.sets import ShapeSet

MEASURED, ABSENT, FAILED = "measured", "absent", "failed"


@dataclass(frozen=True, kw_only=True)
class ContenderRow:
    """One contender in one bench.

    Args:
        name: the name of the contender.
        note: a word on how it finds the polar factor.
        status: "measured", "absent" or "failed".
        message: the reason for its absence, or the error that it raised.
        ms: median milliseconds.
        ms_low: first quartile.
        ms_high: third quartile.
        speed: the factor over the baseline: the median over the rounds of baseline/contender.
        speed_of_medians: the median of the baseline over the median of the contender.
        floors: its time in multiples of the floor, the median over the rounds.
        error: largest relative error of a polar factor over the probed matrices; None where there
            is no matrix to compare, and for the floor.
    """

    name: str
    note: str
    status: str
    message: str = ""
    ms: float | None = None
    ms_low: float | None = None
    ms_high: float | None = None
    speed: float | None = None
    speed_of_medians: float | None = None
    floors: float | None = None
    error: float | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """A bench of a set.

    Args:
        bench: "methods" or "steps".
        set: name of the set.
        data: the matrices that the error was measured on: "spectrum" or "gradients".
        rounds: rounds that count.
        warmup: rounds before them.
        baseline: the contender whose time is 1.
        rows: the contenders, the baseline first and the floor last.
    """

    bench: str
    set: str
    data: str
    rounds: int
    warmup: int
    baseline: str
    rows: tuple[ContenderRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Result:
        """The result that `to_json` wrote."""
        return cls(**{**data, "rows": tuple(ContenderRow(**row) for row in data["rows"])})


@dataclass(frozen=True, kw_only=True)
class Turns:
    """The rounds, warm-up and clock of a bench.

    Args:
        rounds: rounds that count.
        warmup: rounds before them.
        seed: the seed of the matrices and of the order.
        clock: seconds from some moment on; it waits for the device, if that is none of the host.
        device: the device of the matrices.
    """

    rounds: int
    warmup: int
    seed: int
    clock: Clock = time.perf_counter
    device: str = "cpu"


def parameters(shapes: ShapeSet, device: str = "cpu") -> list[nn.Parameter]:
    """Zero matrices of a set, which all contenders share: their values cost no time."""
    return [nn.Parameter(torch.zeros(shape, device=device)) for shape in shapes.shapes]


def gradients(shapes: ShapeSet, generator: torch.Generator) -> list[Tensor]:
    """Gaussian matrices of a set, on the device of the generator."""
    device = generator.device
    return [torch.randn(shape, generator=generator, device=device) for shape in shapes.shapes]


def worst_error(
    contender: Contender, shared: list[nn.Parameter], probes: Sequence[Probe]
) -> float | None:
    """The largest error of a contender over the probes; None without any.

    A first step of length 1 from zero without decay leaves the factor itself in the parameters.
    """
    if not probes or contender.name == FLOOR:
        return None
    with torch.no_grad():
        for p in shared:
            p.zero_()
    runner = contender.start(shared, 1.0, 0.0)
    runner.load([probes[i % len(probes)].x for i in range(len(shared))])
    runner.run()
    return max(p.error(q) for p, q in zip(probes, runner.factors(), strict=False))


def forget_compiled() -> None:
    """Forget what was compiled: it would count against the next set's limit of shapes."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def measure(
    bench: str,
    shapes: ShapeSet,
    contenders: Sequence[Contender],
    probes: Sequence[Probe],
    turns: Turns,
    *,
    data: str,
) -> Result:
    """Measure every contender on one set.

    Args:
        bench: "methods" or "steps".
        shapes: the set.
        contenders: the baseline first.
        probes: matrices with known factors, one for each matrix of the first blocks; may be none.
        turns: the rounds, warm-up and clock.
        data: the source of the probes.
    """
    forget_compiled()
    shared = parameters(shapes, turns.device)
    generator = torch.Generator(turns.device).manual_seed(turns.seed)
    errors: dict[str, float | None] = {}
    runners: dict[str, Runner] = {}
    lost: dict[str, ContenderRow] = {}
    for c in contenders:
        try:
            errors[c.name] = worst_error(c, shared, probes)
            runners[c.name] = c.start(shared, LR, WEIGHT_DECAY)
        except AbsentError as error:
            lost[c.name] = ContenderRow(name=c.name, note=c.note, status=ABSENT, message=str(error))
        except Exception as error:
            lost[c.name] = ContenderRow(
                name=c.name, note=c.note, status=FAILED, message=message(error)
            )

    times = take_turns(
        runners,
        lambda: gradients(shapes, generator),
        rounds=turns.rounds,
        warmup=turns.warmup,
        seed=turns.seed,
        clock=turns.clock,
    )
    baseline = contenders[0].name
    rows = [lost.get(c.name) or row(c, times, baseline, errors[c.name]) for c in contenders]
    return Result(
        bench=bench,
        set=shapes.name,
        data=data,
        rounds=turns.rounds,
        warmup=turns.warmup,
        baseline=baseline,
        rows=tuple(rows),
    )


def row(contender: Contender, times: Times, baseline: str, error: float | None) -> ContenderRow:
    """Sum up the times of one contender."""
    name, note = contender.name, contender.note
    if name in times.failures:
        return ContenderRow(name=name, note=note, status=FAILED, message=times.failures[name])
    ours = times.seconds[name]
    reference, floor = times.seconds.get(baseline), times.seconds.get(FLOOR)
    low, high = quartiles(ours)
    return ContenderRow(
        name=name,
        note=note,
        status=MEASURED,
        ms=1e3 * median(ours),
        ms_low=1e3 * low,
        ms_high=1e3 * high,
        speed=paired_ratio(ours, reference) if reference else None,
        speed_of_medians=median(reference) / median(ours) if reference else None,
        floors=paired_ratio(floor, ours) if floor else None,
        error=error,
    )
