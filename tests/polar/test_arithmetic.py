"""What the arithmetic around a method must not change: global settings, autograd, coarse types."""

import pytest
import torch

from steepest.polar import (
    CANS,
    YOU,
    Auto,
    GramEigh,
    GramNewtonSchulz,
    NewtonSchulz,
    Svd,
    polar_express,
)
from tests.matrices import log_spaced, naive_polar, spectral_distance, with_spectrum

METHODS = [Svd(), GramEigh(), NewtonSchulz(polar_express(8)), GramNewtonSchulz(), Auto()]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)


@every_method
def test_autocast_does_not_reach_the_iteration(method):
    x = torch.randn(64, 64)
    expected = method(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(method(x), expected)


@every_method
@pytest.mark.parametrize("precision", ["high", "medium"])
def test_the_global_precision_of_products_is_put_aside(method, precision):
    """On a CPU with bfloat16 units "medium" would let a Gram iteration diverge."""
    x = torch.randn(256, 256)
    expected = method(x)
    torch.set_float32_matmul_precision(precision)
    try:
        assert torch.equal(method(x), expected)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("library", ["cuda", "mkldnn"])
def test_the_precision_of_one_library_is_put_aside(library):
    """Where it differs from that of others, torch's common setting cannot even be asked for."""
    settings = getattr(torch.backends, library).matmul
    x = torch.randn(64, 64)
    expected = GramNewtonSchulz()(x)
    before = settings.fp32_precision
    try:
        settings.fp32_precision = "tf32"
        with pytest.raises(RuntimeError):
            torch.get_float32_matmul_precision()
        assert torch.equal(GramNewtonSchulz()(x), expected)
        assert settings.fp32_precision == "tf32"
    finally:
        settings.fp32_precision = before
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("method", [NewtonSchulz(), GramNewtonSchulz()], ids=["standard", "gram"])
def test_autograd_goes_through_an_iteration(method):
    x = with_spectrum(log_spaced(3.0, 3), 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(method, (x,), atol=1e-5)


def test_function_transforms_go_through_the_default():
    x = torch.randn(3, 4, 5)
    assert spectral_distance(torch.vmap(Auto())(x)[1], Auto()(x[1])) < 1e-4
    _, tangent = torch.func.jvp(Auto(), (x,), (torch.zeros_like(x),))
    assert torch.equal(tangent, torch.zeros_like(x))


@pytest.mark.parametrize("n", [4, 32, 256])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gram_form_in_half_precision_does_not_overflow(n, dtype):
    """R has entries of order n and R² of order n³: beyond float16 at n = 40."""
    x = torch.ones(n, n)
    q = GramNewtonSchulz(polar_express(8), dtype)(x)
    assert spectral_distance(q, naive_polar(x)) < 0.1


def test_an_unsafe_pair_of_schedule_and_type_says_so():
    """Raw CANS coefficients diverge above 1, where bfloat16 rounding leaves a norm."""
    stated = NewtonSchulz(CANS, torch.bfloat16).accuracy(1, 4, torch.float32)
    assert stated.error > 1
    assert stated.upper > 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_complex_input_in_half_precision_is_computed_in_complex64(dtype):
    x = with_spectrum(log_spaced(2.0, 4), 4, 6, complex=True).to(torch.complex64)
    assert spectral_distance(NewtonSchulz(polar_express(8), dtype)(x), naive_polar(x)) < 1e-3


def test_the_digits_of_the_published_tables():
    """A second copy, so that a slip in either shows: 2.031 for 2.0315 has been seen."""
    assert YOU.coefficients == (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    )
    assert CANS.coefficients == (
        (8.4703, -25.1081, 18.6293),
        (4.1828, -3.1087, 0.5806),
        (3.9619, -2.9541, 0.5630),
        (3.2866, -2.4647, 0.5074),
        (2.2737, -1.6447, 0.4162),
    )
