"""Bounds on the singular values of a matrix, from products with it.

Everywhere x is m × n with m ≤ n, in double precision, and A = xxᴴ. Vectors are rows: c of them
have shape (c, m).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from steepest._common.numerics import epsilon

Function = Callable[[Tensor], Tensor]
"""A function of singular values, entry by entry; zero at zero."""


def rounding(x: Tensor) -> float:
    """The error of singular values of x in its precision, over the largest."""
    return max(x.shape[-2:]) * epsilon(x.dtype)


def orthonormal(block: Tensor, basis: Tensor, tiny: float) -> Tensor:
    """Rows that span what `block` (c, m) adds to the span of `basis` (k, m), beyond `tiny`."""
    # QR alone would fill up a block without full rank, with rows that the basis may have.
    _, s, rows = torch.linalg.svd(block - (block @ basis.mH) @ basis, full_matrices=False)
    rows = rows[s > tiny]
    # Where little was left after the subtraction, rounding is much of it: once more.
    rows = rows - (rows @ basis.mH) @ basis
    found: Tensor = torch.linalg.qr(rows.mT).Q.mT
    return found


class Leading(NamedTuple):
    """The largest eigenvalues of A as a block Krylov space has them.

    Args:
        values: Ritz values in falling order; the j-th is at most the j-th eigenvalue.
        vectors: their Ritz vectors, (k, m).
        depth: number of blocks.
    """

    values: Tensor
    vectors: Tensor
    depth: int


def leading(x: Tensor, start: Tensor, depth: int) -> Leading:
    """Ritz values of A in the space of start, A·start, …, A^(depth−1)·start.

    Args:
        x: (m, n).
        start: (b, m).
        depth: the number of blocks, at most m/b.
    """
    tiny = rounding(x) * float(torch.linalg.vector_norm(x)) ** 2
    block = orthonormal(start, start[:0], tiny)
    blocks, images = [block], [block.conj() @ x]
    for _ in range(depth - 1):
        block = orthonormal(images[-1].conj() @ x.mT, torch.cat(blocks), tiny)
        blocks.append(block)
        images.append(block.conj() @ x)
    basis, image = torch.cat(blocks), torch.cat(images)
    values, turn = torch.linalg.eigh(image @ image.mH)
    return Leading(values.flip(0).clamp(min=0), turn.mT.flip(0) @ basis, depth)


def tangent(m: int, block: int, index: int, risk: float) -> float:
    """The most that a Gaussian block of vectors is oblique to the first eigenvectors.

    Let Ω be m × block and Gaussian, Ω₁ its components along the first `index` eigenvectors and Ω₂
    the others. With probability 1 − risk

        ‖Ω₂·Ω₁⁺‖_F² ≤ index·high/low

    where `high` bounds χ² of m − index degrees of freedom from above and `low` that of
    block − index + 1 from below. For each row of Ω₂ is independent of Ω₁, so that the norm is
    a sum of index such χ², times the eigenvalues of (Ω₁Ω₁ᴴ)⁻¹, and the diagonal of that inverse
    has entries 1/χ².

    Sources:
        Above: Laurent & Massart, Annals of Statistics 28 (2000), lemma 1. Below: Chernoff,
        P(χ²_d ≤ d·y) ≤ (e·y)^(d/2).
    """
    x = math.log(2 * index / risk)
    free, few = m - index, block - index + 1
    high = free + 2 * math.sqrt(free * x) + 2 * x
    low = few * math.exp(-1 - 2 * x / few)
    return math.sqrt(index * high / low)


def stretch(tangent: float, depth: int) -> float:
    """The factor by which the j-th Ritz value of `leading` exceeds the j-th eigenvalue.

        cosh²(asinh(tangent)/(2·depth − 1))

    Proof for the first: let y be larger than the Ritz value, so that vᴴ(A − y)v < 0 for each v in
    the space. Take v = q(A)·ω with q(λ) = T(√(1 − λ/y))/√(1 − λ/y), where T is the odd Chebyshev
    polynomial of degree 2·depth − 1: then (y − λ)·q² = y·T² is at most y for λ ≤ y, and
    −y·sinh²((2·depth − 1)·asinh √(λ/y − 1)) above. Therefore the sinh at λ₁ is below the tangent of
    the angle between ω and the eigenvector. For the j-th, a j-dimensional space of ω will do.

    Sources:
        The polynomial: Kuczyński & Woźniakowski, SIAM J. Matrix Anal. Appl. 13 (1992).
    """
    return math.cosh(math.asinh(tangent) / (2 * depth - 1)) ** 2


class Quadrature(NamedTuple):
    """Gauss and Gauss–Radau rules for vᴴf(√A)v, one row for each vector v.

    Args:
        gauss: nodes σ and weights, (2, c, t).
        radau: the rule with one more node, at zero, which is left out.
    """

    gauss: Tensor
    radau: Tensor

    def __getitem__(self, rows: slice) -> Quadrature:  # type: ignore[override]
        """The rules of some of the vectors."""
        return Quadrature(self.gauss[:, rows], self.radau[:, rows])

    def __call__(self, f: Function) -> Tensor:
        """Both rules for a function, (2, c), the smaller one first.

        The exact value is between them where f(√λ) has derivatives of one sign for all even orders
        from 2 on, and of the other for all odd ones from 3 on: √λ, λ·log λ, and √λ·log λ on [0, 1].
        """
        rules = torch.stack([(w * f(s)).sum(dim=-1) for s, w in (self.gauss, self.radau)])
        return rules.sort(dim=0).values


def quadrature(x: Tensor, vectors: Tensor, steps: int) -> Quadrature:
    """The rules of `steps` steps of Golub and Kahan's bidiagonalisation.

        x = U·B·Wᴴ in the Krylov spaces of each v = ‖v‖·u₁

    The singular values of the square B, with the squared first components of its left singular
    vectors, are the Gauss rule. One row more makes B·Bᴴ singular: the Gauss–Radau rule with the
    node 0. With B instead of B·Bᴴ small singular values keep their digits.

    Args:
        x: (m, n), with entries near 1 or smaller.
        vectors: (c, m).
        steps: the number of steps, at most m.

    Sources:
        Golub & Meurant, Matrices, Moments and Quadrature with Applications (Princeton, 2010).
    """
    norms = torch.linalg.vector_norm(vectors, dim=-1)
    b = bidiagonal(x, vectors, steps)
    rules = []
    for part in (b[:, :-1], b):
        u, s, _ = torch.linalg.svd(part, full_matrices=False)
        rules.append(torch.stack([s, (u[:, 0].abs() * norms.unsqueeze(-1)) ** 2]))
    return Quadrature(*rules)


def bidiagonal(x: Tensor, vectors: Tensor, steps: int) -> Tensor:
    """The lower bidiagonal B of each vector, (c, steps + 1, steps), real.

    The vectors on the shorter side are kept orthogonal, and with them the others. Where a Krylov
    space ends, the rest of B is zero.

    Sources:
        Orthogonality of one side: Simon & Zha, SIAM J. Sci. Comput. 21 (2000).
    """
    tiny = rounding(x) * float(torch.linalg.vector_norm(x))
    count, m = vectors.shape
    u, _ = _unit(vectors, 0.0)
    basis = vectors.new_zeros(count, steps + 1, m)
    w, beta = x.new_zeros(count, x.shape[1]), x.new_zeros(count, dtype=torch.float64)
    b = torch.zeros(count, steps + 1, steps, dtype=torch.float64, device=x.device)
    for j in range(steps):
        basis[:, j] = u
        w, alpha = _unit(u.conj() @ x - beta.unsqueeze(-1) * w, tiny)
        u, beta = _unit(_without(w.conj() @ x.mT, basis[:, : j + 1]), tiny)
        b[:, j, j], b[:, j + 1, j] = alpha, beta
    return b


def _unit(v: Tensor, tiny: float) -> tuple[Tensor, Tensor]:
    """Rows of length 1 and their lengths; zero where the length is rounding."""
    norm = torch.linalg.vector_norm(v, dim=-1)
    norm = torch.where(norm > tiny, norm, 0.0)
    return v * torch.where(norm > 0, 1 / norm, 0.0).unsqueeze(-1), norm


def _without(v: Tensor, basis: Tensor) -> Tensor:
    """Each row of v (c, m) without its part in the space of its own basis (c, k, m)."""
    v = v.unsqueeze(1)
    for _ in range(2):
        v = v - (v @ basis.mH) @ basis
    return v.squeeze(1)
