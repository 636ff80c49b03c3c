"""Contenders that take turns: times of many rounds, and what they say about each other."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Protocol, runtime_checkable

from torch import Tensor

Clock = Callable[[], float]


@runtime_checkable
class TimedWork(Protocol):
    """A contender at work."""

    def load(self, matrices: Sequence[Tensor]) -> None:
        """Take over new matrices; not timed. They stay as they are."""

    def run(self) -> None:
        """Do the work that is timed."""


@runtime_checkable
class Runner(TimedWork, Protocol):
    """A contender at work on the matrices of one set."""

    def factors(self) -> list[Tensor]:
        """The polar factors that the first run has used, in the order of the matrices."""


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector out of a timed span."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def timed(runner: TimedWork, matrices: Sequence[Tensor], clock: Clock) -> float:
    """Seconds of one run on these matrices."""
    runner.load(matrices)
    with no_collection():
        start = clock()
        runner.run()
        return clock() - start


def message(error: Exception) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds of every contender in every round, and the contenders that failed.

    Args:
        seconds: one number per round; a contender that failed is not among them, and one that was
            too slow for more has the one number of its first step.
        failures: the error of each of the others.
        once: the contenders with one number.
    """

    seconds: Mapping[str, tuple[float, ...]]
    failures: Mapping[str, str]
    once: frozenset[str] = frozenset()


def take_turns(
    runners: Mapping[str, TimedWork],
    fresh: Callable[[], Sequence[Tensor]],
    *,
    rounds: int,
    warmup: int,
    seed: int,
    clock: Clock = time.perf_counter,
    patience: float = math.inf,
) -> Times:
    """Let every contender run once per round on the same new matrices, in an order that is drawn.

    A contender that raises is out from then on; the others go on. So is one whose run in the
    warm-up takes longer than the patience: what it took is all that is known of it.

    Args:
        runners: the contenders.
        fresh: a function that draws the matrices of a round; not timed.
        rounds: rounds that count.
        warmup: rounds before them that do not: first calls allocate, compile and fill caches.
        seed: the seed of the order in every round.
        clock: seconds from some moment on.
        patience: seconds after which a run in the warm-up is the last one.
    """
    draw = random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    failures: dict[str, str] = {}
    once: dict[str, tuple[float]] = {}
    for number in range(-warmup, rounds):
        matrices = fresh()
        order = list(seconds)
        draw.shuffle(order)
        for name in order:
            try:
                taken = timed(runners[name], matrices, clock)
            except Exception as error:
                failures[name] = message(error)
                del seconds[name]
            else:
                if number >= 0:
                    seconds[name].append(taken)
                elif taken > patience:
                    once[name] = (taken,)
                    del seconds[name]
    full = {name: tuple(times) for name, times in seconds.items()}
    return Times(seconds={**full, **once}, failures=failures, once=frozenset(once))


def quartiles(seconds: Sequence[float]) -> tuple[float, float]:
    """The first and the third quartile, interpolated between the two nearest times."""
    if len(seconds) < 2:
        return seconds[0], seconds[0]
    low, _, high = quantiles(seconds, n=4, method="inclusive")
    return low, high


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median over the rounds of theirs/ours: a slow spell of the machine meets both.

    Where one of them has run once only there are no pairs, and it is the ratio of the medians.

    Examples:
        >>> paired_ratio([1.0, 1.0, 2.0], [4.0, 5.0, 8.0])
        4.0
        >>> paired_ratio([1.0, 1.0, 2.0], [90.0])
        90.0
    """
    if len(ours) != len(theirs):
        return median(theirs) / median(ours)
    return median(t / o for o, t in zip(ours, theirs, strict=True))
