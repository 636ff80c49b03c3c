"""What torch.optim.Muon does on DTensors: where torch's planner redistributes, and at which cost.

Every product of Newton–Schulz is dispatched by itself. For each torch knows a few placements of
the operands, estimates what it would cost to bring the operands there, and takes the cheapest. This
file has those placements and that estimate for one sharded axis; tests hold it to counted
collectives. Sources: torch 2.13 and 2.14, torch/distributed/tensor/_collective_utils.py and
_ops/_einsum_strategy.py, torch/optim/_muon.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

STEPS = 5
"""Of Newton–Schulz in torch.optim.Muon."""
BYTES = 2
"""It computes in bfloat16."""

# It is made for rings: microseconds for the start and for a hop, GB/s; within and between hosts.
START = 6.6
INSIDE, BETWEEN = (0.6, 87.7), (2.7, 0.22 * 87.7)

Size = tuple[int, int]


@dataclass(frozen=True)
class Placed:
    """A matrix on one axis of devices: "rows" or "cols" for sharded, "copy", or a partial "sum"."""

    place: str
    size: Size

    @property
    def turned(self) -> Placed:
        """The transpose."""
        place = {"rows": "cols", "cols": "rows"}.get(self.place, self.place)
        return Placed(place, (self.size[1], self.size[0]))

    def handed(self, ranks: int) -> int:
        """Bytes that a rank holds, as many as the one with the most."""
        m, n = self.size
        m = -(-m // ranks) if self.place == "rows" else m
        n = -(-n // ranks) if self.place == "cols" else n
        return BYTES * m * n


# Placements of a product and of its factors: of mm, and of addmm, whose summand is as its result.
PLACEMENTS = (
    ("copy", "copy", "copy"),
    ("sum", "cols", "rows"),
    ("rows", "rows", "copy"),
    ("cols", "copy", "cols"),
    ("sum", "sum", "copy"),
    ("sum", "copy", "sum"),
)

_MOVES = {
    ("rows", "copy"): "all_gather_into_tensor",
    ("cols", "copy"): "all_gather_into_tensor",
    ("rows", "cols"): "all_to_all_single",
    ("cols", "rows"): "all_to_all_single",
    ("sum", "copy"): "all_reduce",
    ("sum", "rows"): "reduce_scatter_tensor",
    ("sum", "cols"): "reduce_scatter_tensor",
}
# How often the bytes go around, and how many bytes that are: of the whole, or of a part.
_WEIGHTS = {
    "all_gather_into_tensor": (1, 1),
    "all_to_all_single": (1, 0),
    "all_reduce": (2, 1),
    "reduce_scatter_tensor": (1, 1),
}


def _estimate(x: Placed, place: str, ranks: int, host: int) -> float:
    """Microseconds, by torch's estimate, to bring a matrix to another placement."""
    if place == x.place or x.place == "copy":
        return 0.0
    if (x.place, place) not in _MOVES:
        return math.inf
    name = _MOVES[x.place, place]
    times, all_of_it = _WEIGHTS[name]
    hop, speed = BETWEEN if ranks > host else INSIDE
    hops = times * (ranks - 1)
    nbytes = BYTES * math.prod(x.size) / (1 if all_of_it else ranks)
    seconds = nbytes / 2**30 * hops / ranks / speed
    # One more for an all-to-all, which torch had no estimate for.
    return START + hops * hop + 1e6 * seconds + (name == "all_to_all_single")


@dataclass(frozen=True)
class Count:
    """The work of a rank for one matrix.

    Args:
        calls: number of collectives by name.
        handed: bytes of their inputs by name.
        flops: the flops of the products.
    """

    calls: Counter[str]
    handed: Counter[str]
    flops: float


class _Run:
    def __init__(self, ranks: int, host: int) -> None:
        self.ranks, self.host = ranks, host
        self.count = Count(Counter(), Counter(), 0.0)
        self.flops = 0.0

    def move(self, x: Placed, place: str) -> None:
        """Count the collective that brings a matrix to another placement, if it takes one."""
        name = _MOVES.get((x.place, place))
        if name:
            self.count.calls[name] += 1
            self.count.handed[name] += x.handed(self.ranks)

    def product(self, a: Placed, b: Placed, summand: Placed | None = None) -> Placed:
        """The product a·b, with the summand if there is one, where torch puts it."""

        def moves(places: Sequence[str]) -> list[tuple[Placed, str]]:
            out, left, right = places
            return [(a, left), (b, right), *([(summand, out)] if summand else [])]

        def price(places: Sequence[str]) -> tuple[float, bool]:
            each = moves(places)
            cost = sum(_estimate(x, place, self.ranks, self.host) for x, place in each)
            # Of what costs nothing, torch first takes that for which nothing changes.
            return cost, any(x.place != place for x, place in each)

        def fits(x: Placed, place: str) -> bool:
            axis = {"rows": 0, "cols": 1}.get(place)
            return axis is None or x.size[axis] >= self.ranks

        allowed = [p for p in PLACEMENTS if all(fits(x, place) for x, place in moves(p))]
        best = min(allowed, key=price)
        for x, place in moves(best):
            self.move(x, place)
        out, left, right = best
        divided = self.ranks if {left, right} & {"rows", "cols"} else 1
        self.flops += 2 * a.size[0] * a.size[1] * b.size[1] / divided
        return Placed(out, (a.size[0], b.size[1]))


@lru_cache(maxsize=1024)
def newton_schulz(m: int, n: int, ranks: int, host: int) -> Count | None:
    """Collectives of torch.optim.Muon for an m × n matrix whose rows are sharded over some ranks.

    Args:
        m: rows.
        n: columns.
        ranks: the number of ranks on the axis.
        host: devices that torch finds on a host; 1 for processes on CPUs.

    Returns:
        The counts; None where torch refuses, since some rank would hold no row.

    Examples:
        >>> dict(newton_schulz(16, 8, 2, 1).calls)  # a tall one: Gram matrices are added up
        {'all_reduce': 11}
    """
    if ranks > m:
        return None
    run = _Run(ranks, host)
    # The norm: one number.
    run.count.calls["all_reduce"] += ranks > 1
    run.count.handed["all_reduce"] += BYTES * (ranks > 1)
    x = Placed("rows" if ranks > 1 else "copy", (m, n))
    start = x
    x = x.turned if m > n else x
    for _ in range(STEPS):
        gram = run.product(x, x.turned)
        update = run.product(gram, gram, gram)
        x = run.product(update, x, x)
    x = x.turned if m > n else x
    run.move(x, start.place)
    return Count(run.count.calls, run.count.handed, run.flops)
