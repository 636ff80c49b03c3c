"""Unitarily invariant norms of matrices: a symmetric norm of the singular values."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from jaxtyping import Inexact
from torch import Tensor

from steepest._common.checks import check_object
from steepest._common.numerics import (
    epsilon,
    full_precision,
    power_of_two_scale,
    unit_scale,
    widened,
)
from steepest.norms._vectors import Exponent, l2_dualize, lp_dualize, lp_norm, lp_project
from steepest.norms.norm import Coupling, Norm, ball_radius
from steepest.polar import PolarMethod, Svd
from steepest.polar._members import eigh, svd, svdvals
from steepest.sharding.reductions import redistribute_like

_NAMES = {1.0: "Nuclear", 2.0: "Frobenius", math.inf: "Spectral"}


class UnitarilyInvariantNorm(Norm):
    """A norm of matrices that depends on the singular values alone.

    With X = U·diag(σ)·Vᴴ and a symmetric norm f of vectors:

        n(X) = f(σ);  n.dual(G) = f.dual(σ)
        n.dualize(G) = U·diag(f.dualize(σ))·Vᴴ;  n.project(X, r) = U·diag(f.project(σ, r))·Vᴴ

    It is unitarily invariant: n(A·X·B) = n(X) for unitary A and B, real or complex. Singular values
    at the level of rounding, max(m, n)·eps·σ₁, count as zero.

    A subclass writes f: `_norm_of`, `_dualize_values` and `_project_values`, on singular values in
    falling order along the last axis.

    With a polar method Q = polar(X) the singular values and vectors come from the eigenvalues of
    QᴴX, which is what the method is good for: faster than an SVD, and as exact as the method.

    Sources:
        von Neumann 1937; Lewis, The convex analysis of unitarily invariant matrix functions, 1995;
        Higham & Papadimitriou, Parallel Comput. 20 (1994), for the SVD by the polar factor.
    """

    polar: PolarMethod | None

    @abstractmethod
    def _norm_of(self, s: Tensor) -> Tensor:
        """f(σ)."""

    @abstractmethod
    def _dualize_values(self, s: Tensor) -> Tensor:
        """The duality map of f at σ."""

    @abstractmethod
    def _project_values(self, s: Tensor, radius: Tensor) -> Tensor:
        """The projection of σ, in float64, on the ball of f, if it is outside."""

    def _fits(self, x: Tensor) -> None:
        """Raise if the norm does not exist for this shape."""

    @property
    def couples(self) -> Coupling:
        """The whole matrix."""
        return Coupling.MATRIX

    @property
    def axes(self) -> int:
        """Two."""
        return 2

    @property
    def symmetric(self) -> bool:
        """True: a transposed matrix has the same singular values."""
        return True

    def validate(self, x: Tensor, check: bool, argument: str = "x") -> None:
        """Raise unless `x` holds finite matrices of a shape for which the norm exists."""
        super().validate(x, check, argument)
        self._fits(x)

    def _factors(self, x: Tensor, q: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """U, σ in falling order and Vᴴ of matrices in a working type; q is their polar factor."""
        if self.polar is None:
            u, s, vh = svd(x)
        elif x.shape[-2] < x.shape[-1]:
            v, s, uh = self._factors(x.mH, None if q is None else q.mH)
            return uh.mH, s, v.mH
        else:
            q = self.polar(x) if q is None else q
            h = q.mH @ x
            values, v = eigh((h + h.mH) / 2)
            s, v = values.flip(-1).clamp(min=0), v.flip(-1)
            u, vh = q @ v, v.mH
        cutoff = max(x.shape[-2:]) * epsilon(x.dtype) * s[..., :1]
        return u, torch.where(s <= cutoff, 0.0, s), vh

    def _singular_values(self, x: Tensor) -> Tensor:
        if self.polar is None:
            return svdvals(x)
        # dσ = Re vᴴ·Qᴴ·dX·v: the derivative of Q has no part in it.
        return self._factors(x, self.polar(x.detach()))[1]

    def __call__(self, x: Inexact[Tensor, ...], *, check: bool = True) -> Tensor:
        """f(σ): one real number for each matrix."""
        self.validate(x, check)
        wide = x.to(widened(x.dtype))
        power = power_of_two_scale(wide.detach())
        with full_precision(x.device):
            return self._measure(wide * power) / power[..., 0, 0]

    def _measure(self, x: Tensor) -> Tensor:
        """The norm of matrices whose largest entry is near 1."""
        return self._norm_of(self._singular_values(x))

    def dualize(self, g: Inexact[Tensor, ...], *, check: bool = True) -> Tensor:
        """U·diag(f.dualize(σ))·Vᴴ, the shape of `g`."""
        self.validate(g, check, "g")
        with full_precision(g.device):
            return self._direction(unit_scale(g.to(widened(g.dtype)))).to(g.dtype)

    def _direction(self, g: Tensor) -> Tensor:
        """The duality map of matrices whose largest entry is near 1."""
        u, s, vh = self._factors(g)
        mapped: Tensor = (u * self._dualize_values(s).to(u.dtype).unsqueeze(-2)) @ vh
        return mapped

    def project(
        self, x: Inexact[Tensor, ...], radius: float | Tensor = 1.0, *, check: bool = True
    ) -> Tensor:
        """U·diag(f.project(σ, radius))·Vᴴ; a matrix inside the ball as it is."""
        self.validate(x, check)
        r = ball_radius(radius, x, x.shape[:-2])
        wide = x.to(widened(x.dtype))
        power = power_of_two_scale(wide)
        r = r * power[..., 0, 0].double()
        with full_precision(x.device):
            u, s, vh = self._factors(wide * power)
            s = s.double()
            outside = self._norm_of(s) > r
            near = (u * self._project_values(s, r).to(u.dtype).unsqueeze(-2)) @ vh / power
        return torch.where(outside[..., None, None], near.to(x.dtype), x)


def method(polar: object) -> PolarMethod | None:
    """`polar`, if it is a polar method or None.

    Raises:
        ValueError: it is something else.
    """
    if polar is not None:
        remedy = "give a method object such as steepest.polar.Auto(error=0.05)"
        check_object("polar", polar, PolarMethod, remedy)
    return cast(PolarMethod | None, polar)


@dataclass(frozen=True, repr=False)
class Schatten(UnitarilyInvariantNorm):
    """The Schatten-p norm (Σσᵢ^p)^(1/p): the ℓp norm of the singular values.

        dual: Schatten-q with 1/p + 1/q = 1
        dualize(G) = U·diag(σ^(q−1))·Vᴴ / ‖σ‖_q^(q−1)

    p = ∞ is the spectral norm, whose duality map is the polar factor UVᴴ; p = 1 the nuclear norm,
    whose duality map is u₁v₁ᴴ; p = 2 the Frobenius norm, which needs no singular values.

    Args:
        p: the exponent, in [1, inf].
        polar: a method of `steepest.polar`; None means an SVD. For p = ∞ the duality map is
            this method; for other p but 2 it replaces the SVD, as `UnitarilyInvariantNorm` says.

    Raises:
        ValueError: p < 1.

    Examples:
        >>> import torch
        >>> x = torch.diag(torch.tensor([3.0, 4.0]))
        >>> [round(float(Schatten(p)(x)), 4) for p in (1, 2, math.inf)]
        [7.0, 5.0, 4.0]
        >>> Schatten(math.inf).dual == Nuclear(), Schatten(2) == Frobenius()
        (True, True)

    Sources:
        Schatten 1960; Bernstein & Newhouse, arXiv 2409.20325, section 2.
    """

    exponent: Exponent
    polar: PolarMethod | None = field(default=None)

    def __init__(self, p: float | Exponent, *, polar: PolarMethod | None = None) -> None:
        exponent = p if isinstance(p, Exponent) else Exponent.of(p)
        object.__setattr__(self, "exponent", exponent)
        object.__setattr__(self, "polar", method(polar))

    def __repr__(self) -> str:
        name = _NAMES.get(self.p)
        given = [] if name else [f"{self.p:g}"]
        given += [f"polar={self.polar}"] if self.polar is not None else []
        return f"{name or 'Schatten'}({', '.join(given)})"

    @property
    def p(self) -> float:
        """The exponent."""
        return self.exponent.p

    def with_polar(self, polar: PolarMethod | None) -> Schatten:
        """The same norm by this method; the Frobenius norm needs none."""
        return self if self.p == 2 else Schatten(self.exponent, polar=polar)

    @property
    def dual(self) -> Schatten:
        """Schatten-q, by the same polar method."""
        return Schatten(self.exponent.conjugate, polar=self.polar)

    @property
    def couples(self) -> Coupling:
        """The whole matrix; one number for p = 2."""
        return Coupling.SCALAR if self.p == 2 else Coupling.MATRIX

    def __call__(self, x: Inexact[Tensor, ...], *, check: bool = True) -> Tensor:
        """‖σ‖_p; for p = 2 by the entries."""
        if self.p != 2:
            return super().__call__(x, check=check)
        self.validate(x, check)
        return lp_norm(x.to(widened(x.dtype)), 2, (-2, -1))

    def dualize(self, g: Inexact[Tensor, ...], *, check: bool = True) -> Tensor:
        """U·diag(σ^(q−1))·Vᴴ/‖σ‖_q^(q−1); G/‖G‖_F for p = 2, for p = ∞ the polar factor."""
        if self.p not in (2, math.inf):
            return super().dualize(g, check=check)
        self.validate(g, check, "g")
        if self.p == 2:
            return redistribute_like(l2_dualize(g.to(widened(g.dtype)), (-2, -1)).to(g.dtype), g)
        q: Tensor = (self.polar or Svd())(g)
        return q

    def dualize_all(self, gs: Sequence[Tensor], *, check: bool = True) -> list[Tensor]:
        """`dualize` of each; for p = ∞ matrices with equal smaller sides share work."""
        if self.exponent.p < math.inf:
            return super().dualize_all(gs, check=check)
        if check:
            for g in gs:
                self.validate(g, check, "g")
        return (self.polar or Svd()).factors(gs)

    def sharp(self, g: Inexact[Tensor, ...], *, check: bool = True) -> Tensor:
        """‖G‖†·dualize(G); G itself for p = 2."""
        if self.p != 2:
            return super().sharp(g, check=check)
        self.validate(g, check, "g")
        return g.clone()

    def _measure(self, x: Tensor) -> Tensor:
        if self.p == 1 and self.polar is not None:
            # σ₁ + … + σ_r = ⟨X, polar(X)⟩, whose derivative is polar(X): the method has no part.
            q = self.polar(x.detach())
            return (x * q.conj()).real.sum(dim=(-2, -1))
        return super()._measure(x)

    def _singular_values(self, x: Tensor) -> Tensor:
        # The largest one does not profit from the others.
        return svdvals(x) if self.p == math.inf else super()._singular_values(x)

    def _norm_of(self, s: Tensor) -> Tensor:
        return lp_norm(s, self.p)

    def _dualize_values(self, s: Tensor) -> Tensor:
        return lp_dualize(s, self.exponent)

    def _project_values(self, s: Tensor, radius: Tensor) -> Tensor:
        return lp_project(s, self.exponent, radius)


def Spectral(*, polar: PolarMethod | None = None) -> Schatten:
    """The largest singular value; its duality map is the polar factor UVᴴ: Muon."""
    return Schatten(math.inf, polar=polar)


def Nuclear(*, polar: PolarMethod | None = None) -> Schatten:
    """The sum of the singular values; its duality map is u₁v₁ᴴ."""
    return Schatten(1, polar=polar)


def Frobenius() -> Schatten:
    """The Euclidean norm of the entries of each matrix; its duality map is G/‖G‖_F."""
    return Schatten(2)
