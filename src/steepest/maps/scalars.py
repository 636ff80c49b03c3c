"""Even convex functions of one number, and the same functions of the singular values."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest._common.checks import is_positive
from steepest._common.errors import invalid
from steepest._common.numerics import epsilon, full_precision, power_of_two_scale
from steepest.polar import PolarMethod
from steepest.polar._members import eigh


class Scalar(ABC):
    """An even convex function φ of a real number with its smallest value at 0, given on t ≥ 0.

    Laws, for numbers t ≥ 0 and 0 ≤ s ≤ limit:

        value(u) >= value(t) + slope(t)·(u − t)
        slope(0) == 0;  slope(t) <= limit
        conjugate(s) == max of s·t − value(t) over t >= 0
        slope(t) <= s  for  t < inverse(s)   and   slope(t) >= s  for  t > inverse(s)

    The functions take tensors of floating-point numbers and never leave their type. At a kink,
    `slope` is any slope between those at its two sides. A subclass is a frozen dataclass, and its
    name with its arguments is what it prints.
    """

    limit: float
    """The slope at infinity: the conjugate is finite up to it."""

    @abstractmethod
    def value(self, t: Tensor) -> Tensor:
        """φ(t), differentiable."""

    @abstractmethod
    def slope(self, t: Tensor) -> Tensor:
        """φ'(t)."""

    @abstractmethod
    def conjugate(self, s: Tensor) -> Tensor:
        """φ*(s) for s ≤ limit."""

    @abstractmethod
    def inverse(self, s: Tensor) -> Tensor:
        """The point where the slope is s: a slope of the conjugate."""

    def fits(self, dtype: torch.dtype) -> None:  # noqa: B027 - most functions have no parameter
        """Raise where a parameter is too large for this type."""

    def by_polar(self, x: Tensor, polar: PolarMethod) -> Tensor:
        """U·φ'(σ)·Vᴴ of matrices x = U·σ·Vᴴ, each m × n with m ≤ n, by polar factors.

        Here by the eigenvalues of XQᴴ with Q = polar(X): as good as the polar factor. A function
        with a formula that needs no eigenvalues has its own.
        """
        q = polar(x)
        with full_precision(x.device, x.dtype):
            values, u = eigh(hermitian(x @ q.mH))
            slopes = self.slope(values.clamp(min=0)).to(u.dtype)
            mapped: Tensor = (u * slopes.unsqueeze(-2)) @ (u.mH @ q)
        return mapped

    def gradient_bound(self, polar: PolarMethod, m: int, n: int, dtype: torch.dtype) -> float:
        """The largest singular value that `by_polar` can give, over the limit."""
        return polar.accuracy(m, n, dtype).upper


def hermitian(h: Tensor) -> Tensor:
    """½(H + Hᴴ)."""
    return (h + h.mH) / 2


