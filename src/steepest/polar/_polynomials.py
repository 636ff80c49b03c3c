"""Polynomials of a Gram matrix, whose coefficients stay small in the form that is evaluated."""

from __future__ import annotations

from typing import NamedTuple

Pair = tuple[float, float]


def symmetric_form(coefficients: tuple[float, ...], end: float = 1.0) -> tuple[Pair, ...]:
    """(A_i, B_i) of q(r) = Σ_i v^i·(A_i + B_i·r) with v = 4r(τ − r)/τ², given q(r) = Σ_k c_k·r^k.

    v lies in [0, 1] with r in [0, τ], and vanishes at both ends. The polynomials of a schedule have
    coefficients up to 20 here (degree 9) or 90 (degree 13), where powers of r have hundreds or
    thousands, which cancel.

    Args:
        coefficients: c_0, c_1, ….
        end: τ.

    Examples:
        >>> symmetric_form((2.0, -1.5, 0.5))
        ((2.0, -1.0), (-0.125, 0.0))
    """
    size = len(coefficients) // 2 + 1
    constant, slope = [0.0] * size, [0.0] * size
    # r^k = p(v) + r·s(v), and r² = τr − τ²v/4.
    p, s = [1.0] + [0.0] * (size - 1), [0.0] * size
    for c in coefficients:
        constant = [x + c * y for x, y in zip(constant, p, strict=True)]
        slope = [x + c * y for x, y in zip(slope, s, strict=True)]
        p, s = (
            [-(end**2) * x / 4 for x in [0.0, *s[:-1]]],
            [x + end * y for x, y in zip(p, s, strict=True)],
        )
    pairs = list(zip(constant, slope, strict=True))
    return tuple(pairs if any(pairs[-1]) else pairs[:-1])


def level_end(coefficients: tuple[float, ...]) -> float | None:
    """A τ in (1, 2) with q(τ) = q(0), by bisection; None if the ends tell of none.

    In the symmetric form with this τ, B_0 is 0. The polynomials of a schedule, but for the last
    ones, have it: they fall from q(0), which is large, and rise again beyond 1.

    Examples:
        >>> level_end((1.0, -1.5, 1.0))
        1.5
    """

    def slope(r: float) -> float:
        """(q(r) − q(0))/r."""
        return sum(c * r**k for k, c in enumerate(coefficients[1:]))

    low, high = 1.0, 2.0
    if not slope(low) < 0 < slope(high):
        return None
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return high


class GramPolynomial(NamedTuple):
    """The q of a step p(x) = x·q(x²), ready to be evaluated at a Gram matrix R.

    Every evaluation begins with the product bR + cR².

    Args:
        lead: q(0).
        b: the factor of R in that product.
        c: the factor of R².
        pairs: None if that is q(R) − q(0)·I, for quintics; else it is V = 4R(τ − R)/τ², and these
            are the coefficients of the symmetric form.
    """

    lead: float
    b: float
    c: float
    pairs: tuple[Pair, ...] | None

    @staticmethod
    def of(coefficients: tuple[float, ...]) -> GramPolynomial:
        """The step of an odd polynomial with these coefficients, three or more."""
        lead, b, c, *more = coefficients
        while more and not more[-1]:
            more.pop()
        if not more:
            return GramPolynomial(lead, b, c, None)
        coefficients = (lead, b, c, *more)
        level = level_end(coefficients)
        end = level or 1.0
        pairs = symmetric_form(coefficients, end)
        if level:
            pairs = ((pairs[0][0], 0.0), *pairs[1:])  # where rounding has left something
        return GramPolynomial(lead, 4 / end, -4 / end**2, pairs)
