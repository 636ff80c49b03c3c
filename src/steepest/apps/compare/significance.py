"""Means of a few seeds: their interval, a paired difference, and Holm's correction.

The distribution of Student's t is computed by its finite sums for whole degrees of freedom
(Abramowitz & Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

COVERAGE = 0.95


def within(t: float, freedom: int) -> float:
    """P(|T| ≤ t) for Student's t with a whole number of degrees of freedom.

    Examples:
        >>> round(within(4.302653, 2), 6), round(within(2.776445, 4), 6)
        (0.95, 0.95)
    """
    theta = math.atan(abs(t) / math.sqrt(freedom))
    sine, square = math.sin(theta), math.cos(theta) ** 2
    odd = freedom % 2
    # 1 + ½cos²θ + (1·3)/(2·4)cos⁴θ + …, or cosθ(1 + ⅔cos²θ + (2·4)/(3·5)cos⁴θ + …)
    term, total = 1.0, 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= k / (k + 1) * square
    if not odd:
        return sine * total
    return 2 / math.pi * (theta + sine * math.cos(theta) * total)


def quantile(freedom: int, coverage: float = COVERAGE) -> float:
    """The t for which `within` is the coverage, by bisection.

    Examples:
        >>> round(quantile(2), 4), round(quantile(1), 3)
        (4.3027, 12.706)
    """
    low, high = 0.0, 1.0
    while within(high, freedom) < coverage:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, freedom) < coverage else (low, middle)
    return high


def mean_interval(values: Sequence[float], coverage: float = COVERAGE) -> tuple[float, float]:
    """The mean of a sample and half the width of its t-interval.

    Examples:
        >>> mean, half = mean_interval([1.0, 2.0, 3.0])
        >>> mean, round(half, 4)
        (2.0, 2.4841)
    """
    spread = stdev(values) / math.sqrt(len(values))
    return fmean(values), quantile(len(values) - 1, coverage) * spread


def paired(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """The mean difference of pairs, and its p-value by the two-sided paired t-test.

    Examples:
        >>> difference, p = paired([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
        >>> difference, round(p, 4)
        (-2.0, 0.0742)
    """
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean, error = fmean(differences), stdev(differences) / math.sqrt(len(differences))
    if error == 0:
        return mean, 0.0 if mean else 1.0
    return mean, 1 - within(mean / error, len(differences) - 1)


def holm(values: Sequence[float]) -> list[float]:
    """P-values corrected for being several, by the step-down method.

    Sources:
        Holm, Scandinavian Journal of Statistics 6 (1979).

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    corrected, largest = [0.0] * len(values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[i]))
        corrected[i] = largest
    return corrected
