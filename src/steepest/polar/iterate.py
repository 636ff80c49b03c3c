"""Polar factors by matrix products only: Newton–Schulz in standard and in Gram form."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steepest._common.errors import invalid
from steepest._common.numerics import HALF, epsilon, safe_divisor
from steepest.polar._blocks import (
    Workspace,
    gram_matrix,
    largest_eigenvalue,
    matmul_like,
    plus_matmul_like,
    workspace,
)
from steepest.polar._noise import band, half_backward, half_error, safe_segments
from steepest.polar._rounding import GRAM_NOISE, factor_rounding
from steepest.polar._scale import fitted, overestimate, unit_power
from steepest.polar.method import Accuracy, PolarMethod
from steepest.polar.schedule import POLAR_EXPRESS, Quintic, Schedule


@dataclass(frozen=True, repr=False)
class _Iteration(PolarMethod):
    """A schedule, and the type it runs in."""

    _shown = ("schedule",)
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


@dataclass(frozen=True, repr=False)
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
        wide = torch.float32 if x.dtype in HALF else None
        norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True, dtype=wide)
        x = x / safe_divisor(norm).to(x.dtype)
        for a, b, c in self.schedule.folded:
            square = gram_matrix(x)
            x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
        return x


@dataclass(frozen=True, repr=False)
class GramNewtonSchulz(_Iteration):
    """The same polynomials, applied to the m × m Gram matrix.

        p_T ∘ … ∘ p_1(x) = x·q(x²), so with R = XXᴴ:  polar = q(R)·X
        Q ← I;  for (a, b, c):  Z = aI + bR + cR²;  Q ← QZ;  R ← ZRZ

    Only the first and the last product touch n. X is divided by √ρ, a bound of its largest singular
    value made of R and R², which the first step has at hand,

        ρ = c/2 + √(c²/4 + ‖R² − cR‖_F),  c = ⟨R, R²⟩/‖R‖_F²

    since λ₁² − cλ₁ is an eigenvalue of R² − cR. It uses the schedule's interval better than
    ‖X‖_F ≤ √m·σ₁ does: √ρ ≤ 1.65·σ₁ for 768 rows, 1.96·σ₁ for 4096.

    Rounding leaves eigenvalues of R slightly below zero, and they grow by a² a step. Before
    they matter the iteration restarts: X ← QX, R = XXᴴ, Q = I. A segment is what lies between two
    restarts. Segments of one step make the standard iteration, X ← aX + (bR + cR²)X.

    **Half precision** as compute type keeps the identity in Z = aI + Z' and Q = qI + Q' apart from
    the matrices, whose rounding would otherwise drown small singular values, and takes q·X from X
    as it came. The promise then has two parts. The singular values end in the stated band. The
    directions are those of X + E with ‖E‖₂ ≤ `backward`·σ₁: rounding turns a pair of singular
    vectors with σ by backward·σ₁/σ at most, and any pair by up to 6·eps, with segments of several
    steps 60·eps. In bfloat16 that is a quarter of a radian for σ = 3e-3·σ₁; of a matrix with
    singular values from 1 to 1/300 in equal ratios the factor is off by 0.02 to 0.03 of its norm.
    **Input** in half precision has been rounded before: its own small directions, below some
    eps·σ₁, are already noise, and the factor of such a matrix is off by up to 0.06. Autograd
    through bfloat16 gives gradients that are off by a quarter: differentiate a wider type.

    Args:
        schedule: the polynomials.
        dtype: compute type. None means the input's, with half precision widened to float32.
        segments: numbers of steps between restarts, whose sum is that of the schedule; None makes
            them as long as rounding in the compute type allows.
        tight: bound σ₁ from R² and R⁴ in the same way, at the price of one product.

    Raises:
        ValueError: a compute type other than float16, bfloat16, float32 and float64, or segments
            that do not add up to the steps of the schedule.

    Examples:
        >>> import torch
        >>> from steepest.polar import polar_express
        >>> q = GramNewtonSchulz(polar_express(8))(torch.diag(torch.tensor([4.0, 1.0])))
        >>> bool((q - torch.eye(2)).abs().max() < 1e-3)
        True

    Sources:
        Gram form: Dao-AILab, Gram Newton–Schulz (2026). The restart rule is derived from the
        growth of rounding, see `safe_segments`.
    """

    rounds = True
    segments: tuple[int, ...] | None = None
    tight: bool = False
    _steps: dict[torch.dtype, tuple[tuple[Quintic, ...], ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        steps, own = self.schedule.folded, self.segments
        if own is not None and (sum(own) != len(steps) or any(length < 1 for length in own)):
            raise invalid("segments", own, f"give positive numbers whose sum is {len(steps)}")
        real = (*HALF, torch.float32, torch.float64)
        # For each compute type, before a step that may be traced.
        for dtype in (*real, torch.complex64, torch.complex128):
            parts = own or safe_segments(self.schedule, epsilon(dtype))
            ends = itertools.accumulate(parts, initial=0)
            self._steps[dtype] = tuple(steps[i:j] for i, j in itertools.pairwise(ends))

    def accuracy(self, m: int, n: int, dtype: torch.dtype) -> Accuracy:
        """The schedule's band under rounding of the Gram matrices; resolution lower·√ρ/σ₁."""
        work = self._work(dtype)
        eps = epsilon(work)
        half = work in HALF
        lower = self.schedule.interval[0]
        lower = lower if half else max(lower, GRAM_NOISE * eps)
        parts = tuple(len(part) for part in self._steps[work])
        low, high, top = band(self.schedule, parts, eps, lower)
        resolution = min(1.0, overestimate(min(m, n), tight=self.tight) * lower)
        # What is computed in the caller's type is not rounded to it once more.
        stored = torch.float32 if half and dtype == work else dtype
        rounding = factor_rounding(m, n, stored, work) + half * half_error(eps)
        backward = half_backward(parts, eps) if half else GRAM_NOISE * eps
        return Accuracy(resolution, max(1 - low, high - 1) + rounding, top + rounding, backward)

    def _factor(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return self._factors([x], dtype)[0]

    def _factors(self, xs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
        work = self.compute_dtype(dtype, xs[0].device)
        half, counts = work in HALF, [len(x) for x in xs]
        first, *others = self._steps[work]
        with workspace(xs[0].new_empty((), dtype=work)) as space:
            if work == torch.float16:
                xs = [fitted(x) for x in xs]
            # As they came, and rounded to the compute type.
            wide, xs = xs, [x.to(work) for x in xs]
            gram, unit = space.concatenate([gram_matrix(x, space) for x in xs]), None
            if work == torch.float16:
                unit = unit_power(gram)
                gram = gram * unit.to(work)
            square = space.hermitian(gram, gram)
            bound = largest_eigenvalue(gram, square)
            if self.tight:
                bound = _tighter(square, bound, space)
            roots = (bound if unit is None else bound / unit).rsqrt().split(counts)
            lead, q = _polynomial(gram, square, bound, first, space, apart=half)
            each = zip(q.split(counts), xs, wide, roots, strict=True)
            if half:
                xs = [_applied(lead, part, x, own, root) for part, x, own, root in each]
            else:
                xs = [matmul_like(part * root, x) for part, x, _, root in each]
            space.release(q)
            for steps in others:
                gram = space.concatenate([gram_matrix(x, space) for x in xs])
                lead, q = _polynomial(gram, None, None, steps, space, apart=half)
                pairs = zip(q.split(counts), xs, strict=True)
                if half:
                    xs = [plus_matmul_like(lead, part, x) for part, x in pairs]
                else:
                    xs = [matmul_like(part, x) for part, x in pairs]
                space.release(q)
        return xs


def _tighter(square: Tensor, bound: Tensor, space: Workspace) -> Tensor:
    """A bound of the largest eigenvalue of R from R² and R⁴, given a first one."""
    # R² in units near its size: R⁴ may leave the range of the type.
    square = square / bound.square().to(square.dtype)
    fourth = space.hermitian(square, square)
    root = largest_eigenvalue(square, fourth).sqrt()
    space.release(fourth)
    return bound * root


def _applied(lead: float, q: Tensor, x: Tensor, wide: Tensor, root: Tensor) -> Tensor:
    """(lead·wide + Qx)·root in the type of x, given x, which is `wide` rounded.

    What is large in lead·x and in Qx cancels, so they are added before they are rounded.
    """
    sums = plus_matmul_like(lead, q, x)
    return torch.add(sums, wide - x, alpha=lead).mul_(root).to(x.dtype)


def _polynomial(
    gram: Tensor,
    square: Tensor | None,
    bound: Tensor | None,
    steps: tuple[Quintic, ...],
    space: Workspace,
    *,
    apart: bool,
) -> tuple[float, Tensor]:
    """(lead, Q') of q(R) = lead·I + Q' for the composed steps; lead is 0 unless `apart`.

    Args:
        gram: R, used up; or R·bound.
        square: (R·bound)², used up; None to form R².
        bound: its factor, shape (batch, 1, 1); None for 1.
        steps: the coefficients.
        space: memory for results.
        apart: whether the identity stays out of Q' and Z'. In half precision it must, or rounding
            of it drowns small singular values; the lead of many steps would cost digits in others.
    """
    (lead, b, c), *others = steps
    if square is None or bound is None:
        q = space.hermitian(gram, gram, plus=gram, beta=b, alpha=c)
    else:
        # In float32 at least, as the bound is: where λ is near 1, b and c nearly cancel.
        terms = square * (c / bound**2), gram, b / bound
        if space.reuses:
            q = torch.addcmul(*terms, out=square)
        else:
            q = torch.addcmul(*terms).to(square.dtype)
        gram = gram / bound.to(gram.dtype) if others else gram
    if not apart:
        q.diagonal(dim1=-2, dim2=-1).add_(lead)
    z, own = q, lead
    for a, b, c in others:
        # Of the step before, Z or own·I + Z'; everything here is a polynomial of R.
        half = space.hermitian(z, gram, plus=gram if apart else None, beta=own)
        space.release(gram)
        gram = space.hermitian(z, half, plus=half if apart else None, beta=own)
        space.release(half)
        if z is not q:
            space.release(z)
        z, own = space.hermitian(gram, gram, plus=gram, beta=b, alpha=c), a
        if apart:
            longer = space.hermitian(q, z, plus=q, beta=a).add_(z, alpha=lead)
        else:
            z.diagonal(dim1=-2, dim2=-1).add_(a)
            longer = space.hermitian(q, z)
        space.release(q)
        q, lead = longer, lead * a
    if z is not q:
        space.release(z)
    space.release(gram)
    return lead if apart else 0.0, q
