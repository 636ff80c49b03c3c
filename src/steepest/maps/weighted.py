"""Sums of even convex functions of one number, with positive weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest._common.checks import positive
from steepest._common.errors import invalid
from steepest.maps.scalars import Scalar
from steepest.polar import PolarMethod

BISECTIONS = 54
"""Halvings of an interval: to the digits of a double in units of its length."""


@dataclass(frozen=True, repr=False)
class Weighted(Scalar):
    """Σ c·φ(t) with positive weights c.

    Its conjugate is that of the one function scaled, `(c·φ)*(s) = c·φ*(s/c)`; with several it is
    found by bisection, in double precision, for the t with slope(t) = s.

    Args:
        terms: pairs (c, φ); no φ twice, in the order of their names: `Weighted.of` sees to that.

    Raises:
        ValueError: no terms, a weight that is not positive and finite, something not a scalar.
    """

    terms: tuple[tuple[float, Scalar], ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise invalid("terms", self.terms, "give at least one pair (weight, maps.Scalar)")
        for weight, scalar in self.terms:
            positive("weight", weight, "give a positive finite number: K stays convex")
            if not isinstance(scalar, Scalar):
                raise invalid("scalar", scalar, "give a maps.Scalar")

    @staticmethod
    def of(*terms: tuple[float, Scalar]) -> Scalar:
        """The sum Σ c·φ in its normal form: φ itself where it is 1·φ."""
        total: dict[Scalar, float] = {}
        for weight, scalar in terms:
            for inner, part in _terms(scalar):
                total[part] = total.get(part, 0.0) + weight * inner
        ordered = tuple((c, part) for part, c in sorted(total.items(), key=lambda i: repr(i[0])))
        return ordered[0][1] if len(ordered) == 1 and ordered[0][0] == 1 else Weighted(ordered)

    def __repr__(self) -> str:
        return f"Weighted({self.terms})"

    @property
    def limit(self) -> float:  # type: ignore[override]
        """Σ c·limit."""
        return sum(c * part.limit for c, part in self.terms)

    def _sum(self, function: Callable[[Scalar], Tensor]) -> Tensor:
        first, *rest = (c * function(part) for c, part in self.terms)
        return sum(rest, first)

    def value(self, t: Tensor) -> Tensor:
        """Σ c·φ(t)."""
        return self._sum(lambda part: part.value(t))

    def slope(self, t: Tensor) -> Tensor:
        """Σ c·φ'(t)."""
        return self._sum(lambda part: part.slope(t))

    def conjugate(self, s: Tensor) -> Tensor:
        """Σ c·φ*(φ'(t)) + (s − Σ c·φ'(t))·t at t = inverse(s).

        It is s·t − Σ c·φ(t), without the rounding of terms that cancel.
        """
        if len(self.terms) == 1:
            (c, part), *_ = self.terms
            return c * part.conjugate(s / c)
        t = self.inverse(s)
        # At the limit t is infinite, and every part is at its own limit.
        far = (s >= self.limit) | t.isinf()
        t = torch.where(far, 0.0, t)
        slopes = [part.slope(t) for _, part in self.terms]
        near = sum(
            (c * p.conjugate(v) for (c, p), v in zip(self.terms, slopes, strict=True)),
            (s - self.slope(t)) * t,
        )
        if math.isinf(self.limit):
            return near
        ends = sum(float(c * p.conjugate(s.new_tensor(p.limit))) for c, p in self.terms)
        return torch.where(far, ends, near)

    def inverse(self, s: Tensor) -> Tensor:
        """Bisect between 0 and a point where the slope is s or more."""
        if len(self.terms) == 1:
            (c, part), *_ = self.terms
            return part.inverse(s / c)
        low, high = torch.zeros_like(s), self._beyond(s)
        for _ in range(BISECTIONS):
            middle = low + (high - low) / 2
            below = self.slope(middle) < s
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return high

    def _beyond(self, s: Tensor) -> Tensor:
        """A t at which the slope is s or more."""
        steep = [(c, part) for c, part in self.terms if math.isinf(part.limit)]
        if steep:
            (c, part), *_ = steep
            return part.inverse(s / c)
        # Where each term has the same share of its limit.
        share = s / self.limit
        places = [part.inverse(share * part.limit) for _, part in self.terms]
        return torch.stack(places).amax(dim=0)

    def fits(self, dtype: torch.dtype) -> None:
        """Raise where a part does not fit."""
        for _, part in self.terms:
            part.fits(dtype)

    def by_polar(self, x: Tensor, polar: PolarMethod) -> Tensor:
        """The sum of those of the parts."""
        return self._sum(lambda part: part.by_polar(x, polar))

    def gradient_bound(self, polar: PolarMethod, m: int, n: int, dtype: torch.dtype) -> float:
        """The mean of those of the parts, by their share of the limit."""
        if math.isinf(self.limit):
            return math.inf
        bounds = (
            c * part.limit * part.gradient_bound(polar, m, n, dtype) for c, part in self.terms
        )
        return sum(bounds) / self.limit


def _terms(scalar: Scalar) -> tuple[tuple[float, Scalar], ...]:
    return scalar.terms if isinstance(scalar, Weighted) else ((1.0, scalar),)
