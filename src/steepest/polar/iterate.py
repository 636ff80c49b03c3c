"""Polar factors by matrix products only: Newton–Schulz in standard and in Gram form."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from steepest._common.errors import invalid
from steepest._common.numerics import HALF, epsilon
from steepest.polar._blocks import Workspace, gram_matrix, matmul_like
from steepest.polar._rounding import GRAM_NOISE, factor_rounding, gram_noise
from steepest.polar.method import Accuracy, PolarMethod
from steepest.polar.schedule import POLAR_EXPRESS, Quintic, Schedule

# How far rounding, eps at first, may grow in a Gram matrix before it is formed anew.
# A spurious eigenvalue of 1e-3 changes no polynomial visibly; ten times more would.
RESTART_GROWTH = 1e-3

# In half precision one step alone exceeds that. A second one is safe up to this growth: at its
# end the Gram matrix is not needed again (simulated by `_noisy_band`).
SECOND_STEP_GROWTH = 0.1

# ‖X‖_F² ≤ 2^14 keeps XXᴴ away from the largest float16, 65504, and √m·‖X‖_F from the smallest.
LARGEST_SCALE = 128.0


@dataclass(frozen=True)
class _Iteration(PolarMethod):
    """A schedule, and the type it runs in."""

    schedule: Schedule = POLAR_EXPRESS
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.dtype not in (None, *HALF, torch.float32, torch.float64):
            raise invalid("dtype", self.dtype, "give float16, bfloat16, float32, float64 or None")

    def compute_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        """The method's `dtype`; None means the input's, with half precision widened to float32.

        Complex input is computed in complex64 at least: there is no complex half precision.
        """
        own = self.dtype or dtype
        if own in HALF and (self.dtype is None or dtype.is_complex):
            own = torch.float32
        return own.to_complex() if dtype.is_complex and not own.is_complex else own

    def _work(self, dtype: torch.dtype) -> torch.dtype:
        return self.compute_dtype(dtype, torch.device("cpu"))


@dataclass(frozen=True)
class NewtonSchulz(_Iteration):
    """The iteration as it is usually written.

        X ← x / ‖x‖_F;  for (a, b, c):  A = XXᴴ;  X ← aX + (bA + cA²)X

    Args:
        schedule: the polynomials.
        dtype: compute type. None means the input's, with half precision widened to float32.

    Raises:
        ValueError: a compute type other than float16, bfloat16, float32 and float64.

    Examples:
        >>> import torch
        >>> from steepest.polar import polar_express
        >>> q = NewtonSchulz(polar_express(8))(torch.diag(torch.tensor([4.0, 1.0])))
        >>> bool((q - torch.eye(2)).abs().max() < 1e-3)
        True
    """

    def accuracy(self, m: int, n: int, dtype: torch.dtype) -> Accuracy:
        """‖x‖_F ≤ √m·σ₁, so a schedule made for [lower, 1] resolves σ/σ₁ ≥ √m·lower."""
        work = self._work(dtype)
        eps = epsilon(work)
        # Rounding of ‖X‖₂ = 1 drowns what is below eps; what is above carries eps/σ of it.
        lower = max(self.schedule.interval[0], GRAM_NOISE * eps)
        rounding = GRAM_NOISE * eps / lower if eps < 1e-4 else GRAM_NOISE * eps
        rounding += factor_rounding(m, n, dtype, work)
        # Division by the norm and one Gram matrix, both rounded, leave ‖X‖₂ this far above 1.
        low, high = self.schedule.band(lower, 1.0 + eps)
        _, top = self.schedule.band(1e-8, 1.0 + eps)
        resolution = min(1.0, min(m, n) ** 0.5 * lower)
        return Accuracy(resolution, max(1 - low, high - 1) + rounding, top + rounding)

    def _factor(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        x = _frobenius_normalised(x)
        for a, b, c in self.schedule.folded:
            square = gram_matrix(x)
            x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
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

    In float16 that keeps singular values down to eps·σ₁ = 1e-3·σ₁ apart from noise, with a schedule
    designed with safety 1.05. The result is then the factor of a matrix that rounding has moved
    from x by 6e-4·σ₁: a bound on singular values, while a direction with σ = 3e-3·σ₁ may turn by
    up to a fifth. bfloat16 is eight times as coarse.

    Args:
        schedule: the polynomials.
        dtype: compute type. None means the input's, with half precision widened to float32.

    Raises:
        ValueError: a compute type other than float16, bfloat16, float32 and float64.

    Examples:
        >>> import torch
        >>> from steepest.polar import polar_express
        >>> q = GramNewtonSchulz(polar_express(8))(torch.diag(torch.tensor([4.0, 1.0])))
        >>> bool((q - torch.eye(2)).abs().max() < 1e-3)
        True

    Sources:
        Gram form: Dao-AILab, Gram Newton–Schulz (2026). The restart rule is derived from the
        growth of rounding, see `segments`.
    """

    _segments: dict[torch.dtype, tuple[tuple[Quintic, ...], ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        real = (*HALF, torch.float32, torch.float64)
        # For each compute type, before a step that may be traced.
        for dtype in (*real, torch.complex64, torch.complex128):
            self._segments[dtype] = segments(self.schedule, epsilon(dtype))

    def accuracy(self, m: int, n: int, dtype: torch.dtype) -> Accuracy:
        """The schedule's band under rounding of the Gram matrices; resolution m^{1/8}·lower."""
        work = self._work(dtype)
        eps = epsilon(work)
        half = eps > epsilon(torch.float32)
        # Below eps, single precision says nothing; half precision has rounded x itself.
        lower = self.schedule.interval[0]
        lower = lower if half else max(lower, GRAM_NOISE * eps)
        low, high, top = _noisy_band(self.schedule, eps, lower)
        resolution = min(1.0, min(m, n) ** 0.125 * lower + half * eps)
        rounding = factor_rounding(m, n, dtype, work) + half * GRAM_NOISE * eps
        return Accuracy(resolution, max(1 - low, high - 1) + rounding, top + rounding)

    def _factor(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        space = Workspace(x)
        first, *others = self._segments[x.dtype]
        if x.dtype in HALF:
            x, gram = _fitted(x)
        else:
            gram = gram_matrix(x)
        square = gram @ gram
        # ‖R‖₂ ≤ √‖R²‖_F.
        bound = _norm(square).sqrt()
        x = (x / bound.sqrt()).to(x.dtype)
        gram, square = ((a / b).to(x.dtype) for a, b in ((gram, bound), (square, bound**2)))
        q = _polynomial(gram, square, first, space)
        for steps in others:
            x = matmul_like(q, x)
            gram = gram_matrix(x, space)
            space.release(q)
            q = _polynomial(gram, space.product(gram, gram), steps, space)
        return matmul_like(q, x)


def _norm(x: Tensor) -> Tensor:
    """‖x‖_F, in float32 at least, as a divisor: 1 for zero."""
    wide = torch.float32 if x.dtype in HALF else None
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True, dtype=wide)
    return torch.where(norm > 0, norm, 1.0)


def _frobenius_normalised(x: Tensor) -> Tensor:
    """x / ‖x‖_F; zero stays zero."""
    return x / _norm(x).to(x.dtype)


def _fitted(x: Tensor) -> tuple[Tensor, Tensor]:
    """x times a power of two, and its Gram matrix with ‖R‖_F in (1/4, 1]: for half precision.

    With ‖x‖_F = 1 the Gram matrix of a large flat one would lie below the normal float16 numbers,
    without any normalisation its entries, up to n, beyond the largest.
    """
    x = x * _power_below(min(x.shape[-2] ** 0.5, LARGEST_SCALE) / _norm(x)).to(x.dtype)
    gram = x @ x.mH
    power = _power_below(_norm(gram).rsqrt()).to(x.dtype)
    return x * power, gram * power**2


def _power_below(x: Tensor) -> Tensor:
    """The largest power of two that is at most x."""
    return torch.ldexp(torch.ones_like(x), torch.frexp(x).exponent - 1)


def _quintic(gram: Tensor, square: Tensor, step: Quintic, space: Workspace) -> Tensor:
    """aI + bR + cR²; takes the memory of R²."""
    a, b, c = step
    z = square.mul_(c) if space.reuses else square * c
    z = z.add_(gram, alpha=b)
    z.diagonal(dim1=-2, dim2=-1).add_(a)
    return z


def _polynomial(
    gram: Tensor, square: Tensor, steps: tuple[Quintic, ...], space: Workspace
) -> Tensor:
    """q(R) for the composed steps, given R and R², which it uses up."""
    q = z = _quintic(gram, square, steps[0], space)
    for step in steps[1:]:
        half = space.product(gram, z)
        space.release(gram)
        gram = space.product(z, half)
        space.release(half)
        if z is not q:
            space.release(z)
        z = _quintic(gram, space.product(gram, gram), step, space)
        longer = space.product(q, z)
        space.release(q)
        q = longer
    space.release(gram)
    return q


def segments(schedule: Schedule, eps: float) -> tuple[tuple[Quintic, ...], ...]:
    """The schedule cut where the Gram matrix must be formed anew.

    An eigenvalue of rounding size eps grows by a² in a step with linear coefficient a. A segment
    ends before eps·Πa² exceeds 1e-3, but takes a second step if one alone leaves it below 0.1.

    Examples:
        >>> from steepest.polar import polar_express
        >>> [len(s) for s in segments(polar_express(6), 1.2e-7)]  # float32
        [2, 4]
        >>> [len(s) for s in segments(polar_express(6), 9.8e-4)]  # float16
        [2, 2, 2]
    """
    out: list[list[Quintic]] = []
    growth = 1.0
    for step in schedule.folded:
        full = bool(out) and (len(out[-1]) >= 2 or eps * growth > SECOND_STEP_GROWTH)
        if not out or (full and eps * growth * step[0] ** 2 > RESTART_GROWTH):
            out.append([])
            growth = 1.0
        growth *= step[0] ** 2
        out[-1].append(step)
    return tuple(tuple(s) for s in out)


@lru_cache(maxsize=512)
def _noisy_band(schedule: Schedule, eps: float, lower: float) -> tuple[float, float, float]:
    """(lowest, highest) on [lower, 1] and highest on [0, 1], with R off by ±`gram_noise`."""
    noise = gram_noise(eps)
    # In half precision every product that R goes through is rounded as coarsely as the first one.
    again = noise if eps > epsilon(torch.float32) else 0.0
    sigma = torch.cat(
        [
            torch.zeros(1, dtype=torch.float64, device="cpu"),
            torch.logspace(-12, 0, 4_001, dtype=torch.float64, device="cpu"),
            torch.linspace(1e-3, 1, 4_001, dtype=torch.float64, device="cpu"),
            torch.tensor([lower, 1 + noise], dtype=torch.float64, device="cpu"),
        ]
    )
    inside = sigma >= lower
    lows, highs, tops = [], [], []
    for sign in (-1.0, 0.0, 1.0):
        x = sigma
        for steps in segments(schedule, eps):
            r, q = x * x + sign * noise, torch.ones_like(x)
            for a, b, c in steps:
                z = a + r * (b + r * c)
                q, r = q * z, r * z * z + sign * again
            x = (q * x).abs()
        lows.append(float(x[inside].min()))
        highs.append(float(x[inside].max()))
        tops.append(float(x.max()))
    # The extremes lie between the points of the grid.
    margin = 1.001
    low, high, top = (1 + margin * (v - 1) for v in (min(lows), max(highs), max(tops)))
    return low, high, top
