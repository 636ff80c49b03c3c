"""A norm as a convex map: its gradient is a duality map, its conjugate the ball of the dual."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Inexact
from torch import Tensor

from steepest._common.errors import invalid
from steepest.maps.base import ConvexMap, Separable, convex_factor
from steepest.maps.bases import basis_of
from steepest.maps.scalars import Modulus
from steepest.norms import Norm, Scaled, ShapeFactor
from steepest.polar import PolarMethod


@dataclass(frozen=True, repr=False)
class NormMap(ConvexMap):
    """K = a norm n that does not add up over a basis; `FromNorm` makes it.

        value = n;  grad = n.dual.dualize;  conjugate = 0 for n.dual(y) ≤ 1, else inf

    Args:
        norm: n.
    """

    norm: Norm

    def __repr__(self) -> str:
        return f"FromNorm({self.norm})"

    @property
    def domain(self) -> Norm:
        """The dual norm."""
        return self.norm.dual

    @property
    def geometry_norm(self) -> Norm:
        """The dual norm."""
        return self.norm.dual

    def value(self, x: Inexact[Tensor, ...], *, check: bool = True) -> Tensor:
        """n(x)."""
        self.validate(x, check)
        return self.norm(x, check=False)

    def grad(self, x: Inexact[Tensor, ...], *, check: bool = True) -> Tensor:
        """The duality map of the dual norm; 0 at 0."""
        self.validate(x, check)
        return self.grad_all([x], check=False)[0]

    def grad_all(self, xs: Sequence[Tensor], *, check: bool = True) -> list[Tensor]:
        """`grad` of each, together."""
        if check:
            for x in xs:
                self.validate(x, check)
        return self.norm.dual.dualize_all(xs, check=False)

    def conjugate(
        self, y: Inexact[Tensor, ...], *, tolerance: float | None = None, check: bool = True
    ) -> Tensor:
        """0 in the unit ball of the dual norm, inf outside."""
        self.validate(y, check, "y")
        size = self.domain(y, check=False)
        return torch.where(size <= 1 + self._slack(y, tolerance), 0.0, math.inf).to(size.dtype)

    def gradient_bound(self, m: int, n: int, dtype: torch.dtype) -> float:
        """1, or that of the polar method: it bounds the singular values of U·Vᴴ."""
        return 1.0 if self.polar is None else self.polar.accuracy(m, n, dtype).upper

    def with_polar(self, polar: PolarMethod | None) -> NormMap:
        """The same map by this method."""
        return NormMap(self.norm.with_polar(polar))

    def __rmul__(self, factor: float) -> NormMap:
        """`factor` times the norm."""
        weight, norm = _split(self.norm)
        return NormMap(_times(convex_factor(factor) * weight, norm))

    def __add__(self, other: ConvexMap) -> ConvexMap:
        """The sum with a multiple of the same norm."""
        if isinstance(other, NormMap):
            (weight, norm), (more, same) = _split(self.norm), _split(other.norm)
            if norm == same:
                return NormMap(_times(weight + more, norm))
        return super().__add__(other)


def _split(norm: Norm) -> tuple[float, Norm]:
    """(c, n) for the norm c·n, where n has no number but what depends on the shape."""
    if not isinstance(norm, Scaled):
        return 1.0, norm
    shape = replace(norm.factor, numerator=1.0, denominator=1.0)
    plain = norm.norm if shape == ShapeFactor() else Scaled(norm.norm, shape)
    return norm.factor.numerator / norm.factor.denominator, plain


def _times(weight: float, norm: Norm) -> Norm:
    """c·n for what `_split` gives."""
    if convex_factor(weight) == 1:
        return norm
    if isinstance(norm, Scaled):
        return Scaled(norm.norm, replace(norm.factor, numerator=weight))
    return Scaled(norm, weight)


def FromNorm(norm: Norm) -> ConvexMap:
    """K = a norm: the gradient is the duality map of the dual norm, whose unit ball is the domain.

        value = n;  grad = n.dual.dualize;  conjugate = 0 for n.dual(y) ≤ 1, else inf

    Any norm of tensors. Sums of absolute values of entries, of lengths of rows or columns, and of
    singular values are `L1Map`, `GroupRows`, `GroupColumns` and `NuclearMap`, and equal to them.

    Args:
        norm: n.

    Raises:
        ValueError: it is not a norm of tensors.

    Examples:
        >>> from steepest import norms
        >>> FromNorm(norms.Schatten(4)).domain == norms.Schatten(4).dual
        True
        >>> FromNorm(norms.Nuclear()), FromNorm(norms.Spectral()).domain
        (NuclearMap(), Nuclear())
    """
    if not isinstance(norm, Norm):
        raise invalid("norm", norm, "give a norm object such as norms.Schatten(4)")
    weight, plain = _split(norm)
    basis = basis_of(plain.dual)
    return NormMap(norm) if basis is None else weight * Separable(Modulus(), basis)
