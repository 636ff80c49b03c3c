"""Certificates against 45 digits: no end is ever on the wrong side, where rounding is all there is.

No tolerance anywhere: an interval holds the number, or the certificate lies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from steepest._common.numerics import epsilon, widened
from steepest.polar import Auto, Certificate, GramEigh, NewtonSchulz, Svd, certify
from tests.matrices import log_spaced, orthonormal, wide
from tests.polar.longer import certificate

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
SHAPES = ((2, 4), (3, 2), (3, 3))

# 45 digits take their time: of each test one round in the default profile, fifty in the nightly.
ROUNDS = range(settings.default.max_examples // 20)


def ends(found: Certificate, name: str) -> tuple[float, float]:
    lower, upper = getattr(found, name)
    return float(lower), float(upper)


def holds(x: Tensor, q: Tensor, resolution: float = 0.0) -> dict[bool, Certificate]:
    """The certificates by decomposition and by bounds, each of which holds the truth."""
    cutoff = max(x.shape) * epsilon(widened(x.dtype))
    truth, out = certificate(x, q, cutoff, resolution), {}
    for exact in (True, False)[: 1 if resolution else 2]:
        out[exact] = found = certify(x, q, exact=exact, resolution=resolution)
        assert found.exact is exact
        for name, number in truth.items():
            lower, upper = ends(found, name)
            assert lower <= number <= upper, (exact, name, lower, number, upper)
    return out


def factors(m: int, n: int, dtype: torch.dtype, seed: int) -> tuple[Tensor, Tensor]:
    """U and V with orthonormal columns in double precision."""
    kind = torch.complex128 if dtype.is_complex else torch.float64
    return orthonormal(m, min(m, n), kind, seed), orthonormal(n, min(m, n), kind, seed + 1)


def with_values(u: Tensor, v: Tensor, sigma: Tensor) -> Tensor:
    return (u * sigma.to(u.dtype)) @ v.mH


def uniform(count: int, seed: int) -> Tensor:
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rounds(values: tuple[float, ...], m: int) -> Iterator[tuple[int, float]]:
    """A seed and a value, of which each shape takes others first."""
    for seed in ROUNDS:
        for k in range(2):
            yield 2 * seed + k, values[(2 * seed + k + 3 * m) % len(values)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, (1, 3)], ids=str)
def test_a_factor_that_has_lost_a_direction(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """σ of q near √eps: its square is rounding of qqᴴ, and anything may come out as its root."""
    m, n = shape
    for seed, lost in rounds((1e-9, 5e-9, 1.5e-8, 3e-8, 6e-8, 1e-7), m):
        u, v = factors(m, n, dtype, 10 * seed)
        sigma, kept = 0.5 + uniform(min(m, n), seed), torch.ones(min(m, n), dtype=torch.float64)
        kept[-1] = lost
        x, q = with_values(u, v, sigma).to(dtype), with_values(u, v, kept)
        found = holds(x, q)
        # And it is seen: the distance is that of one direction in k.
        lower, upper = ends(found[False], "distance")
        assert upper - lower < 1e-9 < lower
        assert ends(found[False], "smallest")[1] < 1e-6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_matrix_at_the_edge_of_its_rank(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """σ around max(m, n)·eps·σ₁: which of the two ranks it has is rounding in double precision."""
    m, n = shape
    k, edge = min(m, n), max(m, n) * epsilon(dtype)
    for seed, share in rounds((0.3, 0.9, 0.999, 1.001, 1.1, 2.0, 6.0, 100.0), m):
        u, v = factors(m, n, dtype, 7 * seed)
        sigma = torch.ones(k, dtype=torch.float64)
        sigma[-1] = share * edge
        x = with_values(u, v, sigma).to(dtype)
        less = with_values(u[:, :-1], v[:, :-1], sigma[:-1])
        for q in (u @ v.mH, less - 0.5 * u[:, -1:] @ v[:, -1:].mH, Svd()(x)):
            holds(x, q)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("condition", [1e3, 1e6, 1e9, 1e12, 1e15])
def test_an_ill_conditioned_matrix(condition: float, dtype: torch.dtype) -> None:
    """Its factor is as vague as rounding of x leaves it, by decomposition as well."""
    for (m, n), (seed, kind) in product(SHAPES, enumerate(("one", "graded") * len(ROUNDS))):
        u, v = factors(m, n, dtype, m + 9 * seed)
        sigma = log_spaced(condition, min(m, n))
        if kind == "one":
            sigma = torch.where(sigma < 1, 1 / condition, sigma)
        x = with_values(u, v, sigma)
        if kind == "graded":
            x = sigma.to(u.dtype).unsqueeze(1) * x if m <= n else x * sigma.to(u.dtype)
        noise = torch.randn(m, n, dtype=dtype, generator=torch.Generator().manual_seed(n))
        for q in (u @ v.mH + 1e-3 * noise, Svd()(x)):
            holds(x, q)


SIZES = (5e-324, 1e-310, 1e-170, 1e-8, 1e8, 1e160, 1e300)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("of", ["q", "x", "both", "against"])
def test_any_size_of_either(size: float, of: str) -> None:
    """Nothing over- or underflows on the way; beyond the numbers an upper end is inf."""
    for complex_ in (False, True):
        dtype = torch.complex128 if complex_ else torch.float64
        u, v = factors(2, 3, dtype, 3)
        x, q = with_values(u, v, log_spaced(4.0, 2)), with_values(u, v, log_spaced(1.2, 2))
        x = x.sgn() if size == 5e-324 and of != "q" else x
        x = x * size if of in ("x", "both", "against") else x
        q = q * size if of in ("q", "both") else q / max(size, 1e-300) if of == "against" else q
        found = holds(x, q)
        if of in ("q", "both") and size >= 1e-170:
            for certificate in found.values():
                lower, upper = ends(certificate, "largest")
                assert size * (1 - 1e-12) < lower <= upper < size * (1 + 1e-12)
                lower, upper = ends(certificate, "distance")
                assert upper <= lower * (1 + 1e-12)


def test_an_infinite_orthogonality_has_a_finite_lower_end() -> None:
    q = 1e200 * torch.eye(2, 3, dtype=torch.float64)
    for exact in (True, False):
        lower, upper = ends(certify(q, q, exact=exact), "orthogonality")
        assert 1e308 < lower < math.inf == upper


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16, torch.bfloat16], ids=str)
def test_what_is_no_factor_at_all(dtype: torch.dtype) -> None:
    for m, n in ((2, 3), (3, 1)):
        u, v = factors(m, n, dtype, m + n)
        generator = torch.Generator().manual_seed(m)
        kind = torch.complex128 if dtype.is_complex else torch.float64
        noise = torch.randn(m, n, dtype=kind, generator=generator)
        rank_one = noise[:, :1] @ noise[:1]
        zero = torch.zeros(m, n, dtype=kind)
        for x in (noise, rank_one, with_values(u, v, log_spaced(30.0, min(m, n))), zero):
            for q in (zero, -(u @ v.mH), torch.ones_like(x)):
                holds(x.to(dtype), q.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("resolution", [1e-15, 1e-6, 0.1, 0.25, 0.5, 0.75])
def test_a_resolution_at_a_singular_value(resolution: float, dtype: torch.dtype) -> None:
    """Whether σ = resolution·σ₁ counts is rounding: the interval holds both."""
    sigma = torch.tensor([1.0, 0.5, 0.25, 1e-6, 1e-17], dtype=torch.float64)
    for m, n in ((5, 5), (6, 5)):
        u, v = factors(m, n, dtype, m)
        q = with_values(u, v, torch.tensor([1.0, 0.9, 1.1, 0.4, 0.3], dtype=torch.float64))
        holds(with_values(u, v, sigma).to(dtype), q, resolution)
        diagonal = torch.zeros(m, n, dtype=u.dtype)
        diagonal[:5, :5] = torch.diag(sigma)
        holds(diagonal.to(dtype), q, resolution)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "method", [Svd(), GramEigh(), Auto(error=0.05), NewtonSchulz()], ids=lambda m: type(m).__name__
)
def test_a_method_in_any_type(method: object, dtype: torch.dtype) -> None:
    for seed, (m, n) in enumerate(SHAPES):
        x = with_values(*factors(m, n, dtype, seed), log_spaced(20.0, min(m, n))).to(dtype)
        found = holds(x, method(x))
        for exact in found.values():
            lower, upper = ends(exact, "distance")
            # Of an iteration 1e-5 relatively; of what is off by rounding alone, rounding.
            assert upper - lower <= 1e-5 * upper + 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("exact", [True, False])
def test_intervals_of_good_factors_are_narrow(exact: bool, dtype: torch.dtype) -> None:
    """Less than 1e-5 relatively, where directions are right and where they turn."""
    x = torch.randn(150, 180, dtype=dtype, generator=torch.Generator().manual_seed(5))
    u, _, vh = torch.linalg.svd(wide(x), full_matrices=False)
    single = Svd() if dtype == torch.float32 else GramEigh(torch.float32)
    for method in (Auto(error=0.05), NewtonSchulz(), single):
        q = wide(method(x))
        found = certify(x, q, exact=exact)
        distance = float((q - u @ vh).norm()) / 150**0.5
        lower, upper = ends(found, "distance")
        assert lower - 1e-13 <= distance <= upper + 1e-13
        for name in ("distance", "orthogonality", "smallest", "largest", "alignment"):
            lower, upper = ends(found, name)
            assert upper - lower < 1e-5 * upper, name
