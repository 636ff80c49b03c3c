"""One suite for every polar method: a new method is one line in METHODS."""

import inspect
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import steepest.polar
from steepest._common.numerics import epsilon, unit_scale
from steepest.polar import (
    CANS,
    JORDAN,
    JORDAN_POLISHED,
    Auto,
    GramEigh,
    GramNewtonSchulz,
    NewtonSchulz,
    PolarMethod,
    Svd,
    Zolotarev,
    design_schedule,
    polar_express,
)
from steepest.testing import polar as laws
from tests.matrices import log_spaced, naive_polar, spectral_distance, wide, with_spectrum

METHODS = {
    "svd": Svd(),
    "gram_eigh": GramEigh(),
    "gram_eigh_single": GramEigh(torch.float32),
    "gram_eigh_refined": GramEigh(torch.float32, refine=1),
    "zolotarev": Zolotarev(4, 1e-3),
    "zolotarev_polynomial": Zolotarev(1, 1e-3, degree=13),
    "zolotarev_short": Zolotarev(1, 2e-3, tight=True, degree=9),
    "zolotarev_refined": Zolotarev(7, 1e-3, refine=1),
    "zolotarev_wide": Zolotarev(13, 1e-5),
    "newton_schulz": NewtonSchulz(polar_express(8)),
    "newton_schulz_jordan_bf16": NewtonSchulz(JORDAN, torch.bfloat16),
    "gram_newton_schulz": GramNewtonSchulz(polar_express(8)),
    "gram_jordan_polished": GramNewtonSchulz(JORDAN_POLISHED),
    "gram_cans": GramNewtonSchulz(CANS),
    "gram_half": GramNewtonSchulz(
        design_schedule(lower=1e-3, error=0.05, safety=1.05), torch.float16
    ),
    "gram_designed": GramNewtonSchulz(design_schedule(lower=5e-4, error=0.05)),
    "auto": Auto(error=0.05),
    "auto_fine": Auto(error=3e-3),
}
EXACT = ("svd", "gram_eigh")
HALF = (torch.float16, torch.bfloat16)
DTYPES = (*HALF, torch.float32, torch.float64, torch.complex64, torch.complex128)
SHAPES = ((1, 1), (1, 7), (7, 1), (4, 4), (5, 16), (16, 5), (32, 32), (24, 96))

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
exact_method = pytest.mark.parametrize("method", [METHODS[k] for k in EXACT], ids=EXACT)


def usable(method, m, n, dtype):
    """The method's promise; Auto(3e-3) rightly refuses bfloat16."""
    try:
        return method.accuracy(m, n, dtype)
    except ValueError:
        assert method == METHODS["auto_fine"] and dtype in HALF
        pytest.skip("no method keeps this error in this type")


def coarse(method):
    """Whether it computes in half precision."""
    return getattr(method, "dtype", None) in HALF


def singular_values(q):
    return torch.linalg.svdvals(wide(q))


def test_the_table_is_complete():
    public = {
        cls
        for _, cls in inspect.getmembers(steepest.polar, inspect.isclass)
        if issubclass(cls, PolarMethod) and cls is not PolarMethod
    }
    assert {type(m) for m in METHODS.values()} == public


@every_method
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accuracy_is_as_stated(method, dtype):
    """σ ≥ resolution·σ₁ within `error` of 1, smaller ones damped, none above `upper`."""
    for m, n in SHAPES:
        assert usable(method, m, n, dtype).upper < 1.4
        laws.keeps_its_word(method, m, n, dtype)


@every_method
@pytest.mark.parametrize("shape", [(12, 12), (8, 40), (40, 8)], ids=str)
def test_direction_is_that_of_the_polar_factor(method, shape):
    """Singular vectors, not only values: the distance is the error of the singular values."""
    m, n = shape
    stated = method.accuracy(m, n, torch.float32)
    condition = min(20.0, 0.9 / stated.resolution)
    x = with_spectrum(log_spaced(condition, min(m, n)), m, n).float()
    expected = naive_polar(x, cutoff=1e-6)
    # The Gram matrix turns singular vectors by eps·condition² at most, half precision by more.
    turned = stated.backward * condition + 2e-7 * condition**2 + (0.06 if coarse(method) else 1e-4)
    assert spectral_distance(method(x), expected) <= stated.error + turned


