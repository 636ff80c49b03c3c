"""Derived coefficients against the published list and against the definition."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steepest.polar import best_quintic, design_schedule, polar_express_coefficients
from steepest.polar.design import CUSHION
from steepest.polar.schedule import POLAR_EXPRESS_COEFFICIENTS, Schedule


def quintic(coefficients, x):
    a, b, c = coefficients
    return a * x + b * x**3 + c * x**5


def test_the_published_list_is_derived():
    derived = polar_express_coefficients(1e-3, 8, cushion=CUSHION)
    for ours, published in zip(derived, POLAR_EXPRESS_COEFFICIENTS, strict=True):
        assert ours == pytest.approx(published, abs=1e-6)


def test_worst_errors_without_cushion():
    errors = (0.9915, 0.9646, 0.8598, 0.5459, 0.1134, 9.17e-4, 4.8e-10)
    for steps, expected in enumerate(errors, start=1):
        coefficients = polar_express_coefficients(1e-3, steps)
        schedule = Schedule(name="x", coefficients=coefficients, interval=(1e-3, 1.0), source="x")
        assert schedule.error == pytest.approx(expected, rel=6e-3)


@given(st.floats(0.01, 0.95), st.floats(0.5, 2.0))
def test_best_quintic_equioscillates(ratio, upper):
    """Chebyshev: four extrema of equal size and alternating sign are the mark of the optimum."""
    coefficients, error = best_quintic(ratio * upper, upper)
    grid = torch.linspace(ratio * upper, upper, 100_001, dtype=torch.float64)
    residual = 1 - quintic(coefficients, grid)
    assert float(residual.abs().max()) == pytest.approx(error, rel=1e-4, abs=1e-12)
    touching = residual[residual.abs() > (1 - 1e-3) * error].sign()
    assert int((touching[1:] != touching[:-1]).sum()) == 3


@given(st.floats(0.05, 0.9), st.integers(0, 2**31))
def test_no_other_quintic_is_better(ratio, seed):
    coefficients, error = best_quintic(ratio, 1.0)
    grid = torch.linspace(ratio, 1.0, 5_001, dtype=torch.float64)
    noise = torch.randn(20, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for change in (noise * 0.1).tolist():
        other = [c + d for c, d in zip(coefficients, change, strict=True)]
        assert float((1 - quintic(other, grid)).abs().max()) >= error - 1e-9


def test_a_narrow_interval_takes_the_taylor_limit():
    coefficients, error = best_quintic(0.4999999, 0.5)
    assert error == 0.0
    assert quintic(coefficients, 0.5) == pytest.approx(1.0, abs=1e-12)


@given(st.floats(1e-4, 0.3), st.sampled_from([0.2, 0.05, 1e-3, 1e-6]))
def test_design_keeps_its_promise_with_the_fewest_steps(lower, error):
    schedule = design_schedule(lower=lower, error=error)
    low, high = schedule.band(lower, 1.0)
    assert max(1 - low, high - 1) <= error
    if schedule.steps > 1:
        coefficients = polar_express_coefficients(
            lower, schedule.steps - 1, cushion=CUSHION, safety=schedule.interval[1]
        )
        shorter = Schedule(name="x", coefficients=coefficients, interval=(lower, 1.0), source="x")
        assert shorter.error > error


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: best_quintic(0.0, 1.0), "lower"),
        (lambda: polar_express_coefficients(1e-3, 0), "steps"),
        (lambda: polar_express_coefficients(1e-3, 3, cushion=1.0), "cushion"),
        (lambda: polar_express_coefficients(1e-3, 3, safety=0.9), "safety"),
        (lambda: design_schedule(lower=0.0, error=0.1), "lower"),
        (lambda: design_schedule(lower=0.1, error=0.0), "error"),
        (lambda: design_schedule(lower=0.1, error=0.1, slack=0.0), "slack"),
        (lambda: design_schedule(lower=0.1, error=0.1, slack=1.1), "slack"),
    ],
)
def test_bad_arguments(call, argument):
    with pytest.raises(ValueError, match=argument):
        call()


def test_a_slack_leaves_room_below_what_is_promised():
    """The schedule for a smaller end, but promised for the one that was asked for."""
    schedule = design_schedule(lower=1e-2, error=0.05, slack=0.5)
    wider = design_schedule(lower=5e-3, error=schedule.band(5e-3, 1.0)[1] - 1 + 1e-6)
    assert schedule.interval == (1e-2, wider.interval[1])
    assert schedule.coefficients == wider.coefficients and schedule.error <= 0.05


def test_an_error_that_the_safety_factor_forbids_is_refused():
    """It must end, too: more steps never reach it."""
    with pytest.raises(ValueError, match=r"error=1e-12: safety=1.02 leaves"):
        design_schedule(lower=1e-3, error=1e-12, safety=1.02)
    assert design_schedule(lower=1e-3, error=1e-12, safety=1.0).error <= 1e-12
