"""Products of matrices, and what rounding leaves of them and of polar factors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from steepest._common.numerics import HALF, epsilon, widened

# Rows so many times as long as there are rows, and of this length at least, are cut: a product of
# few long rows is added up entry by entry. Measured for 1 to 8 rows in float32: 6·eps·λ₁ at a
# length of 512, 20 at 4096, 210 at 100 000, where small singular values are noise.
LONG_ROWS, LONG_ROW = 64, 512

# Measured: the eigenvalues of a Gram matrix formed in floating point are off by about 3·eps·λ₁,
# whatever its size (2 to 4096; log-spaced spectra of condition number 1e4). Bounds use this margin.
GRAM_NOISE = 8.0

# Half precision adds up in float32 and rounds the sum: at most eps/2 of each entry, and eps/2 more
# when it is rescaled. Measured: eigenvalues off by 0.66·eps·λ₁ at most (size 4 to 1024; flat,
# log-spaced, rank-one, diagonal, spiky).
HALF_NOISE = 1.0


def applied(a: Tensor, x: Tensor) -> Tensor:
    """The product a·x in the memory order of x: columns are dense where those of x are.

    A tall matrix comes as its transpose. A factor in another order than the parameter it belongs to
    is four to twenty times as slow to add to it on a CPU.
    """
    return a @ x if x.stride(-1) == 1 else (x.mH @ a.mH).mH


def has_long_rows(x: Tensor) -> bool:
    """Whether `gram_matrix` cuts the rows of (…, m, n)."""
    # Products of half precision are added up in float32 and rounded once.
    return x.shape[-1] >= 2 * _piece(x) and x.dtype not in HALF


def _piece(x: Tensor) -> int:
    return max(LONG_ROW, LONG_ROWS * x.shape[-2])


def gram_matrix(x: Tensor) -> Tensor:
    """XXᴴ of (batch, m, n), the products of long rows added up in pieces."""
    if not has_long_rows(x):
        return torch.bmm(x, x.mH)
    length = _piece(x)
    batch, _, n = x.shape
    count = n // length
    pieces = x[..., : count * length].unflatten(-1, (count, length)).movedim(-2, 1).flatten(0, 1)
    whole = torch.bmm(pieces, pieces.mH).unflatten(0, (batch, count)).sum(dim=1)
    rest = x[..., count * length :]
    return torch.baddbmm(whole, rest, rest.mH) if rest.shape[-1] else whole


def gram_noise(eps: float) -> float:
    """How far the eigenvalues of a Gram matrix are off, over the largest, in a type of this eps."""
    return eps * (HALF_NOISE if eps > epsilon(torch.float32) else GRAM_NOISE)


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
    for _ in range(steps):
        square = gram_matrix(q)
        polynomial = torch.baddbmm(square, square, square, beta=-10 / 8, alpha=3 / 8)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(15 / 8)
        q = applied(polynomial, q)
    return q


def refined_error(error: float, steps: int) -> float:
    """Largest |σ − 1| after `refine`, where it was `error` before."""
    for _ in range(steps):
        error = max(abs((15 * s - 10 * s**3 + 3 * s**5) / 8 - 1) for s in (1 - error, 1 + error))
    return error
