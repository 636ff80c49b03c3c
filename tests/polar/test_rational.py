"""Zolotarev's function is the best one, and its polar factor keeps its promise on hard spectra."""

import math

import pytest
import torch

from steepest.polar import (
    GramEigh,
    Zolotarev,
    best_rational,
    definite_inverse,
)
from steepest.polar._blocks import HALVED, Workspace
from steepest.polar.rational import _largest_eigenvalue_bound, root_overestimate
from tests.matrices import log_spaced, naive_polar, spectral_distance, with_spectrum

# Nakatsukasa & Freund's functions on [1e-3, 1]: worst errors.
ERRORS = {2: 2.0e-1, 3: 6.2e-2, 4: 1.9e-2, 5: 5.8e-3, 6: 1.7e-3, 8: 1.6e-4}


def on(lower, points=40_001):
    return torch.logspace(math.log10(lower), 0, points, dtype=torch.float64)


@pytest.mark.parametrize(("order", "error"), ERRORS.items())
def test_errors_are_the_published_ones(order, error):
    assert best_rational(1e-3, order).error == pytest.approx(error, rel=0.03)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("lower", [1e-6, 1e-3, 0.3])
def test_the_error_alternates_as_that_of_a_best_approximation_does(order, lower):
    """2r + 2 extremes of equal size and alternating sign: Chebyshev's criterion."""
    function = best_rational(lower, order)
    error = function(on(lower)) - 1
    assert float(error.abs().max()) == pytest.approx(function.error, rel=1e-3)
    signs = torch.sign(error[error.abs() > 0.99 * function.error])
    assert int((signs[1:] != signs[:-1]).sum()) == 2 * order + 1


@pytest.mark.parametrize(("order", "stages"), [(4, 2), (7, 2), (13, 3), (5, 1), (6, 1), (1, 1)])
def test_stages_compose_to_the_function_itself(order, stages):
    method = Zolotarev(order, 1e-3)
    assert len(method.stages) == stages
    x = on(1e-3)
    for stage in method.stages:
        x = stage(x)
    whole = best_rational(1e-3, order)
    assert float((x - whole(on(1e-3))).abs().max()) < 1e-10
    assert method.stages[-1].error == pytest.approx(whole.error, rel=1e-8)


SPECTRA = {
    "log": lambda m: log_spaced(1 / 3.01e-3, m),
    "flat": lambda m: torch.where(torch.arange(m) < m // 2, 1.0, 3.01e-3).double(),
    "one large": lambda m: torch.where(torch.arange(m) < 1, 1.0, 3.01e-3).double(),
    "one small": lambda m: torch.where(torch.arange(m) < m - 1, 1.0, 3.01e-3).double(),
    "linear": lambda m: torch.linspace(1, 3.01e-3, m, dtype=torch.float64),
}


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("shape", [(64, 64), (48, 300), (256, 256)], ids=str)
@pytest.mark.parametrize("tight", [False, True])
def test_the_promise_holds_on_hard_spectra(kind, shape, tight):
    """In single precision the Gram matrix has 9e-6 left of a singular value of 3e-3."""
    m, n = shape
    x = with_spectrum(SPECTRA[kind](m), m, n).float()
    method = Zolotarev(4, 3e-3 / root_overestimate(m, tight=tight), tight=tight)
    stated = method.accuracy(m, n, torch.float32)
    assert stated.resolution <= 3.0001e-3 and stated.error < 0.05
    out = torch.linalg.svdvals(method(x).double())
    assert float((out - 1).abs().max()) <= stated.error


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("m", [1, 2, 64, 300])
def test_the_bound_of_the_largest_eigenvalue(m, share):
    count = max(1, round(share * m))
    flat = torch.zeros(m, dtype=torch.float64)
    flat[:count] = 7.0
    for values in (flat, 7 * log_spaced(100.0, m)):
        bound = float(_largest_eigenvalue_bound(torch.diag(values)[None], Workspace(values)))
        assert 7 <= bound <= 7 * root_overestimate(m, tight=False) ** 2 * (1 + 1e-4)


def test_a_small_lower_end_is_computed_in_double_precision():
    device = torch.device("cpu")
    assert Zolotarev(4, 1e-3).compute_dtype(torch.float32, device) == torch.float32
    assert Zolotarev(4, 1e-5).compute_dtype(torch.bfloat16, device) == torch.float64
    assert Zolotarev(4, 1e-5).compute_dtype(torch.complex64, device) == torch.complex128
    x = with_spectrum(log_spaced(1e5, 12), 12, 20)
    fine = Zolotarev(13, 3e-6)
    assert fine.accuracy(12, 20, torch.float64).error < 1e-3
    stated = fine.accuracy(12, 20, torch.float64).error
    assert spectral_distance(fine(x), naive_polar(x)) <= stated


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"order": 0}, "order"),
        ({"lower": 0.0}, "lower"),
        ({"lower": 1.0}, "lower"),
        ({"lower": float("nan")}, "lower"),
        ({"order": 5, "lower": 1e-8}, "lower"),
        ({"refine": -1}, "refine"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, name):
    with pytest.raises(ValueError, match=f"{name}="):
        Zolotarev(**arguments)
    if name == "refine":
        with pytest.raises(ValueError, match="refine="):
            GramEigh(**arguments)


