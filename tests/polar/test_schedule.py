"""The named schedules against the figures that were published or computed for them."""

import pytest
import torch

from steepest.polar import (
    CANS,
    CLASSIC,
    JORDAN,
    JORDAN_POLISHED,
    POLAR_EXPRESS,
    YOU,
    Schedule,
    polar_express,
)
from steepest.polar.schedule import JORDAN_QUINTIC

# (schedule, band on [1e-3, 1], band on [1e-2, 1]), three digits.
BANDS = [
    (JORDAN, (0.470, 1.202), (0.682, 1.134)),
    (YOU, (0.475, 1.145), (0.978, 1.032)),
    (polar_express(5, safety=1.0), (0.876, 1.124), (0.876, 1.124)),
    (POLAR_EXPRESS, (0.846, 1.124), (0.870, 1.124)),
    (polar_express(8), (1.0, 1.0), (1.0, 1.0)),
    (CANS, (0.884, 1.120), (0.884, 1.120)),
    (JORDAN_POLISHED, (1.0, 1.0005), (1.0, 1.0005)),
    (CLASSIC, (0.023, 1.0), (0.23, 1.0)),
]
NAMED = [row[0] for row in BANDS]


@pytest.mark.parametrize(
    ("schedule", "wide", "narrow"), BANDS, ids=lambda v: getattr(v, "name", "")
)
def test_bands(schedule, wide, narrow):
    for interval, expected in (((1e-3, 1.0), wide), ((1e-2, 1.0), narrow)):
        low, high = schedule.band(*interval)
        assert low == pytest.approx(expected[0], abs=1.6e-3)
        assert high == pytest.approx(expected[1], abs=6e-4)


@pytest.mark.parametrize("schedule", NAMED, ids=lambda s: s.name)
def test_composition_is_the_written_polynomial(schedule):
    sigma = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    expected = sigma
    divisors = schedule.prescale or (1.0,) * schedule.steps
    for (a, b, c), s in zip(schedule.coefficients, divisors, strict=True):
        y = expected / s
        expected = a * y + b * y**3 + c * y**5
    torch.testing.assert_close(schedule(sigma), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("schedule", NAMED, ids=lambda s: s.name)
def test_safe_up_to_the_stated_upper_end(schedule):
    """Nothing in [lower, upper] leaves a band around 1: no sign flip, no divergence."""
    lower, upper = schedule.interval
    low, high = schedule.band(lower, upper)
    assert low > 0.2
    assert high < 1.25


@pytest.mark.parametrize(
    ("schedule", "sigma"),
    [(polar_express(5, safety=1.0), 1.01), (CANS, 1.01), (POLAR_EXPRESS, 1.04)],
)
def test_unsafe_beyond_it(schedule, sigma):
    """What the interval warns of is real: raw coefficients diverge at σ = 1.01."""
    assert sigma > schedule.interval[1]
    assert abs(float(schedule(torch.tensor([sigma], dtype=torch.float64))) - 1) > 1


def test_one_is_no_fixed_point_of_jordans_quintic():
    a, b, c = JORDAN_QUINTIC
    assert a + b + c == pytest.approx(0.701, abs=1e-9)
    # The eventual band, from many more steps than anyone runs.
    many = Schedule(
        name="many", coefficients=(JORDAN_QUINTIC,) * 60, interval=(1e-3, 1.2), source="test"
    )
    low, high = many.band(1e-3, 1.0)
    assert low == pytest.approx(0.6818, abs=1e-3)
    assert high == pytest.approx(1.1344, abs=1e-3)
    # On the way there: the maximum of the quintic itself.
    assert JORDAN.band(1e-3, 1.0)[1] == pytest.approx(1.2024, abs=1e-3)


def test_polar_express_beyond_its_table_repeats_the_last_entry():
    long = polar_express(11)
    assert long.coefficients[7:] == ((1.875, -1.25, 0.375),) * 4
    assert long.prescale == (1.01,) * 7 + (1.0,) * 4
    # The first steps are the first entries, not the last ones.
    assert long.coefficients[0][0] > 8
    assert polar_express(3).coefficients == long.coefficients[:3]


def test_every_schedule_names_its_source():
    assert all(len(s.source) > 10 for s in NAMED)
    assert len({s.name for s in NAMED} | {"polar_express_5"}) == len(NAMED) - 1


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"coefficients": ()}, "coefficients"),
        ({"interval": (0.0, 1.0)}, "interval"),
        ({"interval": (1.0, 0.5)}, "interval"),
        ({"prescale": (1.0, 1.0)}, "prescale"),
    ],
)
def test_bad_schedules(change, argument):
    values = {
        "name": "x",
        "coefficients": ((1.5, -0.5, 0.0),),
        "interval": (0.1, 1.0),
        "source": "x",
    }
    with pytest.raises(ValueError, match=argument):
        Schedule(**{**values, **change})


def test_bad_arguments():
    with pytest.raises(ValueError, match="steps=0"):
        polar_express(0)
    with pytest.raises(ValueError, match=r"safety=0\.5"):
        polar_express(5, safety=0.5)
    with pytest.raises(ValueError, match="lower"):
        JORDAN.band(1.0, 0.5)
