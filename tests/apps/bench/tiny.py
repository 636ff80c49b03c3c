"""Sets, clocks and contenders that take no time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from steepest.apps.bench.contenders import Contender
from steepest.apps.bench.measure import ContenderRow, Result
from steepest.apps.bench.rounds import Runner
from steepest.apps.bench.sets import ShapeSet, Training, transformer_block

TINY = ShapeSet(
    name="tiny",
    title="a tiny set",
    block=transformer_block(8),
    blocks=2,
    probed=1,
    rounds=4,
    training=Training(data="text", heads=2, context=8, batch=4, steps=3),
)
DIGITS = replace(TINY, name="digits", training=Training(data="digits", heads=2, batch=4, steps=3))
SQUARE = replace(TINY, name="square", block=((6, 6),), blocks=1, training=None)


class Clock:
    """Seconds that pass only where a contender says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Fake:
    """A runner that takes given seconds per round, writes down what it sees, and may raise.

    Args:
        clock: which it moves.
        seconds: of each run, the last one for ever.
        log: gets (name, first entry of the first matrix) of every run.
        fails: in this run it raises.
    """

    def __init__(
        self,
        name: str,
        clock: Clock,
        seconds: Sequence[float],
        log: list[tuple[str, float]],
        fails: int | None = None,
    ) -> None:
        self.name, self.clock, self.seconds, self.log = name, clock, list(seconds), log
        self.fails, self.runs, self.matrices = fails, 0, [torch.zeros(1)]

    def load(self, matrices: Sequence[Tensor]) -> None:
        self.clock.now += 1000.0  # what is not timed must not count
        self.matrices = list(matrices)

    def run(self) -> None:
        if self.runs == self.fails:
            raise RuntimeError("this contender\nis broken")
        self.clock.now += self.seconds[min(self.runs, len(self.seconds) - 1)]
        self.runs += 1
        self.log.append((self.name, float(self.matrices[0].flatten()[0])))

    def factors(self) -> list[Tensor]:
        return self.matrices


def fake(name: str, make: Callable[[], Runner]) -> Contender:
    """A contender around a runner."""

    def start(parameters: list[nn.Parameter], *_: float) -> Runner:
        return make()

    return Contender(name=name, note="a note", start=start)


def made_up(name: str = "gpt-128", bench: str = "steps") -> Result:
    """A result with one row of every kind."""
    measured = {"note": "n", "status": "measured", "ms_low": 1.0, "ms_high": 3.0}
    rows = (
        ContenderRow(
            name="torch.optim.Muon", ms=20.0, speed=1.0, speed_of_medians=1.0, floors=10.0,
            error=0.35, **measured,
        ),
        ContenderRow(
            name="steepest.Muon", ms=4.0, speed=5.0, speed_of_medians=4.9, floors=2.0,
            error=0.044, **measured,
        ),
        ContenderRow(name="optimuon", note="n", status="absent", message="not installed"),
        ContenderRow(name="heavyball", note="n", status="failed", message="RuntimeError: boom"),
        ContenderRow(
            name="slow", ms=80.0, speed=0.25, speed_of_medians=0.25, floors=40.0, **measured
        ),
        ContenderRow(
            name="floor", ms=2.0, speed=10.0, speed_of_medians=10.0, floors=1.0, **measured
        ),
    )  # fmt: skip
    return Result(
        bench=bench,
        set=name,
        data="spectrum",
        rounds=3,
        warmup=1,
        baseline="torch.optim.Muon",
        rows=rows,
    )
