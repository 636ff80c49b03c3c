"""polar(c·x) = polar(x) wherever c·x is representable, down to the denormal numbers."""

import math

import pytest
import torch

from steepest import polar

METHODS = {
    "svd": polar.Svd(),
    "eigh": polar.GramEigh(),
    "eigh32": polar.GramEigh(torch.float32, refine=1),
    "jordan": polar.NewtonSchulz(polar.JORDAN),
    "bfloat16": polar.NewtonSchulz(dtype=torch.bfloat16),
    "iteration": polar.NewtonSchulz(),
    "gram": polar.GramNewtonSchulz(),
    "gram8": polar.GramNewtonSchulz(polar.polar_express(8)),
    "gram16": polar.GramNewtonSchulz(dtype=torch.float16),
    "zolotarev": polar.Zolotarev(4, 8e-4),
    "one": polar.Zolotarev(1, 8e-4, degree=13),
    "auto": polar.Auto(error=0.05),
}
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]


def extremes(dtype):
    """Exponents of two at both ends of a type: in denormal steps, and of the largest numbers."""
    real = torch.finfo(dtype.to_real() if dtype.is_complex else dtype)
    smallest = round(math.log2(real.smallest_normal) + math.log2(real.eps))
    largest = math.frexp(real.max)[1] - 1
    return [smallest, smallest + 1, smallest + 3, smallest // 2, largest // 2, largest]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (5, 5), (1, 40), (2, 300)], ids=str)
def test_every_power_of_two_gives_the_same_factor(method, dtype, shape):
    # Entries ±1: each multiple by a power of two is exact, down to the smallest number there is.
    signs = torch.randn(shape, generator=torch.Generator().manual_seed(0)).sign().double()
    if dtype.is_complex:
        signs = signs + 1j * signs.flip(-1)
    expected = method(signs.to(dtype)).to(torch.complex128)
    eps = torch.finfo(dtype).eps
    for k in extremes(dtype):
        found = method((signs * 2.0**k).to(dtype)).to(torch.complex128)
        gap = torch.linalg.matrix_norm(found - expected, 2).item()
        assert gap <= 16 * eps, f"2^{k}: {gap:.1e}"
