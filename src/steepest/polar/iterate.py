"""Polar factors by matrix products only: Newton–Schulz in standard and in Gram form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from steepest._types import invalid
from steepest.polar.base import (
    GRAM_NOISE,
    HALF,
    Accuracy,
    PolarMethod,
    epsilon,
    product_rounding,
    safe_divisor,
    widened,
)
from steepest.polar.schedule import POLAR_EXPRESS, Quintic, Schedule

# How far rounding, eps at first, may grow in a Gram matrix before it is formed anew.
# A spurious eigenvalue of 1e-3 changes no polynomial visibly; ten times more would.
RESTART_GROWTH = 1e-3


@dataclass(frozen=True)
class _Iteration(PolarMethod):
    """A schedule, and the type it runs in."""

    schedule: Schedule = POLAR_EXPRESS
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None and not self.dtype.is_floating_point:
            raise invalid("dtype", self.dtype, "give a real floating-point type or None")

    def compute_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        """The method's `dtype`; None means the input's, widened to float32 on a CPU."""
        # On a CPU half-precision products are slower than float32 ones.
        own = self.dtype or (widened(dtype) if device.type == "cpu" else dtype)
        return own.to_complex() if dtype.is_complex and not own.is_complex else own

    def _working_epsilon(self, dtype: torch.dtype) -> float:
        return epsilon(self.dtype or widened(dtype))


@dataclass(frozen=True)
class NewtonSchulz(_Iteration):
    """The iteration as it is usually written.

        X ← x / ‖x‖_F;  for (a, b, c):  A = XXᴴ;  X ← aX + (bA + cA²)X

    Args:
        schedule: the polynomials.
        dtype: compute type. None means the input's; half precision is widened to float32 on a CPU.

    Raises:
        ValueError: a compute type that is not a real floating-point one.

    Example:
        >>> import torch
        >>> from steepest.polar import polar_express
        >>> q = NewtonSchulz(polar_express(8))(torch.diag(torch.tensor([4.0, 1.0])))
        >>> bool((q - torch.eye(2)).abs().max() < 1e-3)
        True
    """

    def accuracy(self, m: int, n: int, dtype: torch.dtype) -> Accuracy:
        """‖x‖_F ≤ √m·σ₁, so a schedule made for [lower, 1] resolves σ/σ₁ ≥ √m·lower."""
        eps = self._working_epsilon(dtype)
        # Rounding of ‖X‖₂ = 1 drowns what is below eps; what is above carries eps/σ of it.
        lower = max(self.schedule.interval[0], GRAM_NOISE * eps)
        rounding = GRAM_NOISE * eps / lower if eps < 1e-4 else GRAM_NOISE * eps
        rounding += product_rounding(m, n, dtype)
        low, high = self.schedule.band(lower, 1.0)
        # Division by the norm and one Gram matrix, both rounded, leave ‖X‖₂ this far above 1.
        _, top = self.schedule.band(1e-8, 1.0 + eps)
        resolution = min(1.0, min(m, n) ** 0.5 * lower)
        return Accuracy(resolution, max(1 - low, high - 1) + rounding, top + rounding)

    def _factor(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        norm = torch.linalg.vector_norm(
            x, dim=(-2, -1), keepdim=True, dtype=torch.float32 if x.dtype in HALF else None
        )
        x = x / safe_divisor(norm).to(x.dtype)
        for a, b, c in self.schedule.folded:
            gram = x @ x.mH
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x


@dataclass(frozen=True)
class GramNewtonSchulz(_Iteration):
    """The same polynomials, applied to the m × m Gram matrix.

        p_T ∘ … ∘ p_1(x) = x·q(x²), so with R = XXᴴ:  polar = q(R)·X
        Q ← I;  for (a, b, c):  Z = aI + bR + cR²;  Q ← QZ;  R ← ZRZ

    Only the first and the last product touch n, and x is divided by ‖R²‖_F^{1/4} ≤ m^{1/8}·σ₁,
    which the first step has at hand and which uses the schedule's interval better than
    ‖x‖_F ≤ √m·σ₁.

    Rounding leaves eigenvalues of R slightly below zero, and they grow by a² a step. Before
    they matter the iteration restarts: X ← QX, R = XXᴴ, Q = I.

    Args:
        schedule: the polynomials.
        dtype: compute type. None means the input's; half precision is widened to float32 on a CPU.

    Raises:
        ValueError: a compute type that is not a real floating-point one.

    Example:
        >>> import torch
        >>> from steepest.polar import polar_express
        >>> q = GramNewtonSchulz(polar_express(8))(torch.diag(torch.tensor([4.0, 1.0])))
        >>> bool((q - torch.eye(2)).abs().max() < 1e-3)
        True

    Sources:
        Gram form: Dao-AILab, Gram Newton–Schulz (2026). The restart rule is derived from the
        growth of rounding, see `segments`.
    """

    def accuracy(self, m: int, n: int, dtype: torch.dtype) -> Accuracy:
        """The schedule's band under rounding of the Gram matrices; resolution m^{1/8}·lower."""
        eps = self._working_epsilon(dtype)
        lower = max(self.schedule.interval[0], GRAM_NOISE * eps)
        low, high, top = _noisy_band(self.schedule, eps, lower)
        resolution = min(1.0, min(m, n) ** 0.125 * lower)
        rounding = product_rounding(m, n, dtype)
        return Accuracy(resolution, max(1 - low, high - 1) + rounding, top + rounding)

    def _factor(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        q: Tensor | None = None
        for t, steps in enumerate(segments(self.schedule, epsilon(x.dtype))):
            if q is not None:
                x = q @ x
            gram = x @ x.mH
            square = gram @ gram
            if t == 0:
                # ‖R‖₂ ≤ √‖R²‖_F: R has entries of order n at most, so its square cannot overflow
                # in float32; half precision is accumulated and stored wide enough by `unit_scale`.
                bound = torch.linalg.matrix_norm(square, keepdim=True).sqrt()
                bound = safe_divisor(bound)
                x, gram, square = x / bound.sqrt(), gram / bound, square / bound**2
            q = _polynomial(gram, square, steps)
        if q is None:
            raise AssertionError("a schedule has at least one step")
        return q @ x


def _polynomial(gram: Tensor, square: Tensor, steps: tuple[Quintic, ...]) -> Tensor:
    """q(R) for the composed steps, given R and R²."""
    q: Tensor | None = None
    for t, (a, b, c) in enumerate(steps):
        if t:
            square = gram @ gram
        z = (b * gram).add_(square, alpha=c)
        z.diagonal(dim1=-2, dim2=-1).add_(a)
        q = z if q is None else q @ z
        if t + 1 < len(steps):
            gram = z @ (gram @ z)
    if q is None:
        raise AssertionError("a segment has at least one step")
    return q


@lru_cache(maxsize=512)
def segments(schedule: Schedule, eps: float) -> tuple[tuple[Quintic, ...], ...]:
    """The schedule cut where the Gram matrix must be formed anew.

    An eigenvalue of rounding size eps grows by a² in a step with linear coefficient a. A segment
    ends before eps·Πa² exceeds 1e-3, but not before its second step: in half precision one step
    alone exceeds that.

    Example:
        >>> from steepest.polar import polar_express
        >>> [len(s) for s in segments(polar_express(6), 1.2e-7)]
        [2, 4]
    """
    out: list[list[Quintic]] = []
    growth = 1.0
    for step in schedule.folded:
        growth *= step[0] ** 2
        if not out or (len(out[-1]) >= 2 and eps * growth > RESTART_GROWTH):
            out.append([])
            growth = step[0] ** 2
        out[-1].append(step)
    return tuple(tuple(s) for s in out)


@lru_cache(maxsize=512)
def _noisy_band(schedule: Schedule, eps: float, lower: float) -> tuple[float, float, float]:
    """(lowest, highest) on [lower, 1] and highest on [0, 1], with R off by ±GRAM_NOISE·eps."""
    sigma = torch.cat(
        [
            torch.zeros(1, dtype=torch.float64),
            torch.logspace(-12, 0, 4_001, dtype=torch.float64),
            torch.linspace(1e-3, 1, 4_001, dtype=torch.float64),
            torch.tensor([lower, 1 + GRAM_NOISE * eps], dtype=torch.float64),
        ]
    )
    inside = sigma >= lower
    lows, highs, tops = [], [], []
    for sign in (-1.0, 0.0, 1.0):
        x = sigma
        for steps in segments(schedule, eps):
            r, q = x * x + sign * GRAM_NOISE * eps, torch.ones_like(x)
            for a, b, c in steps:
                z = a + r * (b + r * c)
                q, r = q * z, r * z * z
            x = (q * x).abs()
        lows.append(float(x[inside].min()))
        highs.append(float(x[inside].max()))
        tops.append(float(x.max()))
    return min(lows), max(highs), max(tops)
