"""Polar factors by rational functions of the Gram matrix: a few inverses, no iteration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from steepest._common.errors import invalid
from steepest._common.numerics import epsilon, safe_divisor, widened
from steepest.polar._blocks import (
    MARGIN,
    Workspace,
    inverse_in,
    largest_eigenvalue,
)
from steepest.polar._rounding import factor_rounding, refine, refined_error
from steepest.polar._scale import overestimate
from steepest.polar.design import Rational, best_odd_polynomial, best_rational
from steepest.polar.method import Accuracy, PolarMethod

# Measured: of the rounding of a Gram matrix (`GRAM_NOISE`), this many eps·λ₁ at most reach its
# small eigenvalues; 3.7 was the largest seen (sizes 64 to 768; log-spaced, flat, spiked and linear
# spectra).
SMALL_NOISE = 4.0

# The error that this noise is allowed at the resolution.
NOISE_ERROR = 0.027

# A shift is so many eps at least: then rounding cannot make a shifted Gram matrix indefinite.
SHIFT_MARGIN = 64.0


@dataclass(frozen=True, repr=False)
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
        tight: bound σ₁ from XXᴴ and (XXᴴ)² as `GramNewtonSchulz` does, at the price of one product.
        degree: the degree of the best odd polynomial that follows the stages: 5, 9 or 13 with one,
            two or three products, or 0 for none.

    Raises:
        ValueError: an order below 1, a `lower` outside (0, 1) or too small for float64, a negative
            number of refinements or another degree.

    Examples:
        >>> import torch
        >>> q = Zolotarev(4, 1e-3)(torch.diag(torch.tensor([4.0, 0.1])))
        >>> bool((q - torch.eye(2)).abs().max() < 0.02)
        True

    Sources:
        Nakatsukasa & Freund, SIAM Review 58 (2016). The bound: Wolkowicz & Styan, Linear Algebra
        Appl. 29 (1980), Theorem 2.1.
    """

    _shown = ("order", "lower")
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
        # torch.compile can look the coefficients up, but not derive them.
        _ = self.polynomial

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

    @cached_property
    def polynomial(self) -> tuple[tuple[float, ...], float]:
        """Coefficients of x, x³, … of what follows the stages, and its error; none for degree 0."""
        return best_odd_polynomial(self._reached, self.degree) if self.degree else ((), 0.0)

    @property
    def design_error(self) -> float:
        """Largest |1 − f(σ)| on [lower, 1] of the whole function, in exact arithmetic."""
        return self.polynomial[1] if self.degree else self.stages[-1].error

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
        lower = self.lower * root_overestimate(min(m, n), tight=self.tight)
        resolution = min(1.0, max(lower, math.sqrt(noise / NOISE_ERROR)))
        error = refined_error(self.design_error + noise / resolution**2, self.refine)
        # Q is a product itself, and polar = QX another one.
        error += 2 * factor_rounding(m, n, dtype, work)
        return Accuracy(resolution, error, 1 + error)

    def _factor(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return self._factors([x], dtype)[0]

    def _factors(self, xs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
        space = Workspace(xs[0])
        parts = self._root(space.gram(xs), space).split([len(x) for x in xs])
        pairs = zip(parts, xs, strict=True)
        return [refine(space.product_like(q, x), self.refine) for q, x in pairs]

    def _root(self, r: Tensor, space: Workspace) -> Tensor:
        """Q of the polar factor QX for each Gram matrix R = XXᴴ."""
        if self.tight:
            bound = largest_eigenvalue(r, space.product(r), space)
        else:
            bound = _largest_eigenvalue_bound(r, space)
        bound = safe_divisor(bound)
        r = space.times(r, 1 / bound)
        q: Tensor
        for k, stage in enumerate(self.stages):
            last = stage is self.stages[-1] and not self.degree
            z, rz = _apply(stage, r, last, space)
            r = r if last else space.product(rz, z, hermitian=True)
            # Functions of R commute.
            q = space.product(z, q, hermitian=True) if k else z
            del z, rz
        if self.degree:
            q = space.product(_polynomial(self.polynomial[0], r, space), q, hermitian=True)
        return space.times(q, bound.rsqrt())


def _apply(stage: Rational, r: Tensor, last: bool, space: Workspace) -> tuple[Tensor, Tensor]:
    """Z and R·Z of one stage; of the last one R itself, since nobody needs R·Z."""
    z = space.times(r, 0.0)
    rz = r if last else space.times(r, stage.scale)
    for shift, residue in zip(stage.shifts, stage.residues, strict=True):
        shifted = space.copy(r)
        shifted.diagonal(dim1=-2, dim2=-1).add_(shift)
        inverse = inverse_in(shifted, space)
        weight = stage.scale * residue
        z.add_(inverse, alpha=weight)
        if not last:
            # R·(R + cI)⁻¹ = I − c(R + cI)⁻¹
            rz.add_(inverse, alpha=-weight * shift).diagonal(dim1=-2, dim2=-1).add_(weight)
        del shifted, inverse
    z.diagonal(dim1=-2, dim2=-1).add_(stage.scale)
    return z, rz


def _polynomial(coefficients: Sequence[float], r: Tensor, space: Workspace) -> Tensor:
    """c₀I + c₁R + c₂R² + … for 3, 5 or 7 coefficients, by Paterson and Stockmeyer's scheme."""
    a, b, c, *higher = coefficients
    square = space.product(r)
    z = space.times(r, b).add_(square, alpha=c)
    z.diagonal(dim1=-2, dim2=-1).add_(a)
    if len(higher) == 2:
        rest = space.times(r, higher[0]).add_(square, alpha=higher[1])
        z.add_(space.product(square, rest, hermitian=True))
    elif higher:
        cube = space.product(r, square, hermitian=True)
        rest = space.times(r, higher[1]).add_(square, alpha=higher[2]).add_(cube, alpha=higher[3])
        rest.diagonal(dim1=-2, dim2=-1).add_(higher[0])
        z.add_(space.product(cube, rest, hermitian=True))
    return z


def _largest_eigenvalue_bound(gram: Tensor, space: Workspace) -> Tensor:
    """Upper bound of the largest eigenvalue of each positive semidefinite matrix, (batch, 1, 1).

    With eigenvalues λ in [0, λ₁] it is at most ½(1 + √m)·λ₁, attained where a share
    ½(1 − 1/√m) of them is λ₁ and the rest 0.
    """
    m = gram.shape[-1]
    mean = gram.diagonal(dim1=-2, dim2=-1).real.mean(-1)[..., None, None]
    # The difference of ‖·‖_F² and m·mean² would lose half the digits where all λ are equal.
    centred = space.copy(gram)
    centred.diagonal(dim1=-2, dim2=-1).sub_(mean[..., 0])
    deviation = torch.linalg.vector_norm(centred, dim=(-2, -1), keepdim=True)
    bound: Tensor = (mean + math.sqrt((m - 1) / m) * deviation) * (1 + MARGIN)
    return bound


def root_overestimate(m: int, *, tight: bool) -> float:
    """Largest √ρ/σ₁ that the bounds of `Zolotarev` leave for matrices with m rows."""
    return overestimate(m, tight=False) if tight else math.sqrt((1 + math.sqrt(m)) / 2)


def _prime_factors(number: int) -> list[int]:
    """Ascending, with multiplicity."""
    out, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            out.append(divisor)
            number //= divisor
        divisor += 1
    return out