@dataclass(frozen=True)
class Modulus(Scalar):
    """|t|: slope 1, conjugate 0 up to 1."""

    limit = 1.0

    def value(self, t: Tensor) -> Tensor:
        """|t|."""
        return t

    def slope(self, t: Tensor) -> Tensor:
        """1, and 0 at 0."""
        return (t > 0).to(t.dtype)

    def conjugate(self, s: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(s)

    def inverse(self, s: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(s)

    def by_polar(self, x: Tensor, polar: PolarMethod) -> Tensor:
        """The polar factor."""
        return polar(x)


@dataclass(frozen=True)
class Square(Scalar):
    """½t²: slope t, conjugate ½s² everywhere."""

    limit = math.inf

    def value(self, t: Tensor) -> Tensor:
        """½t²."""
        return t * t / 2

    def slope(self, t: Tensor) -> Tensor:
        """t."""
        return t.clone()

    def conjugate(self, s: Tensor) -> Tensor:
        """½s²."""
        return s * s / 2

    def inverse(self, s: Tensor) -> Tensor:
        """s."""
        return s.clone()

    def by_polar(self, x: Tensor, polar: PolarMethod) -> Tensor:
        """X itself."""
        return x.clone()


@dataclass(frozen=True)
class _Cornered(Scalar):
    """A function like |t| far from 0, and another one where t is about δ or less.

    A δ below the smallest normal number of the type of t counts as that number; one above its
    inverse is refused.
    """

    delta: float

    limit = 1.0

    def __post_init__(self) -> None:
        if not is_positive(self.delta):
            raise invalid(
                "delta", self.delta, "give a positive number: the size of a small gradient"
            )

    def fits(self, dtype: torch.dtype) -> None:
        """Raise where δ is too large for this type."""
        self._corner(dtype)

    def _corner(self, dtype: torch.dtype) -> float:
        """δ in this type: at least its smallest normal number, at most the inverse of that."""
        tiny = torch.finfo(dtype).tiny
        if self.delta > 1 / tiny:
            raise invalid(
                "delta",
                self.delta,
                f"{dtype} takes δ up to {1 / tiny:.2g}: give a smaller one, or a wider type",
            )
        return max(self.delta, tiny)


@dataclass(frozen=True)
class Root(_Cornered):
    """√(t² + δ²): slope t/√(t² + δ²), conjugate −δ√(1 − s²) up to 1.

    Args:
        delta: δ > 0, an absolute number in the units of t.

    Raises:
        ValueError: a δ that is not positive.
    """

    def value(self, t: Tensor) -> Tensor:
        """√(t² + δ²)."""
        return torch.hypot(t, torch.full_like(t, self._corner(t.dtype)))

    def slope(self, t: Tensor) -> Tensor:
        """t/√(t² + δ²)."""
        return t / self.value(t)

    def conjugate(self, s: Tensor) -> Tensor:
        """−δ√(1 − s²)."""
        return -self._corner(s.dtype) * ((1 - s) * (1 + s)).clamp(min=0).sqrt()

    def inverse(self, s: Tensor) -> Tensor:
        """δs/√(1 − s²)."""
        return self._corner(s.dtype) * s / ((1 - s) * (1 + s)).clamp(min=0).sqrt()

    def by_polar(self, x: Tensor, polar: PolarMethod) -> Tensor:
        """(XXᴴ + δ²I)^(−1/2)·X: the polar factor of [X, δI] is (XXᴴ + δ²I)^(−1/2)·[X, δI].

        Its singular values are √(σ² + δ²), so nothing is damped where δ is above the resolution of
        the method times σ₁.
        """
        m, n = x.shape[-2:]
        corner = self._corner(x.dtype) * torch.eye(m, dtype=x.dtype, device=x.device)
        block = torch.cat([x, corner.expand(*x.shape[:-2], m, m)], dim=-1)
        return polar(block).narrow(-1, 0, n)

    def gradient_bound(self, polar: PolarMethod, m: int, n: int, dtype: torch.dtype) -> float:
        """The upper bound that the method states for [X, δI]."""
        return polar.accuracy(m, m + n, dtype).upper


@dataclass(frozen=True)
class _Threshold(_Cornered):
    """A function whose slope has another form above δ than below it."""

    def _above(self, x: Tensor, polar: PolarMethod) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Q, H = XQᴴ, δ and the sign S of H − δI, in units where the larger of H and δ is near 1.

        Rounding in H hides what is below max(m, n)·eps of its size, and a δ below that counts as
        that much.
        """
        corner = self._corner(x.dtype)
        power = power_of_two_scale(x).clamp(max=2.0 ** -math.frexp(corner)[1])
        x = x * power
        q = polar(x)
        h = hermitian(x @ q.mH)
        size = torch.linalg.vector_norm(h, dim=(-2, -1), keepdim=True)
        floor = max(x.shape[-2:]) * epsilon(x.dtype) * size
        delta = torch.maximum(corner * power, floor)
        s = polar(h - delta * torch.eye(h.shape[-1], dtype=h.dtype, device=h.device))
        return q, h, delta, hermitian(s)


@dataclass(frozen=True)
class Clip(_Threshold):
    """Huber's function, t²/(2δ) up to δ, then t − δ/2: slope min(t/δ, 1), conjugate ½δs² up to 1.

    Args:
        delta: δ > 0, an absolute number in the units of t.

    Raises:
        ValueError: a δ that is not positive.
    """

    def value(self, t: Tensor) -> Tensor:
        """t²/(2δ) up to δ, then t − δ/2."""
        corner = self._corner(t.dtype)
        inner = t.clamp(max=corner)
        return inner * (inner / corner) / 2 + (t - inner)

    def slope(self, t: Tensor) -> Tensor:
        """min(t/δ, 1)."""
        corner = self._corner(t.dtype)
        return t.clamp(max=corner) / corner

    def conjugate(self, s: Tensor) -> Tensor:
        """½δs²."""
        return self._corner(s.dtype) * s * s / 2

    def inverse(self, s: Tensor) -> Tensor:
        """δs."""
        return self._corner(s.dtype) * s

    def by_polar(self, x: Tensor, polar: PolarMethod) -> Tensor:
        """M⁻¹HQ with M = max(H, δI) = ½(H + δI + S(H − δI)).

        Q = polar(X), H = XQᴴ and S = polar(H − δI), the sign.
        An error e of S is one of at most ½e, relatively, in M and so in the result. The difference
        ½(H + δI − S(H − δI))/δ is the same function, but its errors grow with σ₁/δ. Nearer to δ
        than the resolution of S times σ₁ the result is off by at most that over 2δ.
        """
        with full_precision(x.device, x.dtype):
            q, h, delta, s = self._above(x, polar)
            eye = torch.eye(h.shape[-1], dtype=h.dtype, device=h.device)
            larger = (h + delta * eye + hermitian(s @ (h - delta * eye))) / 2
            clipped: Tensor = torch.linalg.solve_ex(larger, h @ q, check_errors=False)[0]
            return clipped

    def gradient_bound(self, polar: PolarMethod, m: int, n: int, dtype: torch.dtype) -> float:
        """Twice that of the method: 2h/(h + δ) where the sign does not resolve h − δ."""
        return 2 * polar.accuracy(m, n, dtype).upper


@dataclass(frozen=True)
class Dead(_Threshold):
    """max(|t| − δ, 0): slope 1 above δ and 0 below, conjugate δ|s| up to 1.

    Args:
        delta: δ > 0, an absolute number in the units of t.

    Raises:
        ValueError: a δ that is not positive.
    """

    def value(self, t: Tensor) -> Tensor:
        """max(t − δ, 0)."""
        return (t - self._corner(t.dtype)).clamp(min=0)

    def slope(self, t: Tensor) -> Tensor:
        """1 above δ."""
        return (t > self._corner(t.dtype)).to(t.dtype)

    def conjugate(self, s: Tensor) -> Tensor:
        """δs."""
        return self._corner(s.dtype) * s

    def inverse(self, s: Tensor) -> Tensor:
        """δ, and 0 for s = 0."""
        return (s > 0).to(s.dtype) * self._corner(s.dtype)

    def by_polar(self, x: Tensor, polar: PolarMethod) -> Tensor:
        """½(I + S)·Q with Q = polar(X), S = polar(XQᴴ − δI).

        Where σ is nearer to δ than resolution·σ₁ + error·δ of the method, the result is anything
        between 0 and 1.
        """
        with full_precision(x.device, x.dtype):
            q, _, _, s = self._above(x, polar)
            return (q + s @ q) / 2

    def gradient_bound(self, polar: PolarMethod, m: int, n: int, dtype: torch.dtype) -> float:
        """½(1 + b)·a for the bounds a and b of the two factors."""
        bound = polar.accuracy(m, n, dtype).upper
        return bound * (1 + polar.accuracy(m, m, dtype).upper) / 2
