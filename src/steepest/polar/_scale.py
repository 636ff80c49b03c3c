"""How good the bound of the largest singular value is, and scales for the range of float16."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from steepest._common.numerics import safe_divisor

# ‖X‖_F² ≤ 2^14 keeps XXᴴ away from the largest float16, 65504, and √m·‖X‖_F from the smallest.
LARGEST_SCALE = 128.0

# min over c of max over λ in [0, 1] of |λ² − cλ|, attained at c = 2√2 − 2.
SMALLEST_SWING = 3 - 2 * math.sqrt(2)


def overestimate(m: int, *, tight: int) -> float:
    """How many times too large the root of `largest_eigenvalue` can be for σ₁ of m rows.

    λ² − cλ is at most 3 − 2√2 on [0, 1] for the best c, and m eigenvalues make its Frobenius norm
    √m times as large.

    Args:
        m: number of rows, the smaller side.
        tight: how often R is squared first: once for the bound of R², made from R² and R⁴.

    Examples:
        >>> [round(overestimate(768, tight=squarings), 2) for squarings in (0, 1, 2)]
        [1.65, 1.29, 1.13]
    """
    eigenvalue = 0.5 + math.sqrt(0.25 + SMALLEST_SWING * math.sqrt(m))
    return float(eigenvalue ** (0.5 / 2**tight))


def fitted(x: Tensor) -> Tensor:
    """x times a power of two for each matrix, so that XXᴴ in float16 is normal and finite.

    With ‖x‖_F = 1 the Gram matrix of a large flat one would lie below the normal numbers, without
    any normalisation its entries, up to n, beyond the largest.
    """
    return x * _power_below(min(x.shape[-2] ** 0.5, LARGEST_SCALE) / safe_divisor(_norm(x)))


def _norm(x: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True, dtype=torch.float32)
    return size


def _power_below(x: Tensor) -> Tensor:
    """The largest power of two that is at most x."""
    return torch.ldexp(torch.ones_like(x), torch.frexp(x).exponent - 1)