@every_method
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=max(1, settings.default.max_examples // 10))
@given(exponent=st.integers(-120, 120), seed=st.integers(0, 1000))
def test_scale_free(method, dtype, exponent, seed):
    """polar(c·x) == polar(x), bit for bit for a power of two."""
    usable(method, 4, 6, dtype)
    limits = {torch.float16: (-2, 8)}  # entries of 1/8 … 1 must stay normal numbers
    low, high = limits.get(dtype, (-110, 110))
    c = 2.0 ** max(low, min(high, exponent))
    x = with_spectrum(log_spaced(3.0, 4), 4, 6, seed=seed, complex=dtype.is_complex).to(dtype)
    laws.ignores_scale(method, x, c)


def slope(method):
    """How many times a change of σ₁ = 1 is amplified."""
    if not hasattr(method, "schedule"):
        return 0.0
    a, b = method.schedule(torch.tensor([1.0, 1 - 1e-6], dtype=torch.float64)).tolist()
    return abs(a - b) / 1e-6


@every_method
@pytest.mark.parametrize("c", [1e-30, 1e-20, 1e-10, 1e10, 1e20, 1e30])
def test_tiny_and_huge_gradients_are_orthogonalised(method, c):
    """Below ‖G‖ = eps other implementations return the gradient itself; above, inf."""
    x = with_spectrum(log_spaced(1.0, 6), 6, 9).float()
    stated = method.accuracy(6, 9, torch.float32)
    expected = singular_values(method(x))
    out = singular_values(method(c * x))
    # c·x is rounded anew; half-precision arithmetic sees that, and a schedule that is steep at 1.
    rounding = 0.05 if coarse(method) else 1e-4 + 1e-6 * slope(method)
    assert float((out - expected).abs().max()) < rounding
    assert float(out.min()) > 1 - stated.error - rounding


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_the_least_number_of_a_type(dtype):
    """Subnormal entries: their inverse is not representable in one factor."""
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    x = torch.eye(3, dtype=dtype) * least
    assert float(x.max()) > 0
    torch.testing.assert_close(Svd()(x), torch.eye(3, dtype=dtype))


@given(st.floats(2.0**-148, torch.finfo(torch.float32).max, width=32), st.booleans())
def test_unit_scale_is_an_exact_power_of_two(value, negative):
    x = torch.tensor([[-value if negative else value, 0.0]], dtype=torch.float32)
    scaled = unit_scale(x)
    ratio = Fraction(float(scaled[0, 0])) / Fraction(float(x[0, 0]))
    low = 0.5 if value >= 2.0**-126 else 2.0**-24
    high = 1 if value < 2.0**126 else 4
    assert low <= abs(float(scaled[0, 0])) < high
    power = ratio.numerator * ratio.denominator
    assert power & (power - 1) == 0


@every_method
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zero_gives_zero(method, dtype):
    shapes = [(0, 3), (2, 0, 4), (3, 3), (2, 5), (5, 2), (2, 3, 4)]  # a refusal comes last
    for shape in shapes:
        if 0 not in shape:
            usable(method, *shape[-2:], dtype)
        laws.maps_zero_to_zero(method, shape, dtype)


@every_method
def test_a_zero_matrix_in_a_batch_does_not_disturb_the_others(method):
    x = torch.stack([with_spectrum(log_spaced(2.0, 3), 3, 5).float(), torch.zeros(3, 5)])
    q = method(x)
    assert torch.equal(q[1], x[1])
    assert spectral_distance(q[0], method(x[0])) < 1e-5


@every_method
@pytest.mark.parametrize("shape", [(16, 16), (12, 40), (40, 12)], ids=str)
@pytest.mark.parametrize("rank", [1, 3])
def test_rank_deficient_gives_a_partial_isometry(method, shape, rank):
    """The other singular values stay small; a rank-1 gradient keeps its sign."""
    m, n = shape
    x = with_spectrum(torch.ones(rank, dtype=torch.float64), m, n).float()
    stated = method.accuracy(m, n, torch.float32)
    q = method(x)
    out = singular_values(q)
    assert float((out[:rank] - 1).abs().max()) <= stated.error
    # Rounding of the input is at 1e-7·σ₁; whatever it is amplified by, it stays noise. In half
    # precision it is at 5e-4 or 4e-3·σ₁: such a method resolves it as if it were signal.
    if not coarse(method):
        assert float(out[rank]) < (1e-4 if method in (Svd(), GramEigh()) else 0.03)
    assert float((x * q).sum()) > 0.5 * rank


@pytest.mark.parametrize(
    "name",
    [
        "gram_newton_schulz",
        "gram_designed",
        "gram_jordan_polished",
        "auto",
        "zolotarev",
        "zolotarev_polynomial",
    ],
)
@pytest.mark.parametrize("shape", [(256, 256), (128, 512), (768, 768)], ids=str)
def test_rank_one_does_not_blow_up_in_gram_form(name, shape):
    """Without restarts a rounding error of −1e-7 in an eigenvalue grows beyond all bounds."""
    x = with_spectrum(torch.ones(1, dtype=torch.float64), *shape).float()
    out = singular_values(METHODS[name](x))
    assert float((out[0] - 1).abs()) < 0.05
    # What rounding adds to x, in half precision, is resolved to this share.
    stated = METHODS[name].accuracy(*shape, x.dtype)
    assert float(out[1]) < max(0.05, stated.backward / stated.resolution)


@exact_method
@given(seed=st.integers(0, 100), rank=st.integers(1, 5))
def test_exact_methods_ignore_noise_below_the_cutoff(method, seed, rank):
    """Rounding noise differs from one process layout to the next; the result must not."""
    x = with_spectrum(torch.ones(rank, dtype=torch.float64), 12, 20, seed=seed).float()
    noise = torch.randn(12, 20, generator=torch.Generator().manual_seed(seed))
    disturbed = x + noise * 1e-9
    assert spectral_distance(method(x), method(disturbed)) < 1e-4
    assert round(float(singular_values(method(disturbed)).sum())) == rank


@exact_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@given(seed=st.integers(0, 1000))
def test_exact_methods_equal_the_definition(method, dtype, seed):
    double = dtype in (torch.float64, torch.complex128)
    condition = 1e3
    x = with_spectrum(log_spaced(condition, 6), 6, 11, seed=seed, complex=dtype.is_complex).to(
        dtype
    )
    # GramEigh in float64 squares the condition number of float64 input.
    tolerance = 1e-9 if double else 30 * condition * epsilon(dtype)
    assert spectral_distance(method(x), naive_polar(x)) < tolerance


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
def test_input_is_neither_written_nor_shared(method, dtype):
    usable(method, 4, 4, dtype)
    for x in (torch.eye(4, dtype=dtype), with_spectrum(log_spaced(2.0, 4), 4, 4).to(dtype)):
        laws.leaves_its_input_alone(method, x)


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128], ids=str)
@pytest.mark.parametrize("batch", [(3,), (2, 2)], ids=str)
def test_a_batch_is_its_members(method, dtype, batch):
    x = torch.randn(*batch, 5, 8, dtype=dtype)
    # Sums in another order are rounded elsewhere.
    laws.batches(method, x, 0.02 if coarse(method) else 2e-3)


