"""The numbers of a certificate in 45 digits, from their definitions: small matrices only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import mpmath
import torch
from torch import Tensor

DIGITS = 45


def _entries(x: Tensor) -> list[Any]:
    wide = x.to(torch.complex128 if x.is_complex() else torch.float64).resolve_conj()
    return [mpmath.mpmathify(v) for v in wide.flatten().tolist()]


def _routine(entries: list[Any]) -> Any:
    return mpmath.svd_c if any(isinstance(v, mpmath.mpc) for v in entries) else mpmath.svd_r


def _values(a: Any) -> list[Any]:
    """Singular values in falling order, for no more rows than columns."""
    entries = list(a)
    top = max(abs(v) for v in entries)
    if top == 0:
        return [top] * a.rows
    return sorted((v * top for v in _routine(entries)(a / top, compute_uv=False)), reverse=True)


@lru_cache
def _decomposed(shape: tuple[int, int], *entries: Any) -> tuple[Any, list[Any], Any]:
    """U, σ in falling order and Vᴴ of the matrix with these entries, row by row."""
    a = _shaped(entries, *shape)
    top = max(abs(v) for v in entries)
    if top == 0:
        return mpmath.eye(a.rows), [top] * a.rows, mpmath.zeros(a.rows, a.cols)
    u, s, vh = _routine(list(entries))(a / top)
    order = sorted(range(len(s)), key=lambda i: -s[i])
    columns = [[u[i, j] for j in order] for i in range(a.rows)]
    rows = [[vh[i, j] for j in range(a.cols)] for i in order]
    return mpmath.matrix(columns), [s[i] * top for i in order], mpmath.matrix(rows)


def _shaped(entries: Sequence[Any], m: int, n: int) -> Any:
    return mpmath.matrix([entries[i * n : (i + 1) * n] for i in range(m)])


def certificate(x: Tensor, q: Tensor, cutoff: float, resolution: float = 0.0) -> dict[str, Any]:
    """Every number for one matrix, by the definitions in the docstring of `Certificate`."""
    m, n = sorted(x.shape)
    with mpmath.workdps(DIGITS):
        a, b = (_entries(t.mH if x.shape[0] > x.shape[1] else t) for t in (x, q))
        u, s, vh = _decomposed((m, n), *a)
        level, noise = max(cutoff, resolution) * s[0], cutoff * s[0]
        rank, nuclear = sum(v > level for v in s), sum(s)
        rows = u.H * _shaped(b, m, n)
        # Between noise and the resolution nothing is asked of a direction.
        wrong = [
            rows[i, j] - (vh[i, j] if i < rank else 0)
            for i in range(m)
            for j in range(n)
            if i < rank or s[i] <= noise
        ]
        every = _values(_shaped(b, m, n))
        # A turn of all directions leaves the singular values alone.
        sigma = every if rank == m else _values(rows[:rank, :]) if rank else [mpmath.mpf(0)]
        inner = sum(mpmath.re(mpmath.conj(v) * w) for v, w in zip(a, b, strict=True))
        return {
            "orthogonality": max(abs(v * v - 1) for v in sigma) if rank else mpmath.mpf(0),
            "smallest": sigma[-1],
            "largest": every[0],
            "alignment": inner / nuclear if nuclear else mpmath.mpf(1),
            "distance": mpmath.norm(wrong) / mpmath.sqrt(max(rank, 1)),
        }
