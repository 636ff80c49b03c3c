"""Polar factors by matrix products only: Newton–Schulz in standard and in Gram form."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steepest._common.errors import invalid
from steepest._common.numerics import (
    HALF,
    converted,
    empty_like,
    epsilon,
    is_known,
    looked_at,
    safe_divisor,
    unit_scales,
)
from steepest.polar._blocks import Workspace, gram_matrix, largest_eigenvalue, nested
from steepest.polar._noise import band, half_backward, half_error, safe_segments
from steepest.polar._polynomials import GramPolynomial
from steepest.polar._rounding import GRAM_NOISE, factor_rounding
from steepest.polar._scale import fitted, overestimate
from steepest.polar.method import Accuracy, PolarMethod
from steepest.polar.schedule import POLAR_EXPRESS, Schedule

# Of a Gram matrix in bfloat16, ‖R‖_F: within, its square and that of its entries are normal.
SMALLEST_GRAM, LARGEST_GRAM = 1e-20, 1e20


@dataclass(frozen=True, repr=False)
class _Iteration(PolarMethod):
    """A schedule, and the type it runs in."""

    _shown = ("schedule",)
    schedule: Schedule = POLAR_EXPRESS
    dtype: torch.dtype | None = None
    _prepared: list[GramPolynomial] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        self._prepared.extend(
            map(GramPolynomial.of, self.schedule.folded)
        )  # before a step may be traced
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

    and with more coefficients accordingly.

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
        space = Workspace(x)
        for lead, b, c, pairs in self._prepared:
            gram = gram_matrix(x)
            q = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            q = nested(gram, q, pairs, space) if pairs else q
            x = torch.baddbmm(x, q, x, beta=lead)
        return x


@dataclass(frozen=True, repr=False)
class GramNewtonSchulz(_Iteration):
    """The same polynomials, applied to the m × m Gram matrix.

        p_T ∘ … ∘ p_1(x) = x·q(x²), so with R = XXᴴ:  polar = q(R)·X
        Q ← I;  for (a, b, c):  Z = aI + bR + cR²;  Q ← QZ;  R ← ZRZ

    Longer polynomials make a longer Z, with one product of m × m matrices more for two degrees in
    R. Only the first and the last product touch n. X is divided by √ρ, a bound of its largest
    singular value made of R and R², which the first step has at hand,

        ρ = c/2 + √(c²/4 + ‖R² − cR‖_F),  c = ⟨R, R²⟩/‖R‖_F²

    since λ₁² − cλ₁ is an eigenvalue of R² − cR. It uses the schedule's interval better than
    ‖X‖_F ≤ √m·σ₁ does: √ρ ≤ 1.65·σ₁ for 768 rows, 1.96·σ₁ for 4096.

    Rounding leaves eigenvalues of R slightly below zero, and they grow by a² per step. Before
    they matter the iteration restarts: X ← QX, R = XXᴴ, Q = I. A segment is what lies between two
    restarts. Segments of one step make the standard iteration, X ← aX + (bR + cR²)X.

    **Half precision** as compute type keeps the identity in Z = aI + Z' and Q = qI + Q' apart from
    the matrices, whose rounding would otherwise drown small singular values, and takes q·X from X
    as it came. The promise then has two parts. The singular values end in the stated band. The
    directions are those of X + E with ‖E‖₂ ≤ `backward`·σ₁: rounding turns a pair of singular
    vectors with σ by backward·σ₁/σ at most, and any pair by up to 8·eps, with segments of several
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
        tight: bound σ₁ from R² and R⁴ in the same way, at the price of one product; 2 for R⁴ and
            R⁸, at that of two.

    Raises:
        ValueError: a compute type other than float16, bfloat16, float32 and float64, segments
            that do not add up to the steps of the schedule, or another `tight`.

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
    any_scale = (torch.bfloat16,)
    segments: tuple[int, ...] | None = None
    tight: bool | int = False
    _steps: dict[torch.dtype, tuple[tuple[GramPolynomial, ...], ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        steps, own = tuple(self._prepared), self.segments
        if own is not None and (sum(own) != len(steps) or any(length < 1 for length in own)):
            raise invalid("segments", own, f"give positive numbers whose sum is {len(steps)}")
        if self.tight not in (0, 1, 2):
            raise invalid("tight", self.tight, "give False, True or 2")
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
        rounding = factor_rounding(m, n, stored, work) + (half_error(parts, eps) if half else 0.0)
        backward = half_backward(parts, eps) if half else GRAM_NOISE * eps
        return Accuracy(resolution, max(1 - low, high - 1) + rounding, top + rounding, backward)

    def _factor(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return self._factors([x], dtype)[0]

    def _factors(self, xs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
        work = self.compute_dtype(dtype, xs[0].device)
        half, counts = work in HALF, [len(x) for x in xs]
        (first, *rest), *others = self._steps[work]
        space = Workspace(xs[0], work)
        if half:
            xs = self._started_in_half(xs, first, rest, space)
        else:
            gram = space.gram(xs)
            square = space.product(gram)
            bound, q, gram = self._first(first, gram, square, space, divided=bool(rest))
            _, q = _composed(first.lead, q, gram, rest, space, apart=False)
            triples = zip(q.split(counts), xs, bound.rsqrt().split(counts), strict=True)
            xs = [space.product_like(part * root, x) for part, x, root in triples]
        for (lead, b, c, pairs), *more in others:
            gram = space.gram(xs)
            q = space.product(gram, plus=gram, beta=b, alpha=c)
            q = nested(gram, q, pairs, space) if pairs else q
            if more or not half:
                lead, q = _composed(lead, q, gram, more, space, apart=half)
            each = zip(q.split(counts), xs, strict=True)
            xs = [space.product_like(part, x, beta=lead) for part, x in each]
        return xs

    def _first(
        self, step: GramPolynomial, gram: Tensor, square: Tensor, space: Workspace, *, divided: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """ρ, q(R/ρ) − q(0)·I, in the type of R if it is quadratic, and R/ρ in that type.

        Args:
            step: q.
            gram: R, in single precision or wider.
            square: R², likewise; used up.
            space: memory for results.
            divided: whether R/ρ is needed; else the last result has no meaning.
        """
        if self.tight:
            bound = _tight_bound(square, self.tight, space)
        else:
            bound = largest_eigenvalue(gram, square, space)
        scale = step.c / bound**2
        q = square.mul_(scale) if space.writes else square * scale
        q = torch.addcmul(q, gram, step.b / bound, out=q if space.writes else None)
        if divided or step.pairs:
            gram = torch.div(gram, bound, out=empty_like(gram) if space.writes else None)
        return bound, nested(gram, q, step.pairs, space) if step.pairs else q, gram

    def _started_in_half(
        self,
        xs: list[Tensor],
        step: GramPolynomial,
        more: Sequence[GramPolynomial],
        space: Workspace,
    ) -> list[Tensor]:
        """The matrices after the first segment, in half precision; they come in float32.

        Norms, and the sum of the first polynomial, are taken in float32: where λ is near 1, b and c
        nearly cancel.
        """
        work, wide, counts = space.dtype, torch.float32, [len(x) for x in xs]
        # float16 has a small range. Where looking costs nothing, matrices in bfloat16 are brought
        # to another scale only if they need it.
        in_range = work == torch.float16 or not is_known(xs[0])
        if work == torch.float16:
            xs = [fitted(x) for x in xs]
        elif in_range:
            xs = unit_scales(xs)
        while True:
            rounded = [converted(x, work) for x in xs]
            own = converted(space.gram(rounded), wide)
            size = torch.linalg.vector_norm(own, dim=(-2, -1), keepdim=True)
            if in_range or looked_at(((size > SMALLEST_GRAM) & (size < LARGEST_GRAM)).all()):
                break
            in_range, xs = True, unit_scales(xs)
        # R with ‖R‖_F in [1/2, 1), so that R² is in the range.
        unit = torch.ldexp(torch.ones_like(size), -torch.frexp(size).exponent)
        own = own.mul_(unit) if space.writes else own * unit
        square = converted(space.product(converted(own, work)), wide)
        bound, q, gram = self._first(step, own, square, space, divided=bool(more))
        lead, q = step.lead, converted(q, work)
        if more:
            lead, q = _composed(lead, q, converted(gram, work), more, space, apart=True)
        # (lead·x + Q·fl(x))·root: what is large in lead·fl(x) and in Q·fl(x) cancels, so they are
        # added before they are rounded; lead·(x − fl(x)) follows.
        roots, out = (bound / unit).rsqrt().split(counts), []
        for part, x, half, root in zip(q.split(counts), xs, rounded, roots, strict=True):
            sums = space.product_like(part, half, beta=lead)
            if space.writes:
                lost = converted(half, wide)
                torch.sub(x, lost, out=lost)
                total = converted(sums, wide).add_(lost, alpha=lead).mul_(root)
                out.append(converted(total, work))
            else:
                out.append(torch.add(sums, x - half, alpha=lead).mul_(root).to(work))
        return out


def _tight_bound(square: Tensor, squarings: int, space: Workspace) -> Tensor:
    """A bound of the largest eigenvalue of R, from R² in single or double precision.

    It is the root of that of R², for which R⁴ is formed in the compute type; so again for another
    squaring.
    """
    # R² in units of its size: R⁴ may leave the range of the type.
    size = safe_divisor(torch.linalg.vector_norm(square, dim=(-2, -1), keepdim=True))
    inner = space.times(square, 1 / size)
    if space.dtype in HALF:
        inner = converted(inner, space.dtype)
    fourth = space.product(inner)
    half = space.dtype in HALF
    fine = converted(fourth, torch.float32) if half else fourth
    if squarings > 1:
        return (size * _tight_bound(fine, squarings - 1, space)).sqrt()
    inner = converted(inner, torch.float32) if half else inner
    return (size * largest_eigenvalue(inner, fine, space)).sqrt()


def _composed(
    lead: float,
    q: Tensor,
    gram: Tensor,
    steps: Sequence[GramPolynomial],
    space: Workspace,
    *,
    apart: bool,
) -> tuple[float, Tensor]:
    """(lead, Q') of q(R) = lead·I + Q' for a first step and more; lead is 0 unless `apart`.

    Args:
        lead: a of the first step.
        q: bR + cR² of it, used up.
        gram: R.
        steps: the coefficients of the others.
        space: memory for results.
        apart: whether the identity stays out of Q' and Z'. In half precision it must, or rounding
            of it drowns small singular values; the lead of many steps would cost digits in others.
    """
    if not apart:
        q.diagonal(dim1=-2, dim2=-1).add_(lead)
    z, own = q, lead
    for a, b, c, pairs in steps:
        # Of the step before, Z or own·I + Z'; everything here is a polynomial of R.
        half = space.product(z, gram, plus=gram if apart else None, beta=own, hermitian=True)
        gram = space.product(z, half, plus=half if apart else None, beta=own, hermitian=True)
        del half
        z, own = space.product(gram, plus=gram, beta=b, alpha=c), a
        z = nested(gram, z, pairs, space) if pairs else z
        if apart:
            q = space.product(q, z, plus=q, beta=own, hermitian=True).add_(z, alpha=lead)
        else:
            z.diagonal(dim1=-2, dim2=-1).add_(own)
            q = space.product(q, z, hermitian=True)
        lead *= own
    return lead if apart else 0.0, q
