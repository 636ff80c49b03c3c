"""The polar methods that may be the cheapest for a shape, with the times that a table predicts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch

from steepest._common.numerics import HALF, epsilon, real_dtype
from steepest.polar._blocks import HALVED, half_blocks
from steepest.polar._noise import safe_segments
from steepest.polar._scale import overestimate
from steepest.polar.costs import CostTable, seconds_at
from steepest.polar.design import SINGLE_SAFETY, design_schedule
from steepest.polar.exact import GramEigh, Svd
from steepest.polar.iterate import GramNewtonSchulz
from steepest.polar.method import PolarMethod
from steepest.polar.rational import Zolotarev, root_overestimate

Candidate = tuple[float, PolarMethod]
"""Predicted seconds for one matrix, and the method."""

HOST = torch.device("cpu")

# Below every error that `GramNewtonSchulz` states, and above what the safety factors leave.
SCHEDULE_FLOOR = 1e-6

# Rounding takes its share of the error: a tighter schedule may pass where the first fails.
SHARES, HALF_SHARES = (1.0, 0.9, 0.5, 0.1), (0.9, 0.5)


class Room(NamedTuple):
    """Room that a schedule leaves to rounding, as `design_schedule` takes it."""

    safety: float
    cushion: float | None = None
    slack: float = 1.0


SINGLE = Room(SINGLE_SAFETY)

# Of half precision, by the degree of the polynomials. Emulated as in tests/polar/test_half.py (more
# sizes, from 1 to 128 rows), quintics diverge in bfloat16 with a safety of 1.015, in float16 with
# 1.002; those of degree 9 in bfloat16 with 1.04, in float16 with 1.006. Quintics with the published
# cushion turn some directions by 4·eps more than those with 0.03. Rounding of R takes the smallest
# singular values down by some percent a step; a slack makes up for it. For degree 9 the stated
# error is then the least; quintics end above theirs with one.
ROOM = {
    (torch.bfloat16, 5): Room(1.02, 0.03),
    (torch.bfloat16, 9): Room(1.06, slack=0.95),
    (torch.float16, 5): Room(1.01),
    (torch.float16, 9): Room(1.015),
}

# In half precision the Gram matrix is formed anew in every step, so longer polynomials save
# products of the long side: measured on Zen 4, 0.89 to 0.95 of the time for n = 4m. Where they take
# as many products as shorter ones, for n = m below 512 rows, they come first: square matrices then
# share the method of wide ones, and with it the calls. With the table of Zen 5, on Zen 4, that
# makes 0.88 to 0.95 of the time for the matrices of transformers of width 64 and 128, and 0.99 to
# 1.02 for width 256. Three of degree 13 would do for four, but leave an error of 0.055 in bfloat16.
HALF_DEGREES = (9, 5)

# (order, degree) with few inverses: 1, 1, 3, 1 + 1, 1 + 2 and 1 + 1 + 1.
FUNCTIONS = ((1, 9), (1, 13), (3, 0), (4, 0), (7, 0), (13, 0))

# Products that the polynomial of each degree takes, with those of the step to it.
POLYNOMIAL = {0: 0, 5: 3, 9: 4, 13: 5}

# Measured: the share of the time of a full product that a Hermitian one by blocks takes, in float32
# with AVX-512, and in bfloat16 on Zen 5 by the number of blocks: 0.82 to 0.93 for two, 0.69 to 0.91
# for four.
HERMITIAN, HALF_HERMITIAN = 0.8, {1: 1.0, 2: 0.88, 3: 0.79, 4: 0.77}


def candidates(
    error: float, resolution: float, table: CostTable, m: int, n: int, dtype: torch.dtype
) -> Iterator[Candidate]:
    """Methods that may reach `error` at `resolution` for m × n matrices of this dtype, m ≤ n."""
    yield from _iterations(error, resolution, table, m, n, dtype)
    if table.inverse:
        yield from _rational(resolution, table, m, n, dtype)
    yield from _decompositions(table, m, n, dtype)


def _is_single(dtype: torch.dtype) -> bool:
    return dtype in HALF or dtype in (torch.float32, torch.complex64)


def _share(m: int, dtype: torch.dtype) -> float:
    """The share of a product that a Hermitian one takes."""
    if dtype in HALF:
        return HALF_HERMITIAN.get(half_blocks(m), 0.7)
    return HERMITIAN if m >= HALVED else 1.0


def _iterations(
    error: float, resolution: float, table: CostTable, m: int, n: int, dtype: torch.dtype
) -> Iterator[Candidate]:
    """Newton–Schulz in Gram form and, as segments of one step, in standard form."""
    single = seconds_at(table.product, m)
    types: list[tuple[float, torch.dtype, torch.dtype | None]]
    types = [(single if _is_single(dtype) else table.wide * single, dtype, None)]
    if dtype in (*HALF, torch.float32):
        lists = ((torch.float16, table.float16), (torch.bfloat16, table.bfloat16))
        types += [(seconds_at(costs, m), half, half) for half, costs in lists if costs]
    for product, work, asked in types:
        half = asked is not None
        if half and product >= single:
            continue
        eps = epsilon(work) if half else epsilon(torch.float32)
        share = _share(m, work if half else torch.float32)
        degrees = HALF_DEGREES if half else (5,)
        for degree, tight in itertools.product(degrees, (False, True, 2)):
            room = ROOM[work, degree] if half else SINGLE
            lower = min(0.5, resolution / overestimate(m, tight=tight))
            for part in HALF_SHARES if half else SHARES:
                target = max(part * error, SCHEDULE_FLOOR)
                schedule = design_schedule(
                    lower=lower, error=target, degree=degree, **room._asdict()
                )
                own = safe_segments(schedule, eps)
                stated = 1.0
                for segments in dict.fromkeys([own, (1,) * schedule.steps]):
                    # Each step squares R; degree 9 takes another product, and what follows in a
                    # segment four.
                    inner = share * (sum(4 * length - 3 for length in segments) + tight)
                    inner += sum(len(step) > 3 for step in schedule.coefficients)
                    # One sum of products, so that equal ones tie exactly.
                    seconds = (inner + (1 + share) * len(segments) * n / m) * product
                    written = None if segments == own else segments
                    method = GramNewtonSchulz(schedule, asked, written, tight)
                    stated = min(stated, method.accuracy(m, n, dtype).error)
                    yield seconds, method
                if stated <= error:
                    break


def _rational(
    resolution: float, table: CostTable, m: int, n: int, dtype: torch.dtype
) -> Iterator[Candidate]:
    """Zolotarev's functions, by inverses."""
    wide = 1.0 if _is_single(dtype) else table.wide
    product, inverse = seconds_at(table.product, m), seconds_at(table.inverse, m)
    share, thin = _share(m, torch.float32), product * n / m
    for function, refine, tight in itertools.product(FUNCTIONS, (0, 1, 2), (False, True)):
        # The smallest σ/√ρ that must be resolved; orders 1 and 3 go no further down.
        lower = max(5e-5, resolution / root_overestimate(m, tight=tight))
        method = Zolotarev(function[0], lower, refine, tight, function[1])
        inverses = sum(len(stage.shifts) for stage in method.stages)
        # Two for each step to another stage; a polynomial takes three, four or five in all.
        products = 2 * (len(method.stages) - 1) + tight + POLYNOMIAL[method.degree]
        seconds = inverses * inverse + (share * products + refine) * product
        seconds += (1 + share + 2 * refine) * thin
        # A small `lower` is computed in float64 whatever the input is.
        double = real_dtype(method.compute_dtype(dtype, HOST)) == torch.float64
        yield (table.wide if double else wide) * seconds, method


def _decompositions(table: CostTable, m: int, n: int, dtype: torch.dtype) -> Iterator[Candidate]:
    """Eigenvalues of the Gram matrix, and singular values."""
    product = seconds_at(table.product, m)
    thin = product * n / m
    if table.eigh:
        eigh = seconds_at(table.eigh, m)
        yield eigh + table.wide * (product + 2 * thin), GramEigh()
        if _is_single(dtype):
            single = eigh / table.wide + 2 * product + 5 * thin
            yield single, GramEigh(torch.float32, refine=1)
    if table.svd:
        wide = 1.0 if _is_single(dtype) else table.wide
        yield wide * (seconds_at(table.svd, m) + 3 * thin), Svd()
