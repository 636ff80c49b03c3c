"""One bench of one set: errors first, then turns, and the rows of its table."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
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
    timed,
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
        once: its time is that of one step, after which it was left out.
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
    once: bool = False


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
        floor_type: the type of the products that are the floor: the faster one.
        patience: seconds after which the first step of a contender was its last one; None for none.
    """

    bench: str
    set: str
    data: str
    rounds: int
    warmup: int
    baseline: str
    rows: tuple[ContenderRow, ...]
    floor_type: str = "float32"
    patience: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Result:
        """The result that `to_json` wrote."""
        return cls(**{**data, "rows": tuple(ContenderRow(**row) for row in data["rows"])})


@dataclass(frozen=True, kw_only=True)
class Turns:
    """The rounds, warm-up, clock and device of a bench.

    Args:
        rounds: rounds that count.
        warmup: rounds before them.
        seed: the seed of the matrices and of the order.
        clock: seconds from some moment on; it waits for the device, if that is none of the host.
        device: the device of the matrices.
        patience: seconds after which the first step of a contender is its last one.
    """

    rounds: int
    warmup: int
    seed: int
    clock: Clock = time.perf_counter
    device: str = "cpu"
    patience: float = math.inf


def parameters(shapes: ShapeSet, device: str = "cpu") -> list[nn.Parameter]:
    """Zero matrices of a set, which all contenders share: their values cost no time."""
    return [nn.Parameter(torch.zeros(shape, device=device)) for shape in shapes.shapes]


def gradients(shapes: ShapeSet, generator: torch.Generator) -> list[Tensor]:
    """Gaussian matrices of a set, on the device of the generator."""
    device = generator.device
    return [torch.randn(shape, generator=generator, device=device) for shape in shapes.shapes]


def is_floor(name: str) -> bool:
    """Whether a contender is a floor: of one type while turns are taken, the faster one after."""
    return name == FLOOR or name.startswith(f"{FLOOR}, ")


def first_step(
    contender: Contender, shared: list[nn.Parameter], probes: Sequence[Probe], clock: Clock
) -> tuple[float | None, float]:
    """The largest error of a contender over the probes, and the seconds of this first step.

    A first step of length 1 from zero without decay leaves the factor itself in the parameters.
    Without probes there is a step of a contender that compiles only, on any matrices, and no error.
    """
    if is_floor(contender.name) or not (probes or contender.compiles):
        return None, 0.0
    with torch.no_grad():
        for p in shared:
            p.zero_()
    runner = contender.start(shared, 1.0, 0.0)
    given = [p.x for p in probes] or [torch.ones_like(p) for p in shared]
    seconds = timed(runner, [given[i % len(given)] for i in range(len(shared))], clock)
    if not probes:
        return None, seconds
    return max(p.error(q) for p, q in zip(probes, runner.factors(), strict=False)), seconds


def forget_compiled() -> None:
    """Forget what was compiled: it would count against the next set's limit of shapes."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


@dataclass(frozen=True, kw_only=True)
class Field:
    """The contenders that take turns, and those that do not.

    Args:
        runners: the contenders at work.
        errors: the error of each, also of those whose first step took too long.
        lost: the rows of those that are absent or have failed.
        once: seconds of the first step where it took too long for another one.
    """

    runners: dict[str, Runner] = field(default_factory=dict)
    errors: dict[str, float | None] = field(default_factory=dict)
    lost: dict[str, ContenderRow] = field(default_factory=dict)
    once: dict[str, tuple[float]] = field(default_factory=dict)


def without_time(contender: Contender, status: str, message: str) -> ContenderRow:
    """The row of a contender that has no time, and why."""
    return ContenderRow(name=contender.name, note=contender.note, status=status, message=message)


def line_up(
    contenders: Sequence[Contender],
    shared: list[nn.Parameter],
    probes: Sequence[Probe],
    turns: Turns,
) -> Field:
    """Measure the errors, and prepare everyone who takes part."""
    out = Field()
    for c in contenders:
        try:
            out.errors[c.name], seconds = first_step(c, shared, probes, turns.clock)
            if seconds > turns.patience and not c.compiles:
                out.once[c.name] = (seconds,)
            else:
                out.runners[c.name] = c.start(shared, LR, WEIGHT_DECAY)
        except AbsentError as error:
            out.lost[c.name] = without_time(c, ABSENT, str(error))
        except Exception as error:
            out.lost[c.name] = without_time(c, FAILED, message(error))
    return out


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
        contenders: the baseline first, the floors of all types last.
        probes: matrices with known factors, one for each matrix of the first blocks; may be none.
        turns: the rounds, warm-up, clock, device and patience.
        data: the source of the probes.
    """
    forget_compiled()
    shared = parameters(shapes, turns.device)
    generator = torch.Generator(turns.device).manual_seed(turns.seed)
    lined = line_up(contenders, shared, probes, turns)
    taken = take_turns(
        lined.runners,
        lambda: gradients(shapes, generator),
        rounds=turns.rounds,
        warmup=turns.warmup,
        seed=turns.seed,
        clock=turns.clock,
        patience=turns.patience,
    )
    times = replace(
        taken, seconds={**taken.seconds, **lined.once}, once=taken.once | frozenset(lined.once)
    )
    baseline, floor = contenders[0].name, fastest_floor(times)
    rows = [
        lined.lost.get(c.name) or row(c, times, baseline, floor, lined.errors[c.name])
        for c in contenders
    ]
    return Result(
        bench=bench,
        set=shapes.name,
        data=data,
        rounds=turns.rounds,
        warmup=turns.warmup,
        baseline=baseline,
        rows=one_floor(rows, floor),
        floor_type=floor.removeprefix(f"{FLOOR}, ") if floor not in (None, FLOOR) else "float32",
        patience=turns.patience if math.isfinite(turns.patience) else None,
    )


def fastest_floor(times: Times) -> str | None:
    """The name of the floor with the least median; None where none has a time."""
    medians = {name: median(s) for name, s in times.seconds.items() if is_floor(name)}
    return min(medians, key=medians.__getitem__, default=None)


def one_floor(rows: Sequence[ContenderRow], fastest: str | None) -> tuple[ContenderRow, ...]:
    """The rows with one floor, the fastest one, whose note says what the other types take."""
    others = [
        f"{r.name.removeprefix(f'{FLOOR}, ')}: {r.message or f'{r.ms:.3g} ms'}"
        for r in rows
        if is_floor(r.name) and r.name != fastest
    ]
    floor = [
        replace(r, name=FLOOR, note="; ".join([r.note, *others])) for r in rows if r.name == fastest
    ]
    return (*(r for r in rows if not is_floor(r.name)), *floor)


def row(
    contender: Contender, times: Times, baseline: str, fastest: str | None, error: float | None
) -> ContenderRow:
    """Sum up the times of one contender."""
    name, note = contender.name, contender.note
    if name in times.failures:
        return without_time(contender, FAILED, times.failures[name])
    ours = times.seconds[name]
    reference = times.seconds.get(baseline)
    floor = times.seconds[fastest] if fastest is not None else None
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
        once=name in times.once,
    )