@pytest.mark.parametrize(("lower", "order"), [(0.0, 1), (2.0, 1), (0.5, 0)])
def test_no_function_without_an_interval(lower, order):
    with pytest.raises(ValueError, match=r"lower=|order="):
        best_rational(lower, order)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("m", [1, 5, 32, 33, 100, 257, HALVED + 70])
def test_the_blocked_inverse_is_an_inverse(m, dtype):
    generator = torch.Generator().manual_seed(m)
    x = torch.randn(2, m, 2 * m, dtype=dtype, generator=generator) / m**0.5
    a = x @ x.mH + 0.01 * torch.eye(m, dtype=dtype)
    inverse = definite_inverse(a)
    residual = torch.linalg.matrix_norm(inverse @ a - torch.eye(m, dtype=dtype), 2)
    # The condition number is below 1000.
    assert float(residual.max()) < 5000 * torch.finfo(dtype).eps
    torch.testing.assert_close(inverse[0], definite_inverse(a[:1])[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("m", [7, HALVED, 2 * HALVED + 2])
def test_a_hermitian_product_by_quarters_is_the_product(m):
    x = torch.randn(1, m, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        product = Workspace(x).product(x, x.mH, hermitian=True)
    assert float((product - x @ x.mH).abs().max()) < 1e-12
    # A product is Hermitian to rounding only; what is mirrored, to the bit.
    assert float((product - product.mH).abs().max()) < 1e-12
    half = m // 2
    if m >= HALVED:
        assert torch.equal(product[:, :half, half:], product[:, half:, :half].mH)


@pytest.mark.parametrize("m", [7, HALVED, HALVED + 9])
@pytest.mark.parametrize("own", [True, False])
def test_a_hermitian_product_in_half_precision_is_the_product(m, own):
    """In equal blocks, or whole: 521 is prime, and oneDNN is slow for other parts."""
    generator = torch.Generator().manual_seed(m)
    x = torch.randn(2, m, 8, generator=generator).bfloat16()
    plus = torch.eye(m, dtype=torch.bfloat16).expand(2, m, m)
    with torch.no_grad():
        other = None if own else x.mH
        found = Workspace(x).product(x, other, plus=plus, beta=2.0, alpha=0.5, hermitian=True)
    exact = 0.5 * x.double() @ x.double().mH + 2 * plus.double()
    assert bool(((found - exact).abs() <= 2**-8 * exact.abs() + 1e-6).all())


@pytest.mark.parametrize(
    "method",
    [Zolotarev(4, 1e-3), Zolotarev(2, 1e-3, degree=5), Zolotarev(1, 1e-3, degree=13)],
    ids=str,
)
@pytest.mark.parametrize("m", [20, 70, HALVED + 60])
def test_used_memory_changes_no_result(method, m):
    """With gradients enabled every result is new memory."""
    x = torch.stack([with_spectrum(log_spaced(30.0, m), m, m + 30, seed=s) for s in (0, 1)]).float()
    with torch.no_grad():
        once, again = method(x), method(x)
    assert torch.equal(once, again)
    assert (
        spectral_distance(once[0], naive_polar(x[0])) <= method.accuracy(*x[0].shape, x.dtype).error
    )
    with torch.enable_grad():
        # Rounding of the Gram matrix, over the smallest singular value squared.
        assert spectral_distance(method(x)[0], once[0]) < 1e-3
