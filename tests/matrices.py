"""Matrices with a prescribed spectrum, and what the tests measure on them."""

from __future__ import annotations

import torch
from torch import Tensor


def orthonormal(rows: int, cols: int, dtype: torch.dtype, seed: int) -> Tensor:
    """A random rows × cols matrix with orthonormal columns (cols ≤ rows)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(rows, cols, generator=generator, dtype=dtype))[0]


def with_spectrum(sigma: Tensor, m: int, n: int, *, seed: int = 0, complex: bool = False) -> Tensor:
    """An m × n matrix in double precision with the singular values `sigma` (at most min(m, n))."""
    dtype = torch.complex128 if complex else torch.float64
    u = orthonormal(m, len(sigma), dtype, seed)
    v = orthonormal(n, len(sigma), dtype, seed + 1)
    return (u * sigma.to(dtype)) @ v.mH


def log_spaced(condition: float, count: int) -> Tensor:
    """`count` singular values from 1 down to 1/condition."""
    if count == 1:
        return torch.ones(1, dtype=torch.float64)
    return condition ** -torch.linspace(0, 1, count, dtype=torch.float64)


def wide(x: Tensor) -> Tensor:
    """The matrix in double precision."""
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def naive_polar(x: Tensor, cutoff: float = 1e-12) -> Tensor:
    """U·Vᴴ of the singular value decomposition in double precision, σ ≤ cutoff·σ₁ dropped."""
    u, s, vh = torch.linalg.svd(wide(x), full_matrices=False)
    kept = int((s > cutoff * s[0]).sum())
    return u[:, :kept] @ vh[:kept]


def spectral_distance(a: Tensor, b: Tensor) -> float:
    """The operator norm of a − b."""
    return float(torch.linalg.matrix_norm(wide(a) - wide(b), ord=2))
