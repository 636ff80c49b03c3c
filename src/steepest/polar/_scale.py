"""Scales for Gram matrices: bounds of the largest singular value, and the range of float16."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from steepest._common.numerics import HALF, safe_divisor
from steepest.polar._blocks import Workspace, gram_matrix

# ‖X‖_F² ≤ 2^14 keeps XXᴴ away from the largest float16, 65504, and √m·‖X‖_F from the smallest.
LARGEST_SCALE = 128.0

# Rounding may leave a bound a few eps below λ₁.
MARGIN = 1e-5

# min over c of max over λ in [0, 1] of |λ² − cλ|, attained at c = 2√2 − 2.
SMALLEST_SWING = 3 - 2 * math.sqrt(2)


def norm(x: Tensor) -> Tensor:
    """‖x‖_F of each matrix, shape (batch, 1, 1), in float32 at least."""
    wide = torch.float32 if x.dtype in HALF else None
    size: Tensor = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True, dtype=wide)
    return size


def largest_eigenvalue(r: Tensor, square: Tensor, space: Workspace) -> Tensor:
    """Upper bound of the largest eigenvalue of each positive semidefinite R, shape (batch, 1, 1).

        c = ⟨R, R²⟩/‖R‖_F²;  λ₁ ≤ c/2 + √(c²/4 + ‖R² − cR‖_F)

    For λ₁² − cλ₁ is an eigenvalue of R² − cR. This c makes the norm least; any other one, a rounded
    one for instance, gives a bound as well. It is exact if all eigenvalues are λ₁ or 0, and never
    more than `overestimate`² times too large.

    Args:
        r: the matrices, shape (batch, m, m).
        square: R².
        space: memory for R² − cR.

    Returns:
        Real numbers in float32 at least; 0 for zero.
    """
    inner = (r * square.conj()).sum(dim=(-2, -1), keepdim=True).real
    c = inner.to(torch.promote_types(inner.dtype, torch.float32)) / safe_divisor(norm(r).square())
    if space.reuses:
        rest = torch.addcmul(square, r, -c.to(r.dtype), out=space.empty(*r.shape))
        size = norm(rest)
        space.release(rest)
    else:
        size = norm(torch.addcmul(square, r, -c.to(r.dtype)))
    if r.dtype in HALF:
        c = c.to(r.dtype).to(c.dtype)  # ‖R² − cR‖_F is that of the rounded c
    bound: Tensor = (c / 2 + (c.square() / 4 + size).sqrt()) * (1 + MARGIN)
    return bound


def overestimate(m: int, *, tight: bool) -> float:
    """How many times too large the root of `largest_eigenvalue` can be for σ₁ of m rows.

    λ² − cλ is at most 3 − 2√2 on [0, 1] for the best c, and m eigenvalues make its Frobenius norm √m
    times as large.

    Args:
        m: number of rows, the smaller side.
        tight: whether the bound is that of R², made from R² and R⁴.

    Examples:
        >>> round(overestimate(768, tight=False), 2), round(overestimate(768, tight=True), 2)
        (1.66, 1.29)
    """
    eigenvalue = 0.5 + math.sqrt(0.25 + SMALLEST_SWING * math.sqrt(m))
    return float(eigenvalue ** (0.25 if tight else 0.5))


def fitted(x: Tensor, dtype: torch.dtype, space: Workspace) -> tuple[Tensor, Tensor, Tensor]:
    """x times a power of two, the same in `dtype`, and its Gram matrix with ‖R‖_F in (1/4, 1].

    For float16: with ‖x‖_F = 1 the Gram matrix of a large flat one would lie below the normal
    numbers, without any normalisation its entries, up to n, beyond the largest.
    """
    first = _power_below(min(x.shape[-2] ** 0.5, LARGEST_SCALE) / safe_divisor(norm(x)))
    rounded = (x * first).to(dtype)
    gram = gram_matrix(rounded, space, halved=True)
    second = _power_below(safe_divisor(norm(gram)).rsqrt())
    low = second.to(dtype)
    return x * (first * second), rounded * low, gram.mul_(low**2)


def _power_below(x: Tensor) -> Tensor:
    """The largest power of two that is at most x."""
    return torch.ldexp(torch.ones_like(x), torch.frexp(x).exponent - 1)
