"""Student's t, intervals, paired tests and Holm's correction, against tables and by hand."""

from __future__ import annotations

import math
import random

import pytest

from steepest.apps.compare.significance import holm, mean_interval, paired, quantile, within

# Of the usual table: t with P(|T| ≤ t) = 0.95, 0.99 and 0.999 for each number of degrees.
TABLE = {
    1: (12.7062, 63.6567, 636.6192),
    2: (4.3027, 9.9248, 31.5991),
    3: (3.1824, 5.8409, 12.9240),
    4: (2.7764, 4.6041, 8.6103),
    5: (2.5706, 4.0321, 6.8688),
    9: (2.2622, 3.2498, 4.7809),
    10: (2.2281, 3.1693, 4.5869),
    30: (2.0423, 2.7500, 3.6460),
}


@pytest.mark.parametrize("freedom", TABLE)
def test_quantiles_are_those_of_the_table(freedom: int) -> None:
    for coverage, t in zip((0.95, 0.99, 0.999), TABLE[freedom], strict=True):
        assert quantile(freedom, coverage) == pytest.approx(t, abs=1e-4)
        assert within(t, freedom) == pytest.approx(coverage, abs=1e-5)
        assert within(-t, freedom) == within(t, freedom)


def test_two_degrees_have_a_closed_form() -> None:
    # P(|T| ≤ t) = t/√(2 + t²)
    for t in (0.1, 1.0, 3.0, 50.0):
        assert within(t, 2) == pytest.approx(t / math.sqrt(2 + t * t), abs=1e-14)


def test_an_interval_by_hand() -> None:
    # mean 1.50, deviation 0.02, so 4.3027 · 0.02/√3.
    mean, half = mean_interval([1.48, 1.50, 1.52])
    assert mean == pytest.approx(1.5)
    assert half == pytest.approx(0.049683, abs=1e-6)


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    draw = random.Random(0)
    held = 0
    for _ in range(2000):
        mean, half = mean_interval([draw.gauss(3.0, 0.5) for _ in range(3)])
        held += abs(mean - 3.0) <= half
    # 0.95 with a deviation of 0.005.
    assert 0.935 < held / 2000 < 0.965


def test_a_paired_test_by_hand() -> None:
    # Differences 0.02, 0.03, 0.04: t = 0.03/(0.01/√3) = 5.196, p = 1 − t/√(2 + t²).
    difference, p = paired([1.12, 1.23, 1.44], [1.10, 1.20, 1.40])
    assert difference == pytest.approx(0.03)
    assert p == pytest.approx(1 - math.sqrt(27 / 29), abs=1e-9)
    # The pairs count: as two samples these overlap widely.
    _, unpaired = paired([1.44, 1.12, 1.23], [1.10, 1.20, 1.40])
    assert unpaired > 0.5


def test_equal_differences_leave_no_doubt() -> None:
    assert paired([2.0, 3.0], [1.0, 2.0]) == (1.0, 0.0)
    assert paired([2.0, 3.0], [2.0, 3.0]) == (0.0, 1.0)


def test_holm_by_hand() -> None:
    # Sorted 0.01·4, 0.013·3 → at least the one before, 0.02·2 → likewise, 0.8·1.
    assert holm([0.8, 0.013, 0.01, 0.02]) == pytest.approx([0.8, 0.04, 0.04, 0.04])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
