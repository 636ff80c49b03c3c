"""Polynomials of Gram matrices in the form that is evaluated, and schedules made of longer ones."""

import itertools

import pytest
import torch

from steepest.polar import (
    GramNewtonSchulz,
    NewtonSchulz,
    Schedule,
    best_odd_polynomial,
    design_schedule,
    polar_express_coefficients,
)
from steepest.polar._blocks import Workspace, nested
from steepest.polar._polynomials import GramPolynomial, level_end, symmetric_form
from tests.matrices import log_spaced, naive_polar, with_spectrum

LONG = (9, 13)


@pytest.mark.parametrize("degree", range(2, 9))
@pytest.mark.parametrize("end", [1.0, 1.4])
def test_the_symmetric_form_is_the_polynomial(degree, end):
    c = torch.randn(
        degree + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(degree)
    )
    r = torch.linspace(0, 1, 101, dtype=torch.float64)
    v = 4 * r * (end - r) / end**2
    pairs = symmetric_form(tuple(c.tolist()), end)
    found = sum(v**i * (a + b * r) for i, (a, b) in enumerate(pairs))
    assert torch.allclose(found, sum(x * r**k for k, x in enumerate(c)), atol=1e-12)


def drawn(degree, zeros):
    """Coefficients of q at random, or 0."""
    generator = torch.Generator().manual_seed(degree)
    c = torch.randn(degree + 1, dtype=torch.float64, generator=generator).tolist()
    return tuple(0.0 if k in zeros else x for k, x in enumerate(c))


STEPS = {
    **{f"{d} without {z}": drawn(d, z) for d in range(2, 9) for z in ((), (1,), (2, 3))},
    **{
        f"{degree}, step {k}": step
        for degree in LONG
        for k, step in enumerate(polar_express_coefficients(2e-3, 3, cushion=0.04, degree=degree))
    },
    "zeros at the end": (1.5, -0.5, 0.1, 0.0, 0.0),
    "a zero at the end": (1.5, -0.5, 0.1, 0.2, 0.0),
    "one power": (1.5, 1.0, 0.0, 0.0),
}


@pytest.mark.parametrize("c", STEPS.values(), ids=STEPS.keys())
@pytest.mark.parametrize("gradients", [True, False])
def test_what_a_step_makes_of_a_gram_matrix(c, gradients):
    generator = torch.Generator().manual_seed(len(c))
    u = torch.linalg.qr(torch.randn(2, 5, 5, dtype=torch.float64, generator=generator))[0]
    values = torch.rand(2, 5, dtype=torch.float64, generator=generator)
    r = (u * values[:, None]) @ u.mT
    step = GramPolynomial.of(c)
    assert step.lead == c[0]
    with torch.set_grad_enabled(gradients):
        found = torch.baddbmm(r, r, r, beta=step.b, alpha=step.c)
        found = nested(r, found, step.pairs, Workspace(r)) if step.pairs else found
    assert found is not r, "it is used up"
    exact = sum(x * values**k for k, x in enumerate(c)) - c[0]
    assert torch.allclose(found, (u * exact[:, None]) @ u.mT, atol=1e-12)


@pytest.mark.parametrize("degree", LONG)
@pytest.mark.parametrize("lower", [5e-4, 2e-3])
def test_the_polynomials_of_a_schedule_take_one_sum_less(degree, lower):
    """They fall below q(0) and reach it again beyond 1: there the form ends."""
    for step in polar_express_coefficients(lower, 3, cushion=0.03, degree=degree)[:-1]:
        end = level_end(step)
        assert 1 < end < 2
        assert sum(c * end**k for k, c in enumerate(step)) == pytest.approx(step[0], rel=1e-9)
        (_, slope), *others = symmetric_form(step, end)
        assert abs(slope) < 1e-9 < max(abs(b) for _, b in others)
        assert GramPolynomial.of(step).pairs == ((step[0], 0.0), *others)


@pytest.mark.parametrize("coefficients", [(1.0, 2.0, 1.0, 1.0), (1.0, -9.0, 1.0, 0.5)])
def test_where_a_polynomial_does_not_come_back_the_form_ends_at_1(coefficients):
    assert level_end(coefficients) is None
    assert GramPolynomial.of(coefficients).pairs == symmetric_form(coefficients)


@pytest.mark.parametrize("degree", LONG)
@pytest.mark.parametrize("method", [NewtonSchulz, GramNewtonSchulz])
def test_longer_polynomials_reach_what_they_state(degree, method):
    schedule = design_schedule(lower=1e-3, error=0.01, degree=degree)
    assert max(map(len, schedule.coefficients)) == (degree + 1) // 2
    x = with_spectrum(log_spaced(50.0, 24), 24, 60)
    polar = method(schedule)
    assert (
        float((polar(x) - naive_polar(x)).norm(2))
        <= 24**0.5 * polar.accuracy(24, 60, x.dtype).error
    )
    segments = (1,) * schedule.steps
    one = GramNewtonSchulz(schedule, torch.float64, segments)(x)
    assert torch.allclose(one, GramNewtonSchulz(schedule, torch.float64)(x), atol=1e-8)


@pytest.mark.parametrize("degree", LONG)
@pytest.mark.parametrize("lower", [1e-3, 0.02, 0.4])
def test_the_best_polynomial_equioscillates(lower, degree):
    coefficients, error = best_odd_polynomial(lower, degree)
    x = torch.linspace(lower, 1, 50_001, dtype=torch.float64)
    x = torch.cat([torch.logspace(torch.tensor(lower).log10(), 0, 5_001).double(), x]).sort().values
    off = 1 - sum(c * x ** (2 * k + 1) for k, c in enumerate(coefficients))
    assert float(off.abs().max()) == pytest.approx(error, rel=1e-3)
    ends = off[off.abs() > 0.999 * error].sign()
    changes = 1 + sum(a != b for a, b in itertools.pairwise(ends.tolist()))
    assert changes == len(coefficients) + 1


@pytest.mark.parametrize("degree", LONG)
def test_longer_polynomials_stay_in_the_unit_interval(degree):
    """Where the form that is evaluated is made for: all but the last end at 1."""
    steps = polar_express_coefficients(2e-3, 3, cushion=0.03, degree=degree, last=5)
    assert [2 * len(step) - 1 for step in steps] == [degree, degree, 5]
    x = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    for step in steps[:-1]:
        x = sum(c * x ** (2 * k + 1) for k, c in enumerate(step))
        assert float(x.max()) == pytest.approx(1.0, abs=1e-3)
        assert float(x.min()) >= 0


@pytest.mark.parametrize("degree", LONG)
def test_the_default_device_has_no_part_in_a_design(degree):
    for cached in (best_odd_polynomial, polar_express_coefficients, design_schedule):
        cached.cache_clear()
    with torch.device("meta"):
        found = design_schedule(lower=3e-3, error=0.02, degree=degree)
    assert found == design_schedule(lower=3e-3, error=0.02, degree=degree)


def test_longer_polynomials_save_steps():
    steps = {d: design_schedule(lower=3e-3, error=0.02, degree=d).steps for d in (5, *LONG)}
    assert steps == {5: 5, 9: 4, 13: 3}


@pytest.mark.parametrize("degree", [3, 7, 11, 15])
def test_other_degrees_are_refused(degree):
    with pytest.raises(ValueError, match=f"degree={degree}"):
        design_schedule(lower=1e-3, error=0.1, degree=degree)


def test_a_step_has_three_coefficients_or_more():
    with pytest.raises(ValueError, match="coefficients"):
        Schedule(name="short", coefficients=((1.5, -0.5),), interval=(0.1, 1.0), source="none")
