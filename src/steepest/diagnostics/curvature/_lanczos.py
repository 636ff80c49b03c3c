"""The top eigenvalue of a symmetric operator, by products with it alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from steepest._common.numerics import epsilon

Which = Literal["LM", "LA"]
"""The eigenvalue of the largest magnitude, or the algebraically largest one."""

# Ours: as many vectors are kept; twenty find most top eigenvalues in one round.
BASIS = 20
"""Largest Krylov space before it is built anew from its best vector."""


class Ritz(NamedTuple):
    """An approximate eigenvalue θ of H, with its unit vector v.

    Args:
        value: θ = ⟨v, Hv⟩.
        residual: ‖Hv − θv‖: an eigenvalue is no further from θ.
        vector: v; None if the space was not kept.
        products: products with H.
        converged: whether the residual is as small as was asked for.
    """

    value: float
    residual: float
    vector: Tensor | None
    products: int
    converged: bool


def lanczos(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    which: Which,
    steps: int,
    tolerance: float,
    basis: int | None,
) -> Ritz:
    """Find an extreme eigenvalue of H in the Krylov spaces span{q₁, Hq₁, H²q₁, …}.

        w = H·q_k − β_{k−1}·q_{k−1};  α_k = ⟨q_k, w⟩;  w ← w − α_k·q_k;  β_k = ‖w‖;  q_{k+1} = w/β_k

    θ is an eigenvalue of the tridiagonal matrix of α and β, and β_k times the last entry of its
    eigenvector is the residual.

    Args:
        product: v ↦ Hv for vectors of the shape of `start`.
        start: a vector (n,) that is not zero.
        which: the end of the spectrum, as in `scipy.sparse.linalg.eigsh`.
        steps: the most products with H.
        tolerance: the residual to reach, relative to |θ|; not below what the type can tell.
        basis: the number of vectors to keep, orthogonalised again; a full space is left for one
            that begins with its best vector. None keeps three vectors and tests every step: without
            orthogonalising again eigenvalues may turn up twice, which the largest does not mind.

    Sources:
        Parlett, The Symmetric Eigenvalue Problem (1998), chapter 13; Golub & Van Loan, Matrix
        Computations, section 10.1, for restarts.
    """
    tolerance = max(tolerance, 32 * epsilon(start.dtype))
    q, used = start / torch.linalg.vector_norm(start), 0
    while True:
        most = steps - used if basis is None else min(steps - used, basis)
        top = _krylov(product, q, which, most, tolerance, keep=basis is not None)
        used += top.products
        if top.converged or used == steps or top.vector is None:
            return top._replace(products=used)
        q = top.vector


def _krylov(
    product: Callable[[Tensor], Tensor],
    q: Tensor,
    which: Which,
    steps: int,
    tolerance: float,
    *,
    keep: bool,
) -> Ritz:
    """The best vector of one Krylov space."""
    before, top = torch.zeros_like(q), Ritz(0.0, 0.0, None, 0, False)
    alpha: list[float] = []
    beta: list[float] = []
    space: list[Tensor] = []
    for step in range(1, steps + 1):
        w = product(q)
        # What rounding leaves of a vector in the space is not a new direction.
        rounding = math.sqrt(w.numel()) * epsilon(w.dtype) * math.sqrt(_dot(w, w))
        alpha.append(_dot(q, w))
        w = w - alpha[-1] * q - (beta[-1] if beta else 0.0) * before
        if keep:
            space.append(q)
            w = _orthogonal(w, torch.stack(space))
        beta.append(math.sqrt(_dot(w, w)))
        exhausted = not beta[-1] > rounding  # also if it is NaN
        if exhausted or step == steps or not keep:
            top = _ritz(alpha, beta, space, which, tolerance)
            if exhausted or top.converged:
                break
        before, q = q, w / beta[-1]
    return top


def _ritz(
    alpha: list[float], beta: list[float], space: list[Tensor], which: Which, tolerance: float
) -> Ritz:
    """The top of the tridiagonal matrix."""
    if not all(map(math.isfinite, (*alpha, *beta))):
        return Ritz(math.nan, math.nan, None, len(alpha), False)
    t = torch.diag(torch.tensor(alpha, dtype=torch.float64))
    t += torch.diag(torch.tensor(beta[:-1], dtype=torch.float64), -1)
    values, vectors = torch.linalg.eigh(t)  # of its lower triangle
    place = int(values.abs().argmax()) if which == "LM" else -1
    value, residual = float(values[place]), beta[-1] * abs(float(vectors[-1, place]))
    found = vectors[:, place].to(space[0]) @ torch.stack(space) if space else None
    return Ritz(value, residual, found, len(alpha), residual <= tolerance * abs(value))


def _orthogonal(w: Tensor, basis: Tensor) -> Tensor:
    """The part of a vector (n,) that is orthogonal to the orthonormal rows of (k, n)."""
    for _ in range(2):  # twice is enough: Giraud, Langou & Rozložník, 2005
        w = w - (basis @ w) @ basis
    return w


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.sum(a.double() * b.double()))
