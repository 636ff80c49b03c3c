"""The laws in the docstring of `PolarMethod`, and its stated accuracy, for a method of your own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steepest._common.numerics import HALF, in_double
from steepest.polar import PolarMethod
from steepest.testing._tensors import assert_true, on

SHAPES = ((1, 1), (1, 7), (7, 1), (4, 4), (5, 16), (16, 5), (32, 32), (24, 96))
DTYPES = (*HALF, torch.float32, torch.float64, torch.complex64, torch.complex128)


def orthonormal(rows: int, cols: int, dtype: torch.dtype, seed: int) -> Tensor:
    """A random rows × cols matrix with orthonormal columns, cols ≤ rows."""
    generator = torch.Generator().manual_seed(seed)
    q: Tensor = torch.linalg.qr(torch.randn(rows, cols, generator=generator, dtype=dtype))[0]
    return q


def with_spectrum(sigma: Tensor, m: int, n: int, *, seed: int = 0, complex: bool = False) -> Tensor:
    """An m × n matrix in double precision with the singular values `sigma`, at most min(m, n)."""
    dtype = torch.complex128 if complex else torch.float64
    u = orthonormal(m, len(sigma), dtype, seed)
    v = orthonormal(n, len(sigma), dtype, seed + 1)
    return (u * sigma.to(dtype)) @ v.mH


def log_spaced(condition: float, count: int) -> Tensor:
    """`count` singular values from 1 down to 1/condition."""
    if count == 1:
        return torch.ones(1, dtype=torch.float64)
    return condition ** -torch.linspace(0, 1, count, dtype=torch.float64)


def spectral_distance(a: Tensor, b: Tensor) -> float:
    """The spectral norm of a − b."""
    return float(torch.linalg.matrix_norm(in_double(a) - in_double(b), ord=2))


def resolved(x: Tensor, q: Tensor, resolution: float) -> tuple[float, float]:
    """Bounds on the singular values of q in the directions of x that a method resolves.

    Rounding to a half type changes a spectrum: these are those of what the method got. Near the
    edge of their subspace rounding mixes vectors, and those of σ are known to eps·σ₁/σ only. A part
    of q on any of them is not larger than q's values there, and as many values of q as there are
    directions are not smaller.
    """
    u, actual, vh = torch.linalg.svd(in_double(x), full_matrices=False)
    everything = float(actual[-1]) >= resolution * float(actual[0])
    kept = actual >= (0 if everything else 30 * resolution) * actual[0]
    if not bool(kept.any()):
        return 1.0, 1.0
    low = float(torch.linalg.svdvals(in_double(q))[int(kept.sum()) - 1])
    inside = u[:, kept].mH @ in_double(q) @ vh[kept].mH
    return low, float(torch.linalg.svdvals(inside)[0])


def keeps_its_word(polar: PolarMethod, m: int, n: int, dtype: torch.dtype) -> None:
    """σ ≥ resolution·σ₁ within `error` of 1, smaller ones damped, none above `upper`."""
    stated = polar.accuracy(m, n, dtype)
    assert_true(0 < stated.resolution <= 1, "0 < resolution <= 1")
    for condition in (1.0, 1 / stated.resolution, 1e5, 1e12):
        sigma = log_spaced(condition, min(m, n))
        x = with_spectrum(sigma, m, n, complex=dtype.is_complex).to(dtype)
        q = polar(x)
        largest = float(torch.linalg.svdvals(in_double(q))[0])
        case = f"{m}×{n} {dtype}, condition number {condition:.3g}"
        assert_true(largest <= stated.upper, f"σ₁ = {largest} <= upper = {stated.upper}: {case}")
        low, high = resolved(x, q, stated.resolution)
        off = max(1 - low, high - 1)
        assert_true(off <= stated.error, f"|σ − 1| = {off} <= error = {stated.error}: {case}")


def ignores_scale(polar: PolarMethod, x: Tensor, c: float) -> None:
    """polar(c·x) = polar(x), bit for bit if c is a power of two."""
    assert_true(torch.equal(polar(c * x), polar(x)), f"polar(c·x) == polar(x), c = {c}")


def commutes_with_transposition(polar: PolarMethod, x: Tensor, within: float = 1e-5) -> None:
    """polar(xᴴ) = polar(x)ᴴ."""
    gap = spectral_distance(polar(x.mH), polar(x).mH)
    assert_true(gap < within, f"polar(x.mH) == polar(x).mH: off by {gap:.3g}")


def batches(polar: PolarMethod, x: Tensor, within: float) -> None:
    """polar(x)[i] = polar(x[i])."""
    for q, one in zip(polar(x).flatten(0, -3), x.flatten(0, -3), strict=True):
        gap = spectral_distance(q, polar(one))
        assert_true(gap < within, f"polar(x)[i] == polar(x[i]): off by {gap:.3g}")


def maps_zero_to_zero(polar: PolarMethod, shape: Sequence[int], dtype: torch.dtype) -> None:
    """polar(0) = 0, in the type of the input."""
    x = torch.zeros(tuple(shape), dtype=dtype)
    q = polar(x)
    assert_true(q.dtype == dtype and torch.equal(q, x), f"polar(0) == 0: {shape} {dtype}")


def leaves_its_input_alone(polar: PolarMethod, x: Tensor) -> None:
    """The factor has its own memory, and `x` stays as it is."""
    before = x.clone()
    polar(x).mul_(7)
    assert_true(torch.equal(x, before), "the input is neither written to nor shared")


def check_polar(
    polar: PolarMethod,
    shapes: Sequence[tuple[int, int]] = SHAPES,
    *,
    dtypes: Sequence[torch.dtype] = DTYPES,
    seed: int = 0,
) -> None:
    """Hold a polar method to the laws in the docstring of `PolarMethod` and to its `accuracy`.

    Args:
        polar: the method.
        shapes: pairs of rows and columns.
        dtypes: types of the matrices.
        seed: seed of the matrices.

    Raises:
        AssertionError: a law is broken; the message has the law, the input and by how much.

    Examples:
        >>> from steepest.polar import Svd
        >>> check_polar(Svd(), shapes=[(4, 7)])
    """
    with on(repr(polar)):
        for dtype in dtypes:
            coarse = dtype in HALF or polar.compute_dtype(dtype, torch.device("cpu")) in HALF
            for m, n in shapes:
                keeps_its_word(polar, m, n, dtype)
                maps_zero_to_zero(polar, (m, n), dtype)
                sigma = log_spaced(3.0, min(m, n))
                one = with_spectrum(sigma, m, n, seed=seed, complex=dtype.is_complex).to(dtype)
                leaves_its_input_alone(polar, one)
                # Small entries of half precision have no room below, large ones none at 2^100.
                for exponent in (1, 3) if dtype in HALF else (-100, 100):
                    ignores_scale(polar, one, 2.0**exponent)
                commutes_with_transposition(polar, one, 0.02 if coarse else 1e-5)
                batches(polar, torch.stack([one, 2 * one.flip(-1)]), 0.02 if coarse else 2e-3)
