"""What other people's set-ups do with the optimizers: the rows of docs/meshes.md, and their runs.

Every row is run on gloo processes, in float64 and with an exact polar factor where nothing else is
said, and compared with the same training in one process: losses, and a number for every parameter
that all of its entries go into.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tests.sharding import others_ddp, others_flat, others_fsdp, others_parallel
from tests.sharding.others_row import Outcome, Row
from tests.sharding.pool import pool

ROWS: tuple[Row, ...] = (
    *others_fsdp.ROWS,
    *others_ddp.ROWS,
    *others_flat.ROWS,
    *others_parallel.ROWS,
)

LIMIT = 240.0
"""Seconds for a row on all of its processes."""


@dataclass(frozen=True)
class Result:
    """What a row has come to on some number of processes.

    Args:
        row: The row.
        world: The number of processes.
        difference: The largest relative difference to one process; NaN where it is refused.
        lines: The lines with which the ranks were refused; empty where it works.
        moved: Whether a weight has moved although the step was refused.
    """

    row: Row
    world: int
    difference: float
    lines: Sequence[str] = ()
    moved: bool = False


def _run(rank: int, world: int, place: int) -> Outcome:
    """A row on a rank."""
    return ROWS[place].run(rank, world)


def _run_alone(_: int, __: int, place: int, world: int) -> Outcome:
    """What a row is compared with."""
    run = ROWS[place].alone
    assert run is not None
    return run(world)


def measure(place: int, world: int) -> Result:
    """Run the row in a place of the table.

    Raises:
        PoolError: a rank has failed, hangs or has died.
    """
    row = ROWS[place]
    ranks: list[Outcome] = pool(world).run(_run, place, timeout=LIMIT)
    if row.alone is None:
        lines = [rank.said for rank in ranks]
        return Result(row, world, math.nan, lines, any(rank.moved for rank in ranks))
    expected: Outcome = pool(1).run(_run_alone, place, world, timeout=LIMIT)[0]
    return Result(row, world, difference(ranks, expected))


def difference(ranks: Sequence[Outcome], expected: Outcome) -> float:
    """The largest relative difference of what several ranks have come to.

    Raises:
        AssertionError: a parameter or a loss is on no rank, or nothing was learnt.
    """
    assert min(expected.losses) < expected.losses[0], "nothing is learnt"
    given = [rank.losses for rank in ranks if rank.losses]
    means = [math.fsum(step) / len(given) for step in zip(*given, strict=True)]
    found = list(zip(means, expected.losses, strict=True))
    named = {name for rank in ranks for name in rank.weights}
    assert named == expected.weights.keys(), named ^ expected.weights.keys()
    found += [(own, expected.weights[name]) for rank in ranks for name, own in rank.weights.items()]
    return max(abs(a - b) / max(abs(b), 1.0) for a, b in found)
