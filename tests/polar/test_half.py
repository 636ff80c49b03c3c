"""An accelerator's matrix units, emulated: factors in half precision, sums in float32, rounded."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from steepest._common.numerics import epsilon
from steepest.polar import JORDAN_POLISHED, Auto, CostTable, GramNewtonSchulz, design_schedule
from steepest.polar._rounding import HALF_NOISE, gram_noise
from steepest.polar.choose import HALF_SAFETY
from steepest.polar.iterate import segments
from steepest.polar.tables import ACCELERATED
from tests.matrices import log_spaced, naive_polar, with_spectrum

CUDA = torch.device("cuda")
SHAPES = [(1, 1), (4, 4), (16, 64), (48, 48), (64, 256), (256, 256), (200, 500)]
KINDS = (torch.float16, torch.bfloat16)
aten = torch.ops.aten
PRODUCTS = (aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default)


class MatrixUnits(TorchDispatchMode):
    """Products of halves by float32 sums, rounded once; says which types it has multiplied."""

    def __init__(self):
        super().__init__()
        self.types = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func not in PRODUCTS:
            return func(*args, **kwargs)
        dtype = args[0].dtype
        self.types.add(dtype)
        if dtype not in KINDS:
            return func(*args, **kwargs)
        return func(*(a.float() for a in args), **kwargs).to(dtype)


def chosen(m, n, *, error=0.05, dtype=torch.float32):
    """What an accelerator runs by default."""
    return Auto(error=error).choose(m, n, dtype, CUDA)


def emulated(method, x):
    with MatrixUnits() as units:
        q = method(x)
    return q, units.types


def singular_values(q):
    return torch.linalg.svdvals(q.double())


@pytest.mark.parametrize(("m", "n"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, *KINDS], ids=str)
def test_the_accelerators_choice_keeps_its_promise(m, n, dtype):
    """Relative error at most 0.05 at condition number 300, which float32 input has below 0.015."""
    x = with_spectrum(log_spaced(300.0, min(m, n)), m, n).to(dtype)
    method = chosen(m, n, dtype=dtype)
    q, types = emulated(method, x)
    assert types == {torch.float16}
    assert q.dtype == dtype
    exact = naive_polar(x)
    error = float((q.double() - exact).norm() / exact.norm())
    assert error <= (0.02 if dtype == torch.float32 else 0.05)
    stated = method.accuracy(m, n, dtype)
    assert stated.error <= 0.05
    assert float((singular_values(q) - 1).abs().max()) <= stated.error


@pytest.mark.parametrize("seed", range(3))
def test_nothing_below_the_resolution_is_amplified(seed):
    sigma = torch.cat([log_spaced(300.0, 20), torch.logspace(-3, -7, 20).double(), torch.zeros(24)])
    x = with_spectrum(sigma.double(), 64, 128, seed=seed).float()
    method = chosen(64, 128)
    q, _ = emulated(method, x)
    assert float(singular_values(q).max()) <= method.accuracy(64, 128, torch.float32).upper


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("n", [4, 300])
def test_the_range_of_float16_is_never_left(scale, n):
    """All ones: entries of XXᴴ grow with n; the identity: they are small beside ‖X‖_F²."""
    for x in (torch.ones(n, n), torch.eye(n), torch.zeros(n, n)):
        q, _ = emulated(chosen(n, n), x * scale)
        assert float((q - naive_polar(x)).norm()) <= 0.05 * n**0.5


def test_a_finer_error_goes_back_to_single_precision():
    x = with_spectrum(log_spaced(300.0, 64), 64, 64).float()
    q, types = emulated(chosen(64, 64, error=1e-3), x)
    assert types == {torch.float32}
    assert float((q.double() - naive_polar(x)).abs().max()) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64], ids=str)
def test_wider_input_is_never_computed_in_half_precision(dtype):
    assert chosen(64, 64, dtype=dtype).dtype is None


def test_a_table_says_whether_half_precision_is_worth_it():
    slow = CostTable(product=ACCELERATED, float16=ACCELERATED)
    for table in (slow, CostTable(product=ACCELERATED)):
        assert Auto(table=table).choose(64, 64, torch.float32, CUDA).dtype is None
    assert chosen(64, 64).dtype == torch.float16


@pytest.mark.parametrize("dtype", KINDS, ids=str)
@pytest.mark.parametrize("spectrum", ["flat", "log", "one"])
def test_the_noise_of_a_gram_matrix(dtype, spectrum):
    """What the promise rests on: eigenvalues off by at most eps·λ₁."""
    m = 96
    sigma = {"flat": torch.ones(m), "log": log_spaced(300.0, m), "one": torch.ones(1)}[spectrum]
    x = with_spectrum(sigma.double(), m, 2 * m).to(dtype).double()
    exact = x @ x.mT
    rescaled = (exact.to(dtype).double() / 3).to(dtype).double()
    off = torch.linalg.eigvalsh(rescaled - exact / 3).abs().max() * 3
    assert float(off) <= HALF_NOISE * epsilon(dtype) * float(sigma.max()) ** 2
    assert gram_noise(epsilon(dtype)) == HALF_NOISE * epsilon(dtype)


def test_without_a_restart_it_would_not_hold():
    """Six steps on one Gram matrix in float16: its negative eigenvalues take over."""
    schedule = design_schedule(lower=1e-3, error=0.05, safety=HALF_SAFETY)
    eps = epsilon(torch.float16)
    assert [len(part) for part in segments(schedule, eps)] == [2, 2, 2]
    x = with_spectrum(log_spaced(300.0, 64), 64, 64).half()
    r, q = x @ x.mT, torch.eye(64)
    r = r / torch.linalg.matrix_norm(r @ r).sqrt()
    for a, b, c in schedule.folded:
        z = (a * torch.eye(64) + b * r + c * (r @ r).float()).half()
        q, r = (q.half() @ z).float(), z @ r.half() @ z
    assert not float((q @ x.float()).norm()) < 2 * 64**0.5


def test_bfloat16_is_no_match_for_the_default():
    """Eight times as coarse: a method that says so, and is not chosen."""
    schedule = chosen(64, 64).schedule
    x = with_spectrum(log_spaced(300.0, 64), 64, 64).float()
    method = GramNewtonSchulz(schedule, torch.bfloat16)
    stated = method.accuracy(64, 64, torch.float32)
    q, types = emulated(method, x)
    assert types == {torch.bfloat16}
    assert stated.resolution > Auto().resolution
    assert 0.05 < stated.error < 0.2
    assert float((singular_values(q) - 1).abs().max()) <= stated.error


def test_a_published_schedule_may_run_in_half_precision():
    x = with_spectrum(log_spaced(30.0, 48), 48, 96).float()
    q, _ = emulated(GramNewtonSchulz(JORDAN_POLISHED, torch.float16), x)
    assert float((singular_values(q) - 1).abs().max()) < 0.1