@every_method
def test_several_stacks_at_once_are_each_by_itself(method):
    shapes = [(2, 6, 9), (6, 6), (3, 12, 6), (0, 6, 7), (4, 5), (1, 6, 9)]
    generator = torch.Generator().manual_seed(0)
    xs = [torch.randn(s, generator=generator) for s in shapes]
    xs[-1] = xs[-1].double()
    together = method.factors(xs)
    for x, q in zip(xs, together, strict=True):
        assert q.shape == x.shape and q.dtype == x.dtype
        if x.numel():
            for a, b in zip(
                q.reshape(-1, *x.shape[-2:]), method(x).reshape(-1, *x.shape[-2:]), strict=True
            ):
                # 60·eps of float16 is what any of its directions may turn.
                assert spectral_distance(a, b) < (0.06 if coarse(method) else 2e-3)


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_transposition_commutes(method, dtype):
    x = torch.randn(6, 13, dtype=dtype)
    laws.commutes_with_transposition(method, x)
    assert spectral_distance(method(x.mT), method(x).mT) < 1e-5


@every_method
def test_non_contiguous_input(method):
    x = torch.randn(3, 9, 6)
    assert spectral_distance(method(x.transpose(1, 2)[0]), method(x[0].T.contiguous())) < 1e-5


@every_method
def test_repr_tells_methods_apart(method):
    """The text is what a checkpoint compares."""
    assert sum(repr(other) == repr(method) for other in METHODS.values()) == 1


@every_method
@pytest.mark.parametrize(
    "bad", [torch.ones(3), torch.ones(2, 2, dtype=torch.int64)], ids=["1d", "int"]
)
def test_what_is_no_matrix_is_refused(method, bad, unchecked):
    with pytest.raises(ValueError, match="floating-point or complex matrices"):
        method(bad)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bfloat16])
def test_gram_eigh_in_a_type_without_eigh(dtype):
    with pytest.raises(ValueError, match="dtype="):
        GramEigh(dtype)


@pytest.mark.parametrize("cls", [NewtonSchulz, GramNewtonSchulz])
def test_iterations_in_a_type_that_is_no_float(cls):
    with pytest.raises(ValueError, match="dtype="):
        cls(JORDAN, torch.int64)


@pytest.mark.parametrize("schedule", [polar_express(8), JORDAN], ids=lambda s: s.name)
def test_gram_form_equals_the_standard_form(schedule):
    """x·q(x²) is the composed polynomial: one normalisation, two orders of multiplication."""
    x = with_spectrum(log_spaced(100.0, 10), 10, 30)
    r = x @ x.T
    c = (r * (r @ r)).sum() / r.square().sum()
    bound = c / 2 + (c**2 / 4 + torch.linalg.matrix_norm(r @ r - c * r)).sqrt()
    normalised = x / bound.sqrt()
    u, s, vh = torch.linalg.svd(normalised, full_matrices=False)
    expected = (u * schedule(s)) @ vh
    assert spectral_distance(GramNewtonSchulz(schedule)(x), expected) < 1e-4
    u, s, vh = torch.linalg.svd(x / x.norm(), full_matrices=False)
    assert spectral_distance(NewtonSchulz(schedule)(x), (u * schedule(s)) @ vh) < 1e-12
