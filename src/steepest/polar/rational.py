"""Polar factors by rational functions of the Gram matrix: a few inverses, no iteration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from steepest._types import invalid
from steepest.polar._blocks import definite_inverse, hermitian_product
from steepest.polar.base import (
    Accuracy,
    PolarMethod,
    applied,
    epsilon,
    product_rounding,
    refine,
    refined_error,
    safe_divisor,
    widened,
)
from steepest.polar.design import Rational, best_odd_polynomial, best_rational

# Measured: of the rounding of a Gram matrix (`GRAM_NOISE`), this many eps·λ₁ at most reach its
# small eigenvalues; 3.7 was the largest seen (sizes 64 to 768; log-spaced, flat, spiked and linear
# spectra).
SMALL_NOISE = 4.0

# The error that this noise is allowed at the resolution.
NOISE_ERROR = 0.027

# A shift is so many eps at least: then rounding cannot make a shifted Gram matrix indefinite.
SHIFT_MARGIN = 64.0


@dataclass(frozen=True)
class Zolotarev(PolarMethod):
    """Zolotarev's best rational approximation of the sign, of type (2r + 1, 2r), in Gram form.

        R = XXᴴ/ρ;  for each stage f(x) = s·x·(1 + Σ_j a_j/(x² + c_j)):
            N_j = (R + c_jI)⁻¹;  Z = s(I + Σ a_jN_j);  RZ = s(R + Σ a_j(I − c_jN_j))
            Q ← ZQ;  R ← (RZ)Z
        polar = QX/√ρ

    2r + 1 = Π(2r_i + 1) makes stages of r_i poles whose composition is the function itself: order 4
    is two stages of one inverse each, better conditioned than four inverses side by side. Where
    inverses are dear, a best odd polynomial may follow the stages. ρ bounds σ₁² by the mean and the
    spread of the eigenvalues of XXᴴ,

        ρ = t + √((m − 1)(‖XXᴴ‖_F²/m − t²)),  t = tr(XXᴴ)/m,  σ₁² ≤ ρ ≤ ½(1 + √m)·σ₁²

    No iteration, and no product that touches n but XXᴴ and QX. Half precision is computed in
    float32, and every type in float64 whose rounding exceeds 1/64 of the smallest shift.

    Args:
        order: r, the number of poles.
        lower: the smallest σ/√ρ that is brought to 1 within the error of the function.
        refine: steps of the classical quintic on the result, X ← ⅛(15 − 10XXᴴ + 3(XXᴴ)²)X: an
            error e becomes 5/2·e³.
        tight: bound σ₁ from (XXᴴ)² in the same way, at the price of one product: then
            ρ ≤ √(½(1 + √m))·σ₁².
        degree: of the best odd polynomial that follows the stages: 5, 9 or 13 with one, two or
            three products, or 0 for none.

    Raises:
        ValueError: an order below 1, a `lower` outside (0, 1) or too small for float64, a negative
            number of refinements or another degree.

    Example:
        >>> import torch
        >>> q = Zolotarev(4, 1e-3)(torch.diag(torch.tensor([4.0, 0.1])))
        >>> bool((q - torch.eye(2)).abs().max() < 0.02)
        True

    Sources:
        Nakatsukasa & Freund, SIAM Review 58 (2016). The bound: Wolkowicz & Styan, Linear Algebra
        Appl. 29 (1980), Theorem 2.1.
    """

    order: int = 4
    lower: float = 1e-3
    refine: int = 0
    tight: bool = False
    degree: int = 0

    def __post_init__(self) -> None:
        if self.degree not in (0, 5, 9, 13):
            raise invalid("degree", self.degree, "give 5, 9 or 13, or 0 for no polynomial")
        if self.order < 1:
            raise invalid("order", self.order, "give at least one pole")
        if self.refine < 0:
            raise invalid("refine", self.refine, "give a number of steps >= 0")
        if not 1e-8 <= self.lower < 1 or not self._fits(torch.float64):
            raise invalid("lower", self.lower, "give a singular value in (0, 1), not so small")
        if self.degree and self._reached < 0.05:
            raise invalid("degree", self.degree, "give a higher order for so small a `lower`")

    @cached_property
    def stages(self) -> tuple[Rational, ...]:
        """The rational functions that are composed; each but the last of all is at most 1."""
        out: list[Rational] = []
        lower = self.lower
        for factor in _prime_factors(2 * self.order + 1):
            stage = best_rational(lower, factor // 2)
            lower = (1 - stage.error) / (1 + stage.error)
            out.append(stage._replace(scale=stage.scale / (1 + stage.error)))
        return tuple(out) if self.degree else (*out[:-1], stage)

    @property
    def _reached(self) -> float:
        """The least that the stages make of `lower`, where their largest value is 1."""
        error = self.stages[-1].error
        return (1 - error) / (1 + error)

    @property
    def design_error(self) -> float:
        """Largest |1 − f(σ)| on [lower, 1] of the whole function, in exact arithmetic."""
        if self.degree:
            return best_odd_polynomial(self._reached, self.degree)[1]
        return self.stages[-1].error

    def _fits(self, dtype: torch.dtype) -> bool:
        return min(s.shifts[0] for s in self.stages) >= SHIFT_MARGIN * epsilon(dtype)

    def compute_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        """The input's type or float32, the wider; float64 where that has too few digits."""
        wide = widened(dtype)
        if self._fits(wide):
            return wide
        return torch.complex128 if dtype.is_complex else torch.float64

    def accuracy(self, m: int, n: int, dtype: torch.dtype) -> Accuracy:
        """The error of the function and of the Gram matrix; resolution lower·√ρ/σ₁ at most."""
        work = self.compute_dtype(dtype, torch.device("cpu"))
        noise = SMALL_NOISE * epsilon(work) / 2
        lower = self.lower * spread(min(m, n), tight=self.tight)
        resolution = min(1.0, max(lower, math.sqrt(noise / NOISE_ERROR)))
        error = refined_error(self.design_error + noise / resolution**2, self.refine)
        error += product_rounding(m, n, dtype)
        return Accuracy(resolution, error, 1 + error)

    def _factor(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return self._factors([x], dtype)[0]

    def _factors(self, xs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
        grams = [hermitian_product(x, x.mH) for x in xs]
        roots = self._root(torch.cat(grams) if len(grams) > 1 else grams[0])
        parts = roots.split([len(x) for x in xs])
        return [refine(applied(q, x), self.refine) for q, x in zip(parts, xs, strict=True)]

    def _root(self, r: Tensor) -> Tensor:
        """Q of the polar factor QX for each Gram matrix XXᴴ."""
        if self.tight:
            bound = _largest_eigenvalue_bound(hermitian_product(r, r)).sqrt()
        else:
            bound = _largest_eigenvalue_bound(r)
        bound = safe_divisor(bound)
        r = r / bound
        q: Tensor
        for k, stage in enumerate(self.stages):
            last = stage is self.stages[-1] and not self.degree
            z, rz = _apply(stage, r, last)
            q = hermitian_product(z, q) if k else z
            if not last:
                r = hermitian_product(rz, z)
        if self.degree:
            coefficients, _ = best_odd_polynomial(self._reached, self.degree)
            q = hermitian_product(_polynomial(coefficients, r), q)
        return q / bound.sqrt()


def _apply(stage: Rational, r: Tensor, last: bool) -> tuple[Tensor, Tensor]:
    """Z and R·Z of one stage; of the last one R itself, since nobody needs R·Z."""
    z, rz = torch.zeros_like(r), r if last else r * stage.scale
    for shift, residue in zip(stage.shifts, stage.residues, strict=True):
        shifted = r.clone()
        shifted.diagonal(dim1=-2, dim2=-1).add_(shift)
        inverse = definite_inverse(shifted)
        weight = stage.scale * residue
        z.add_(inverse, alpha=weight)
        if not last:
            # R·(R + cI)⁻¹ = I − c(R + cI)⁻¹
            rz.add_(inverse, alpha=-weight * shift).diagonal(dim1=-2, dim2=-1).add_(weight)
    z.diagonal(dim1=-2, dim2=-1).add_(stage.scale)
    return z, rz


def _polynomial(coefficients: Sequence[float], r: Tensor) -> Tensor:
    """c₀I + c₁R + c₂R² + … for 3, 5 or 7 coefficients, by Paterson and Stockmeyer's scheme."""
    a, b, c, *higher = coefficients
    square = hermitian_product(r, r)
    z = (r * b).add_(square, alpha=c)
    z.diagonal(dim1=-2, dim2=-1).add_(a)
    if not higher:
        return z
    if len(higher) == 2:
        factor, rest = square, (r * higher[0]).add_(square, alpha=higher[1])
    else:
        factor = hermitian_product(r, square)
        rest = (r * higher[1]).add_(square, alpha=higher[2]).add_(factor, alpha=higher[3])
        rest.diagonal(dim1=-2, dim2=-1).add_(higher[0])
    return z.add_(hermitian_product(factor, rest))


def _largest_eigenvalue_bound(gram: Tensor) -> Tensor:
    """Upper bound of the largest eigenvalue of each positive semidefinite matrix, (batch, 1, 1).

    With eigenvalues λ in [0, λ₁] it is at most ½(1 + √m)·λ₁, attained where a share
    ½(1 − 1/√m) of them is λ₁ and the rest 0.
    """
    m = gram.shape[-1]
    mean = gram.diagonal(dim1=-2, dim2=-1).real.mean(-1)[..., None, None]
    # The difference of ‖·‖_F² and m·mean² would lose half the digits where all λ are equal.
    centred = gram.clone()
    centred.diagonal(dim1=-2, dim2=-1).sub_(mean[..., 0])
    deviation = torch.linalg.vector_norm(centred, dim=(-2, -1), keepdim=True)
    # Rounding may leave the bound a few eps below λ₁.
    bound: Tensor = (mean + math.sqrt((m - 1) / m) * deviation) * (1 + 1e-5)
    return bound


def spread(m: int, *, tight: bool) -> float:
    """Largest √ρ/σ₁ that the bounds of `Zolotarev` leave for matrices with m rows."""
    largest = (1 + math.sqrt(m)) / 2
    return math.sqrt(largest) if not tight else math.sqrt(math.sqrt(largest))


def _prime_factors(number: int) -> list[int]:
    """Ascending, with multiplicity."""
    out, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            out.append(divisor)
            number //= divisor
        divisor += 1
    return out
