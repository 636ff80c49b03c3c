"""Factors in half precision: what is promised of singular values and of directions."""

import pytest
import torch

from steepest._common.numerics import epsilon
from steepest.polar import (
    JORDAN_POLISHED,
    Auto,
    CostTable,
    GramNewtonSchulz,
    design_schedule,
    polar_express,
)
from steepest.polar._noise import HALF_NOISE, SMALL_HALF_NOISE, safe_segments
from steepest.polar._scale import overestimate
from steepest.polar.candidates import HALF_DEGREES, ROOM
from steepest.polar.tables import table_of
from tests.matrices import log_spaced, naive_polar, with_spectrum
from tests.polar.units import KINDS, emulated

HOST = torch.device("cpu")
FAST = {
    kind: CostTable(product=((1, 1.0), (2, 8.0)), **{str(kind)[6:]: ((1, 0.1), (2, 0.8))})
    for kind in KINDS
}
"""Tables of processors on which one type is ten times as fast as float32."""
SHAPES = [(1, 1), (2, 2), (4, 4), (16, 64), (48, 48), (64, 256), (256, 256), (200, 500)]


def fast(kind, *, error=0.05):
    return Auto(error=error, table=FAST[kind])


def designed(kind, m, *, tight=True, resolution=3e-3, degree=5):
    lower = resolution / overestimate(m, tight=tight)
    room = ROOM[kind, degree]._asdict()
    schedule = design_schedule(lower=lower, error=0.035, degree=degree, **room)
    return GramNewtonSchulz(schedule, kind, tight=tight)


def singular_values(q):
    return torch.linalg.svdvals(q.double())


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, *KINDS], ids=str)
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_the_choice_of_a_fast_type_keeps_its_promise(m, n, dtype, kind):
    """Relative error at most 0.06 at condition number 300."""
    x = with_spectrum(log_spaced(300.0, min(m, n)), m, n).to(dtype)
    method = fast(kind).choose(m, n, dtype, HOST)
    q, types = emulated(method, x)
    assert types == {kind}
    assert q.dtype == dtype
    exact = naive_polar(x)
    assert float((q.double() - exact).norm() / exact.norm()) <= 0.06
    stated = method.accuracy(m, n, dtype)
    assert stated.error <= 0.05
    assert float((singular_values(q) - 1).abs().max()) <= stated.error


