"""The margin of a median of a few starts: the side of a number that it is on, if they tell."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from steepest.apps.reproduce.framework.claims import UndecidedError

COVERAGE = 0.95
LEAST = 6
"""The fewest starts whose smallest and largest value hold a median with 95 %: 1 − 2·2⁻⁶ = 0.97."""


def rank(count: int, coverage: float = COVERAGE) -> int:
    """The number of sorted values to cut off at each end: the rest hold the median.

    Each value is below the median with probability ½, whatever its distribution, so k of them are
    with binomial probability. With 0 even all of them do not hold it with the coverage.

    Examples:
        >>> rank(5), rank(6), rank(10), rank(100)
        (0, 1, 2, 40)
    """
    tail, k = 0.0, 0
    while (tail := tail + math.comb(count, k) / 2**count) <= (1 - coverage) / 2:
        k += 1
    return k


def median_interval(
    values: Sequence[float], coverage: float = COVERAGE
) -> tuple[float, float, float]:
    """The median of a sample, and two of its values that hold the true one with this probability.

    No distribution is assumed: these are the ends of the sign test.

    Returns:
        (median, low, high).

    Raises:
        UndecidedError: there are too few values.

    Examples:
        >>> median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0])
        (5.5, 2.0, 9.0)
    """
    ordered = sorted(map(float, values))
    cut = rank(len(ordered), coverage)
    if cut == 0:
        raise UndecidedError(
            f"needs starts ≥ {LEAST} (here {len(ordered)}): fewer have no "
            f"{100 * coverage:g} % interval of a median"
        )
    return float(np.median(ordered)), ordered[cut - 1], ordered[-cut]


def side(low: float, high: float, at: float) -> int:
    """−1 if an interval is below a number, 1 if it is above, 0 if the number is in it."""
    return -1 if high < at else 1 if low > at else 0
