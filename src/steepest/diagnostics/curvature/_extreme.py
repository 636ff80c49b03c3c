"""The largest eigenvalue, in absolute value, of a symmetric map, by products with it alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from steepest._common.numerics import epsilon

# Ours: as many vectors are kept, and as many images; twenty find most top eigenvalues in one round.
BASIS = 20
"""Largest Krylov space before it is built anew from its best vector."""


class Eigen(NamedTuple):
    """An approximate eigenvector.

    Args:
        size: ‖Hv‖, at most the largest eigenvalue in absolute value.
        vector: v, of length 1.
        used: products with H.
        converged: whether ‖Hv − θv‖ is as small as was asked for.
    """

    size: float
    vector: Tensor
    used: int
    converged: bool


def largest_eigenvector(
    product: Callable[[Tensor], Tensor], start: Tensor, *, steps: int, tolerance: float
) -> Eigen:
    """The best vector of Krylov spaces span{v, Hv, H²v, …}, each from the best of the one before.

    Args:
        product: v ↦ Hv for vectors of the shape of `start`.
        start: a vector (n,) that is not zero.
        steps: the most products.
        tolerance: the residual ‖Hv − θv‖ over |θ| at which to stop; not below what the type can
            tell.

    Sources:
        Golub & Van Loan, Matrix Computations, section 10.1: Lanczos, with all vectors kept
        orthogonal.
    """
    tolerance = max(tolerance, 32 * epsilon(start.dtype))
    v, used = start, 0
    while True:
        basis, images = _krylov(product, v, min(BASIS, steps - used))
        used += len(images)
        projected = basis @ images.mT
        values, vectors = torch.linalg.eigh((projected + projected.mT) / 2)
        place = values.abs().argmax()
        v, h = vectors[:, place] @ basis, vectors[:, place] @ images
        size, rest = float(torch.linalg.vector_norm(h)), h - values[place] * v
        converged = float(torch.linalg.vector_norm(rest)) <= tolerance * size
        if converged or used >= steps:
            return Eigen(size, v, used, converged)


def _krylov(product: Callable[[Tensor], Tensor], v: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """An orthonormal basis of a Krylov space, row by row, and its images."""
    basis, images = [v / torch.linalg.vector_norm(v)], []
    while True:
        images.append(product(basis[-1]))
        if len(images) == most:
            break
        rest, kept = images[-1], torch.stack(basis)
        before = float(torch.linalg.vector_norm(rest))
        for _ in range(2):  # twice is enough: Giraud, Langou & Rozložník, 2005
            rest = rest - (kept @ rest) @ kept
        length = float(torch.linalg.vector_norm(rest))
        # What rounding leaves of a vector in the space is no new direction.
        if not length > math.sqrt(len(v)) * epsilon(v.dtype) * before:
            break
        basis.append(rest / length)
    return torch.stack(basis), torch.stack(images)
