"""ℓp norms and duality maps along given axes, and projections of magnitudes along the last one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest._common.errors import invalid
from steepest.sharding.reductions import Dims, all_true, largest, length, squeezed, total

ROOT_STEPS = 100
"""Bound on the steps of a root search; about ten are taken."""


@dataclass(frozen=True)
class Exponent:
    """p and q with 1/p + 1/q = 1, kept as a pair so that the conjugate of the conjugate is p.

    Examples:
        >>> Exponent.of(3).conjugate.conjugate == Exponent.of(3)
        True
    """

    p: float
    q: float

    @staticmethod
    def of(p: object) -> Exponent:
        """The pair of p.

        Raises:
            ValueError: p < 1, or no number.
        """
        if not (isinstance(p, int | float) and p >= 1):
            raise invalid("p", p, "an ℓp norm needs p in [1, inf]; below 1 it is not a norm")
        p = float(p)
        return Exponent(p, math.inf if p == 1 else 1.0 if p == math.inf else p / (p - 1))

    @property
    def conjugate(self) -> Exponent:
        """The pair of q."""
        return Exponent(self.q, self.p)


def lp_norm(a: Tensor, p: float, dims: Dims = -1) -> Tensor:
    """‖a‖_p along axes, for entries of any size and type; differentiable."""
    if p == math.inf:
        return squeezed(largest(a.abs(), dims), dims)
    # Division of complex numbers overflows where that of their magnitudes does not.
    a = a.abs() if a.is_complex() else a
    # The norm is homogeneous: dividing by a constant and multiplying by it leaves the gradient.
    top = _divisor(largest(a.detach().abs(), dims))
    return squeezed(length(a / top, p, dims) * top, dims)


def _divisor(top: Tensor) -> Tensor:
    """The largest entries, and 1 for 0: divided by it, zero stays zero."""
    return torch.where(top > 0, top, 1.0)


def l2_dualize(a: Tensor, dims: Dims = -1) -> Tensor:
    """a/‖a‖₂ along axes, also for complex entries; zero gives zero."""
    b = a / _divisor(largest(a.abs(), dims))
    return b / _divisor(length(b, 2, dims))


def lp_dualize(a: Tensor, e: Exponent, dims: Dims = -1) -> Tensor:
    """argmax ⟨a, t⟩ over ‖t‖_p ≤ 1 for magnitudes a ≥ 0: t = a^(q−1)/‖a‖_q^(q−1).

    For p = 1 the weight is shared by all entries that tie for the largest; zero gives zero.
    """
    if e.p == math.inf:
        return (a > 0).to(a.dtype)
    b = a / _divisor(largest(a, dims))
    if e.p == 1:
        ties = (b == 1).to(a.dtype)
        return ties / total(ties, dims, keepdim=True).clamp(min=1)
    power = b ** (e.q - 1)
    # ‖b‖_q^(q−1) = ‖b^(q−1)‖_p, since p·(q − 1) = q. Its largest entry is 1, if there is one.
    return torch.where(b > 0, power / _divisor(length(power, e.p, dims)), 0.0)


def lp_project(a: Tensor, e: Exponent, radius: Tensor) -> Tensor:
    """The point nearest to magnitudes a ≥ 0 in the ball ‖·‖_p ≤ radius.

    Args:
        a: magnitudes in float64, shape (*batch, d).
        e: the exponent.
        radius: one number for each member of the batch.
    """
    r = radius.unsqueeze(-1)
    if e.p == math.inf:
        return torch.minimum(a, r)
    norm = lp_norm(a, e.p).unsqueeze(-1)
    if e.p == 2:
        inside = a * (r / torch.where(norm > 0, norm, 1.0))
    elif e.p == 1:
        inside = _simplex(a, r)
    else:
        # In units of the radius; a ball without extent is a point.
        unit = torch.where(r > 0, r, 1.0)
        inside = _lp_sphere(torch.where(norm > r, a / unit, 0.0), e) * r
    return torch.where(norm > r, inside, a)


def _simplex(a: Tensor, r: Tensor) -> Tensor:
    """max(a − θ, 0) with θ such that the entries add up to r (Duchi et al. 2008, figure 1)."""
    ordered = a.sort(dim=-1, descending=True).values
    counts = torch.arange(1, a.shape[-1] + 1, dtype=a.dtype, device=a.device)
    thresholds = (ordered.cumsum(dim=-1) - r) / counts
    kept = (ordered > thresholds).sum(dim=-1, keepdim=True).clamp(min=1)
    return (a - thresholds.gather(-1, kept - 1)).clamp(min=0)


def _lp_sphere(a: Tensor, e: Exponent) -> Tensor:
    """The nearest point with ‖y‖_p = 1 to a outside of it: y + μ·y^(p−1) = a for one μ > 0."""
    # The largest entry of y is at most 1 and at least d^(−1/p), which bounds μ from above.
    top = a.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(a.dtype).tiny)
    high = (top * a.shape[-1] ** (1 / e.q)).log()
    low = torch.full_like(high, math.log(torch.finfo(a.dtype).tiny))

    def excess(log_mu: Tensor) -> Tensor:
        return lp_norm(_stationary(a, log_mu.exp(), e), e.p).unsqueeze(-1).clamp(min=1e-300).log()

    y = _stationary(a, falling_root(excess, low, high).exp(), e)
    size = lp_norm(y, e.p).unsqueeze(-1)
    return y / torch.where(size > 0, size, 1.0)


def _stationary(a: Tensor, mu: Tensor, e: Exponent) -> Tensor:
    """The root y in [0, a] of y + μ·y^(p−1) = a, by Newton on the convex side."""
    # With z = y for p ≥ 2 and z = y^(p−1) below, the equation is convex in z: c·z + d·z^s = a.
    s = max(e.p - 1, 1 / (e.p - 1))
    c, d = (1.0, mu) if e.p >= 2 else (mu, torch.ones_like(mu))
    # Both bounds lie right of the root, where Newton's method descends to it.
    z = torch.minimum(a / c, (a / d) ** (1 / s))
    for _ in range(ROOT_STEPS):
        power = z ** (s - 1)
        step = (c * z + d * power * z - a) / (c + s * d * power)
        after = (z - step).clamp(min=0)
        done = all_true(after >= z * (1 - 1e-15))
        z = after
        if done:
            break
    return z if e.p >= 2 else z**s


def falling_root(f: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """The root of a continuous falling function in [low, high], for each entry by itself.

    Regula falsi with the Illinois rule, and a bisection in every third step; where f has no sign
    change the end with the smaller |f|.
    """
    f_low, f_high = f(low), f(high)
    best = torch.where(f_low.abs() <= f_high.abs(), low, high)
    error = torch.minimum(f_low.abs(), f_high.abs())
    # Rounding in f, whose terms are as large as its values at the ends, hides smaller ones.
    enough = torch.where((f_low > 0) & (f_high < 0), 4e-16 * error, math.inf)
    side = torch.zeros_like(low)
    for step in range(ROOT_STEPS):
        if all_true((error <= enough) | (high - low <= 4e-16 * (low.abs() + high.abs()))):
            break
        middle = (low + high) / 2
        if step % 3:
            slope = f_low - f_high
            secant = low + (high - low) * f_low / torch.where(slope > 0, slope, 1.0)
            middle = torch.where((secant > low) & (secant < high), secant, middle)
        value = f(middle)
        better = (value.abs() < error) & (enough < math.inf)
        best, error = torch.where(better, middle, best), torch.where(better, value.abs(), error)
        left = value > 0
        # An end that stays twice in a row counts half, or the secant creeps.
        f_high = torch.where(left, torch.where(side > 0, f_high / 2, f_high), value)
        f_low = torch.where(left, value, torch.where(side < 0, f_low / 2, f_low))
        low, high = torch.where(left, middle, low), torch.where(left, high, middle)
        side = torch.where(left, 1.0, -1.0)
    return best
