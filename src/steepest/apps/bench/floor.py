"""The floor beneath the contenders: two products, in the type that is the faster one here."""

from __future__ import annotations

import math
import time
from functools import cache

import torch
from torch import Tensor, nn

from steepest.apps.bench.contenders import (
    FLOOR,
    FLOOR_TYPES,
    AbsentError,
    Contender,
    MethodRunner,
)
from steepest.apps.bench.rounds import Clock, Runner

CORNER = 512
"""The side of the products by which a type is judged before it takes part."""
HOPELESS = 4.0
"""A type that is so many times as slow as the fastest one there takes no part: one run in a type
that the processor emulates lasts minutes on large matrices."""
REPEATS = 7


def type_name(dtype: torch.dtype) -> str:
    """The name of a type as people write it."""
    return str(dtype).removeprefix("torch.")


def floor_name(dtype: torch.dtype) -> str:
    """The name of the floor of one type while it takes turns.

    Examples:
        >>> floor_name(torch.bfloat16)
        'floor, bfloat16'
    """
    return f"{FLOOR}, {type_name(dtype)}"


def products(x: Tensor) -> Tensor:
    """The least that any polar method by products does: one XXᵀ and one QX."""
    # Any m × m matrix does for Q: the time does not depend on the numbers.
    return (x @ x.mT) @ x


def corner_seconds(
    side: int, device: torch.device, clock: Clock = time.perf_counter
) -> dict[torch.dtype, float]:
    """The fastest of a few products of square matrices in each type, after one that does not count.

    The types take turns: a slow spell of the machine meets all of them.

    Args:
        side: the number of rows.
        device: the device of the matrices.
        clock: seconds from some moment on; it waits for the device, if that is none of the host.
    """
    given = {dtype: torch.ones(side, side, dtype=dtype, device=device) for dtype in FLOOR_TYPES}
    best = dict.fromkeys(FLOOR_TYPES, math.inf)
    for number in range(1 + REPEATS):
        for dtype, x in given.items():
            start = clock()
            x @ x
            if number > 0:
                best[dtype] = min(best[dtype], clock() - start)
    return best


def floors(clock: Clock = time.perf_counter) -> list[Contender]:
    """A floor for each type; one that is hopelessly slow on the device of a set is absent.

    Args:
        clock: seconds from some moment on; it waits for the device, if that is none of the host.
    """
    # Measured once for all of them: by two measurements each type could be the slow one.
    judged = cache(corner_seconds)

    def one(dtype: torch.dtype) -> Contender:
        def start(parameters: list[nn.Parameter], *_: float) -> Runner:
            side = min(CORNER, max(min(p.shape) for p in parameters))
            seconds = judged(side, parameters[0].device, clock)
            slower = seconds[dtype] / min(seconds.values())
            if slower > HOPELESS:
                raise AbsentError(f"{slower:.0f} times as slow in a product of {side} rows")
            return MethodRunner(products, parameters, dtype)

        note = f"{type_name(dtype)} products XXᵀ and QX only, equal shapes stacked"
        return Contender(name=floor_name(dtype), note=note, start=start)

    return [one(dtype) for dtype in FLOOR_TYPES]
