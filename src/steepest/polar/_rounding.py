"""Bounds on what rounding leaves of products of matrices and of polar factors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from steepest._common.numerics import HALF, epsilon, widened
from steepest.polar._blocks import Workspace

# Measured: the eigenvalues of a Gram matrix formed in floating point are off by about 3·eps·λ₁,
# whatever its size (2 to 4096; log-spaced spectra of condition number 1e4). Bounds use this margin.
GRAM_NOISE = 8.0


def storage_error(dtype: torch.dtype) -> float:
    """Largest change of a singular value that rounding the entries of a factor to `dtype` makes."""
    # Errors of eps/2 relative to entries of size 1/√n are independent: their norm is below 2·eps.
    return 2 * epsilon(dtype) if dtype in HALF else 0.0


def product_rounding(m: int, n: int, dtype: torch.dtype) -> float:
    """Bound on |σ − 1| that a product of orthogonal factors leaves, stored in `dtype`."""
    return 4 * math.sqrt(max(m, n)) * epsilon(widened(dtype)) + storage_error(dtype)


def factor_rounding(m: int, n: int, dtype: torch.dtype, work: torch.dtype) -> float:
    """Bound on |σ − 1| that rounding leaves of a factor computed in `work` and stored in `dtype`.

    Half precision adds up in float32; what it rounds besides belongs to the method.
    """
    # Errors of long sums of one sign add up. Measured for 1 × 100 000 equal entries: 0.09·n·eps.
    growth = max(4 * math.sqrt(max(m, n)), max(m, n) / 8)
    fine, stored = epsilon(widened(work)), epsilon(dtype)
    return growth * fine + (2 * stored if stored > fine else 0.0)


def refine(q: Tensor, steps: int) -> Tensor:
    """Steps of the classical quintic X ← ⅛(15·X − 10·XXᴴX + 3·(XXᴴ)²X) on (batch, m, n), m ≤ n.

    Singular values near 1 converge cubically to it, those that are 0 stay 0.
    """
    space = Workspace(q)
    for _ in range(steps):
        square = space.gram([q])
        polynomial = space.product(square, plus=square, beta=-10 / 8, alpha=3 / 8)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(15 / 8)
        q = space.product_like(polynomial, q)
    return q


def refined_error(error: float, steps: int) -> float:
    """Largest |σ − 1| after `refine`, where it was `error` before."""
    for _ in range(steps):
        error = max(abs((15 * s - 10 * s**3 + 3 * s**5) / 8 - 1) for s in (1 - error, 1 + error))
    return error