def two_levels(shape, sigma, count, vectors, seed):
    """A matrix with `count` singular values 1 and the others sigma, and its polar factor."""
    generator = torch.Generator().manual_seed(seed)
    m, n = shape
    u = torch.randn(m, m, dtype=torch.float64, generator=generator)
    if vectors == "ones":
        u[:, 0] = 1
    u = torch.eye(m, dtype=torch.float64) if vectors == "diagonal" else torch.linalg.qr(u)[0]
    v = torch.linalg.qr(torch.randn(n, m, dtype=torch.float64, generator=generator))[0]
    values = torch.full((m,), sigma, dtype=torch.float64)
    values[:count] = 1
    return ((u * values) @ v.mT).float(), u @ v.mT


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("m", [3, 16, 40])
@pytest.mark.parametrize("vectors", ["random", "ones", "diagonal"])
@pytest.mark.parametrize(("rows", "tight"), [(256, False), (64, True), (7168, True), (7168, 2)])
@pytest.mark.parametrize("degree", HALF_DEGREES)
def test_what_is_stated_holds_for_spectra_of_two_levels(kind, m, vectors, rows, tight, degree):
    """The worst for rounding: what is large is many, the rest at the resolution, or where a first
    step sends it to the bottom. The schedule is the one for matrices with so many `rows`.
    """
    method = designed(kind, rows, tight=tight, degree=degree)
    stated = method.accuracy(m, m, torch.float32)
    sigmas = [*torch.arange(0.3, 0.9, 0.02).tolist(), 3.1e-3, 0.01, 0.03, 0.1, 0.2]
    cases = [(s, c) for s in sigmas for c in sorted({1, m // 2, m - 1})]
    for shape in ((m, m), (m, 2 * m)):
        made = [two_levels(shape, s, c, vectors, k) for k, (s, c) in enumerate(cases)]
        x, exact = (torch.stack(each) for each in zip(*made, strict=True))
        q, types = emulated(method, x)
        assert types == {kind}
        off = singular_values(q) - 1
        assert float(off.abs().max()) <= stated.error
        # A direction with σ is off by its stretching and by its turn.
        turns = torch.linalg.matrix_norm(q.double() - exact, 2)
        levels = torch.tensor([s for s, _ in cases], dtype=torch.float64)
        single = max(map(len, method._steps[kind])) == 1
        any_turn = (8 if single else 60) * epsilon(kind)
        assert bool((turns <= stated.error + stated.backward / levels + any_turn).all())


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("degree", HALF_DEGREES)
def test_nothing_below_the_resolution_is_amplified(kind, seed, degree):
    sigma = torch.cat([log_spaced(300.0, 20), torch.logspace(-3, -7, 20).double(), torch.zeros(24)])
    x = with_spectrum(sigma.double(), 64, 128, seed=seed).float()
    method = designed(kind, 64, degree=degree)
    q, _ = emulated(method, x)
    assert float(singular_values(q).max()) <= method.accuracy(64, 128, torch.float32).upper


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("n", [4, 200])
@pytest.mark.parametrize("degree", HALF_DEGREES)
def test_the_range_of_the_type_is_never_left(kind, scale, n, degree):
    """All ones: entries of XXᴴ grow with n; the identity: they are small beside ‖X‖_F²."""
    method = designed(kind, n, degree=degree)
    for x in (torch.ones(n, n), torch.eye(n), torch.zeros(n, n)):
        q, _ = emulated(method, x * scale)
        assert float((q - naive_polar(x)).norm()) <= 0.05 * n**0.5


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_it_runs_without_emulation_as_well(kind):
    """However slowly: the kernels of this processor keep the promise."""
    x = with_spectrum(log_spaced(300.0, 24), 24, 40).float()
    method = designed(kind, 24)
    with torch.no_grad():
        q = method(x)
    stated = method.accuracy(24, 40, torch.float32)
    assert float((singular_values(q) - 1).abs().max()) <= stated.error
    again = method(x.clone().requires_grad_()).detach()
    assert float((q - again).norm()) <= (stated.error + 100 * stated.backward) * 24**0.5


def test_single_precision_input_is_not_rounded_where_it_is_small():
    """The first linear coefficient acts on x itself, not on a bfloat16 copy."""
    x = with_spectrum(log_spaced(300.0, 48), 48, 192).float()
    exact = naive_polar(x)
    method = designed(torch.bfloat16, 48)
    errors = [
        float((emulated(method, y)[0].double() - exact).norm() / exact.norm())
        for y in (x, x.bfloat16().float())
    ]
    assert errors[0] < 0.035 < errors[1]


def test_a_finer_error_goes_back_to_single_precision():
    x = with_spectrum(log_spaced(300.0, 64), 64, 64).float()
    q, types = emulated(fast(torch.bfloat16, error=1e-3).choose(64, 64, torch.float32, HOST), x)
    assert types == {torch.float32}
    assert float((q.double() - naive_polar(x)).abs().max()) < 1e-3


def test_a_finer_resolution_goes_back_to_single_precision():
    """Directions of σ = 1e-4 would be anything."""
    for kind in KINDS:
        method = Auto(resolution=1e-4, table=FAST[kind]).choose(64, 64, torch.float32, HOST)
        assert method.dtype is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64], ids=str)
def test_wider_input_is_never_computed_in_half_precision(dtype):
    for kind in KINDS:
        assert fast(kind).choose(64, 64, dtype, HOST).dtype is None


def test_a_table_says_whether_half_precision_is_worth_it():
    accelerator = table_of("cuda-fp16", several=True)
    assert Auto(table=accelerator).choose(64, 64, torch.float32, HOST).dtype == torch.float16
    slow = CostTable(product=((1, 1.0), (2, 8.0)), bfloat16=((1, 1.0), (2, 8.0)))
    assert Auto(table=slow).choose(64, 64, torch.float32, HOST).dtype is None


@pytest.mark.parametrize("dtype", KINDS, ids=str)
@pytest.mark.parametrize("large", [1, 12, 48, 95])
def test_the_noise_of_a_gram_matrix(dtype, large):
    """What the promise rests on: how far rounding moves eigenvalues, and small ones."""
    m = 96
    sigma = torch.full((m,), 1e-4, dtype=torch.float64)
    sigma[:large] = torch.linspace(0.5, 1, large)
    x = with_spectrum(sigma, m, 2 * m).to(dtype).double()
    exact = x @ x.mT
    noise = exact.to(dtype).double() - exact
    values, vectors = torch.linalg.eigh(exact)
    small = vectors[:, : m - large]
    size = epsilon(dtype) * float(values[-1])
    assert float(torch.linalg.matrix_norm(noise, 2)) <= HALF_NOISE * size
    assert float(torch.linalg.matrix_norm(small.mT @ noise @ small, 2)) <= SMALL_HALF_NOISE * size


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_without_a_restart_it_would_not_hold(kind):
    """Two steps on a Gram matrix that knows σ² no better than rounding does: they diverge."""
    schedule = polar_express(6)
    own = safe_segments(schedule, epsilon(kind))
    assert own == {torch.float16: (1, 1, 1, 1, 2), torch.bfloat16: (1,) * 6}[kind]
    cases = [(s, k) for k in range(16) for s in torch.arange(0.45, 0.7, 0.02).tolist()]
    x = torch.stack([two_levels((40, 80), s, 20, "random", k)[0] for s, k in cases])
    for segments, (low, high) in ((None, (0.0, 1.05)), ((1, 2, 2, 1), (1.2, float("inf")))):
        q, _ = emulated(GramNewtonSchulz(schedule, kind, segments), x)
        assert low < float(singular_values(q.nan_to_num(9.0, 9.0, 9.0)).max()) < high


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("steps", [5, 6, 8])
def test_a_published_schedule_states_what_it_does(kind, steps):
    method = GramNewtonSchulz(polar_express(steps), kind)
    x = with_spectrum(log_spaced(300.0, 32), 32, 64).float()
    stated = method.accuracy(32, 64, torch.float32)
    assert stated.error < 0.2
    assert float((singular_values(emulated(method, x)[0]) - 1).abs().max()) <= stated.error


def test_a_published_schedule_may_run_in_half_precision():
    x = with_spectrum(log_spaced(30.0, 48), 48, 96).float()
    q, _ = emulated(GramNewtonSchulz(JORDAN_POLISHED, torch.float16), x)
    assert float((singular_values(q) - 1).abs().max()) < 0.1


@pytest.mark.parametrize("segments", [(2, 2), (5, 0), (6,), (), (-1, 6)])
def test_segments_must_add_up_to_the_steps(segments):
    with pytest.raises(ValueError, match=r"segments=.*sum is 5"):
        GramNewtonSchulz(segments=segments)
