"""The norm of a pair of factors: what a change of either does to their product."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from steepest._common.checks import not_negative, positive
from steepest._common.errors import invalid, shape_text
from steepest._common.numerics import full_precision, in_double, widened
from steepest.norms.schatten import Spectral
from steepest.polar import PolarMethod

# LoRA-Muon, arXiv 2606.12921, appendix B.4.
FLOOR = 1e-5
"""The number that is added to a metric, as a share of its Frobenius norm."""

# Where λ ← λ·(3 − λ)²/4 takes FLOOR to within 1e-12 of 1: tests/norms/test_pair.py.
STEPS = 19
"""Steps of the iteration for the inverse root of a matrix with eigenvalues in [FLOOR, 1]."""


@dataclass(frozen=True, eq=False)
class PairNorm:
    """The norm of a change (ΔA, ΔB) of two factors, by what it does to scale·B·A.

        n(ΔA, ΔB) = 2·max(‖M_A^½·ΔA‖₂, ‖ΔB·M_B^½‖₂)
        M_B = scale²·A·Aᵀ;  M_A = scale²·Bᵀ·B + (length/2)²·(A·Aᵀ)⁻¹
        n.dualize(G_A, G_B) = (½·M_A^−½·polar(M_A^−½·G_A), ½·polar(G_B·M_B^−½)·M_B^−½)
        n.dual(G_A, G_B) = (‖M_A^−½·G_A‖_* + ‖G_B·M_B^−½‖_*)/2

    To M_A and M_B, and to the inverse in M_A, 1e-5 of their Frobenius norm is added: singular
    values of a factor that are below 0.003 of its size count as that. A factor that is zero has the
    inverse root 0, and its partner, whose gradient is zero, does not move. Laws, for P(A, B) =
    scale·B·A, a length > 0 or 0, and (ΔA, ΔB) = length·n.dualize(G_A, G_B):

        scale·‖B·x + y·A‖₂ <= n(x, y)                       for any change (x, y)
        n(ΔA, ΔB) == length;  ⟨G, (ΔA, ΔB)⟩ == length·n.dual(G_A, G_B)
        ‖P(A − ΔA, B − ΔB) − P(A, B)‖₂ <= (1 + √2)/2·length
        n.dualize(c·G_A, c·G_B) == n.dualize(G_A, G_B)      for c > 0
        B·ΔA and ΔB·A are the same at (R·A, B·R⁻¹)          for any invertible R, up to the 1e-5

    The norm depends on the point, as a metric does. The second term of M_A is what bounds ΔB·ΔA:
    without it, at `length=0`, the norm is that of the first order, and steps from a B that is small
    or nearly of lower rank have no bound.

    Args:
        a: The factor A, shape (*batch, r, n).
        b: The factor B, shape (*batch, m, r).
        scale: The factor of their product.
        length: The length of the step that is going to be taken.
        polar: A method of `steepest.polar`; None means an SVD.

    Raises:
        ValueError: shapes that do not fit, or a number out of range.

    Examples:
        >>> a, b = torch.eye(2), torch.diag(torch.tensor([1.0, 2.0]))
        >>> n = PairNorm(a, b)
        >>> x, y = n.dualize(torch.eye(2), torch.eye(2))
        >>> round(float(n(x, y)), 3), [round(float(s), 3) for s in torch.linalg.svdvals(b @ x)]
        (1.0, [0.5, 0.5])

    Sources:
        Cesista et al., LoRA-Muon, arXiv 2606.12921, for length = 0.
    """

    a: Tensor
    b: Tensor
    scale: float = 1.0
    length: float | Tensor = 0.0
    polar: PolarMethod | None = field(default=None)

    def __post_init__(self) -> None:
        shapes = [tuple(x.shape) for x in (self.a, self.b)]
        fits = min(map(len, shapes)) > 1 and shapes[0][:-2] == shapes[1][:-2]
        if not fits or shapes[0][-2] != shapes[1][-1]:
            raise invalid(
                "b",
                " and ".join(map(shape_text, shapes)),
                "give factors of shapes (*batch, r, n) and (*batch, m, r), whose product is b·a",
            )
        positive("scale", self.scale)
        if not isinstance(self.length, Tensor):
            not_negative("length", self.length)

    @cached_property
    def _metrics(self) -> tuple[Metric, Metric]:
        """M_A and M_B in the type of the factors, or single precision."""
        return self._at(*(x.detach().to(widened(x.dtype)) for x in (self.a, self.b)))

    def _at(self, a: Tensor, b: Tensor) -> tuple[Metric, Metric]:
        with full_precision(a.device, a.dtype):
            grams = a @ a.mT, b.mT @ b
        return pair_metrics(*grams, scale=self.scale, length=self.length)

    def __call__(self, da: Tensor, db: Tensor) -> Tensor:
        """The norm: one real number for each pair."""
        metrics = self._at(in_double(self.a.detach()), in_double(self.b.detach()))
        # The root of M is M·M^−½, which loses digits that single precision does not have.
        halves: list[Tensor] = [
            Spectral()(m.matrix @ (m.root @ in_double(d)))
            for m, d in zip(metrics, (da, db.mT), strict=True)
        ]
        larger: Tensor = 2 * torch.stack(halves).amax(0)
        return larger.to(widened(da.dtype))

    def dual(self, ga: Tensor, gb: Tensor) -> Tensor:
        """The dual norm: one real number for each pair."""
        sums: list[Tensor] = [torch.linalg.svdvals(x).sum(-1) for x in self._scaled(ga, gb)]
        return (sums[0] + sums[1]) / 2

    def dualize(self, ga: Tensor, gb: Tensor) -> tuple[Tensor, Tensor]:
        """The duality map: a change of each factor."""
        norm = Spectral(polar=self.polar)
        x, y = (norm.dualize(g) for g in self._scaled(ga, gb))
        a, b = self._metrics
        with full_precision(self.a.device):
            return (a.root @ x / 2).to(ga.dtype), (y.mT @ b.root / 2).to(gb.dtype)

    def _scaled(self, ga: Tensor, gb: Tensor) -> tuple[Tensor, Tensor]:
        """M_A^−½·G_A and M_B^−½·G_Bᵀ."""
        a, b = self._metrics
        with full_precision(self.a.device):
            return a.root @ ga.to(a.root.dtype), b.root @ gb.mT.to(b.root.dtype)


def pair_metrics(
    gram_a: Tensor, gram_b: Tensor, *, scale: float, length: float | Tensor
) -> tuple[Metric, Metric]:
    """M_A and M_B of `PairNorm`, with their inverse roots.

    Args:
        gram_a: A·Aᵀ, shape (*batch, r, r), in single precision at least.
        gram_b: Bᵀ·B, of the same shape.
        scale: The factor of the product.
        length: The length of the step that is going to be taken; 0 for the first order alone.
    """
    with full_precision(gram_a.device, gram_a.dtype):
        b = Metric.of(scale**2 * gram_a)
        return Metric.of(scale**2 * (gram_b + (b.root @ b.root) * (length / 2) ** 2)), b


class Metric(NamedTuple):
    """A positive definite matrix, or zero, and its inverse root; 0 for zero."""

    matrix: Tensor
    root: Tensor

    @staticmethod
    def of(x: Tensor) -> Metric:
        """The metric x + FLOOR·‖x‖_F·I of positive semidefinite matrices."""
        one = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        matrix = x + FLOOR * frobenius(x) * one
        return Metric(matrix, inverse_root(matrix))


def frobenius(x: Tensor) -> Tensor:
    """‖x‖_F of each matrix of a stack, shape (*batch, 1, 1)."""
    size: Tensor = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    return size


def inverse_root(x: Tensor) -> Tensor:
    """x^−½ of symmetric matrices with eigenvalues ≥ FLOOR·‖x‖_F, by products; 0 for zero.

        Y₀ = x/‖x‖_F;  Z₀ = I;  T = (3·I − Z·Y)/2;  Y ← Y·T;  Z ← T·Z

    Sources:
        Higham, Functions of Matrices, 2008, (6.35).
    """
    size = frobenius(x)
    safe = torch.where(size > 0, size, 1)
    one = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    y, z = x / safe, one.expand_as(x)
    for _ in range(STEPS):
        t = 1.5 * one - 0.5 * (z @ y)
        y, z = y @ t, t @ z
    return torch.where(size > 0, z / safe.sqrt(), 0)
