"""How far a step surely lowers a loss that is quadratic in a layer's output: two norms compared."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Guarantees:
    """The Euclidean and the spectral step of a layer Z = W·A, each as long as its bound allows.

    With the second derivatives of the loss by Z at most c, and Δ a change of W,

        L(W + Δ) ≤ L(W) + ⟨G, Δ⟩ + (c/2)·‖ΔA‖_F²
        ‖ΔA‖_F² ≤ ‖Δ‖_F²·σ₁(A)²   and   ‖ΔA‖_F² ≤ ‖Δ‖₂²·Σ_{i ≤ out} σ_i(A)²

    which gives the smoothness in either norm, and the step that makes the bound smallest. Several
    matrices in one parameter are the blocks of one block-diagonal matrix.

    Args:
        nuclear_rank: ‖G‖_*²/‖G‖_F².
        stable_rank: ‖A‖_F²/σ₁(A)².
        spread: the stable rank of A's `out` largest singular values: L_2/L_F.
        euclidean: the decrease ‖G‖_F²/(2·L_F), L_F = c·σ₁(A)².
        spectral: the decrease ‖G‖_*²/(2·L_2), L_2 = c·Σ_{i ≤ out} σ_i(A)².
        euclidean_length: 1/L_F; the step is −G times that.
        spectral_length: ‖G‖_*/L_2; the step is −UVᵀ times that.
    """

    nuclear_rank: Tensor
    stable_rank: Tensor
    spread: Tensor
    euclidean: Tensor
    spectral: Tensor
    euclidean_length: Tensor
    spectral_length: Tensor


def guarantees(g: Tensor, unit: Tensor, squares: Tensor, curvature: Tensor | float) -> Guarantees:
    """The guarantees of a layer, or of a batch of them, in the precision of its arguments.

    Args:
        g: the gradient G by W, (*batch, blocks, out, in); not zero.
        unit: its polar factor UVᵀ.
        squares: σ_i(A)² of the inputs, falling, (*batch, blocks, count); not all zero.
        curvature: c > 0, one number or (*batch,).
    """
    frobenius = g.square().sum((-3, -2, -1))
    nuclear = (g * unit).sum((-3, -2, -1))
    top = squares[..., 0].amax(-1)
    seen = squares[..., : g.shape[-2]].sum((-2, -1))
    rough, even = curvature * top, curvature * seen
    return Guarantees(
        nuclear_rank=nuclear.square() / frobenius,
        stable_rank=squares.sum((-2, -1)) / top,
        spread=seen / top,
        euclidean=frobenius / (2 * rough),
        spectral=nuclear.square() / (2 * even),
        euclidean_length=torch.ones_like(rough) / rough,
        spectral_length=nuclear / even,
    )
