"""Ends of a certificate's intervals from eigenvalue problems of m × m matrices."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from steepest._common.numerics import safe_divisor
from steepest.polar._ends import DOUBT, EPS, Ends, Judged, frobenius, off_one, outwards, rounding
from steepest.polar._rounding import refine

# The eigenvalues of a Gram matrix, which is rounded before it is decomposed, are off by so many
# `rounding`·λ₁. Measured in longer arithmetic: 0.6 at most (4 × 4 to 300 × 1000, two kernels).
SQUARED = 4.0

# The rounding of a residual is 0.05·`rounding`·‖x‖_F at most in the same measurement. Bounds allow
# for three times as much as `_decomposed` does for its own: so they hold what that gives.
WIDER = 3.0

# Corrections of an isometry towards the polar factor. Each squares its distance: 0.5 at most
# at first, rounding after the last.
CORRECTIONS = 4


class Isometry(NamedTuple):
    """w near an isometry, and how far that isometry is from the polar factor of x.

    Args:
        w: the matrices.
        away: bound on ‖w − p‖_F; inf where x may have a lower rank.
        least: lower bound of ‖x‖_*.
        most: upper bound of it.
        settled: whether a correction cannot do better, for what is left is rounding.
    """

    w: Tensor
    away: Tensor
    least: Tensor
    most: Tensor
    settled: Tensor

    @staticmethod
    def of(x: Tensor, w: Tensor, cutoff: float, wider: float = 1.0) -> Isometry:
        """Bound ‖w − p‖_F by ‖F‖_F/λ_min(S), S the Hermitian part of xwᴴ and F = x − Sw.

        For p and w are one function, the sign, of [0 x; xᴴ 0] and of [0 y; yᴴ 0] with y = Sw. Its
        divided differences are at most 1/λ_min(S) there: σ_min(x) ≥ λ_min(S), since ‖w‖₂ = 1.

        Args:
            x: the matrices.
            w: near-isometries, of the shape of `x`.
            cutoff: the share of σ₁ below which a singular value of x counts as zero.
            wider: how many times their rounding the products may be off.
        """
        eps, size, root = rounding(x), frobenius(x), x.shape[-2] ** 0.5
        eye = torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
        defect = frobenius(w @ w.mH - eye) + 2 * eps
        inner, hermitian = _split(x, w)
        spectrum = torch.linalg.eigvalsh(hermitian)
        skew, rest = frobenius(inner - hermitian), frobenius(x - inner @ w)
        residual, noise = frobenius(x - hermitian @ w), wider * eps * size
        top = (spectrum.abs().amax(dim=-1) + skew + noise) * (1 + defect) + rest + noise
        top = torch.minimum(top, size * (1 + eps))
        # The isometry nearest to w is `defect` away, and S and F change by so much.
        lost = top * defect + noise
        total, smallest = spectrum.abs().sum(dim=-1), spectrum[:, 0] - lost
        # Then every σ is above the cut-off, beyond the doubt of a decomposition.
        full = smallest > (cutoff + 2 * DOUBT * max(x.shape[-2:]) * EPS) * top
        away = (residual + top * defect + lost) / torch.where(full, smallest, 1.0) + defect
        least = torch.maximum((total - root * lost) / (1 + defect), size * (1 - eps))
        most = (total + root * (skew + lost)) * (1 + defect) + root * (rest + lost)
        most = torch.maximum(least, torch.minimum(most, root * size * (1 + eps)))
        settled = (residual <= noise) & (defect < 1e-9) | (spectrum[:, 0] <= noise)
        return Isometry(w, torch.where(full, away, math.inf), least, most, settled)

    def better(self, other: Isometry) -> Isometry:
        """Take for each matrix the isometry that is known to be nearer."""
        nearer = other.away < self.away
        w, away, least, most, settled = (
            torch.where(nearer[:, None, None] if a.ndim == 3 else nearer, b, a)
            for a, b in zip(self, other, strict=True)
        )
        return Isometry(w, away, least, most, settled)


def _split(x: Tensor, w: Tensor) -> Ends:
    """xwᴴ and its Hermitian part S."""
    inner = x @ w.mH
    return inner, (inner + inner.mH) / 2


def _corrected(x: Tensor, w: Tensor) -> Tensor:
    """A step of Newton's method from w towards the polar factor of x; w where it would be long.

    With x = Bp, p = w + Ωw + Y, Ω skew and Ywᴴ = 0: to first order SΩ + ΩS = 2K and SY = N.
    """
    inner, hermitian = _split(x, w)
    values, v = torch.linalg.eigh(hermitian)
    positive = values[:, 0] > 0
    values = torch.where(positive.unsqueeze(-1), values, 1.0)
    skew = v.mH @ (inner - hermitian) @ v
    turn = 2 * skew / (values.unsqueeze(-1) + values.unsqueeze(-2))
    rest = (v.mH @ (x - inner @ w)) / values.unsqueeze(-1)
    step = v @ (turn @ (v.mH @ w) + rest)
    # ‖step‖₂ ≤ ½: then the singular values of w + step lie within 1.12, where `refine` converges.
    short = positive & (frobenius(step @ step.mH) <= 0.25)
    return torch.where(short[:, None, None], refine(w + step, 3), w)


def _nearest(x: Tensor, w: Tensor, cutoff: float) -> Isometry:
    """The isometry near w that is nearest to the polar factor of x."""
    found = Isometry.of(x, w, cutoff, WIDER)
    for _ in range(CORRECTIONS):
        if bool(found.settled.all()):
            break
        before = found
        found = before.better(Isometry.of(x, _corrected(x, before.w), cutoff, WIDER))
        if not bool((found.away < before.away).any()):
            break
    return found


def _rooted(q: Tensor) -> tuple[Ends, Tensor]:
    """The singular values of q in rising order, and nearly (qqᴴ)^{-1/2}q."""
    values, v = torch.linalg.eigh(q @ q.mH)
    slack = SQUARED * rounding(q) * values[:, -1:].clamp(min=0)
    # Below the slack an eigenvalue is rounding of the Gram matrix, and so is its square root.
    root = torch.where(values > 4 * slack, safe_divisor(values).rsqrt(), 0.0)
    w = (v * root.to(v.dtype).unsqueeze(-2)) @ (v.mH @ q)
    sigma = (values - slack).clamp(min=0).sqrt(), (values + slack).clamp(min=0).sqrt()
    return sigma, refine(w, 1)


def _distance(x: Tensor, judged: Judged, sigma: Ends, found: Isometry) -> Ends:
    """‖q − UVᴴ‖_F/‖UVᴴ‖_F; 0 and inf where x may be of lower rank, ‖q‖_F where it is zero."""
    one, root, eps = judged.one, x.shape[-2] ** 0.5, rounding(x)
    full, zero = found.away < math.inf, frobenius(x) == 0
    size, off = judged.size, frobenius(judged.near - one[:, None, None] * found.w)
    slack = eps * (size + one * root) + one * torch.where(full, found.away, 0.0)
    # No isometry is nearer than the one with the singular vectors of q.
    ends = [end * (one / judged.power).unsqueeze(-1) for end in sigma]
    gaps = torch.maximum(one.unsqueeze(-1) - ends[1], ends[0] - one.unsqueeze(-1)).clamp(min=0)
    low = torch.maximum(off - slack, torch.linalg.vector_norm(gaps, dim=-1) * (1 - eps)) / root
    low = torch.where(zero, size * (1 - eps), torch.where(full, low, 0.0))
    high = torch.where(full, (off + slack) / root, math.inf)
    return outwards(low, torch.where(zero, size * (1 + eps), high), one)


def bounded(x: Tensor, q: Tensor, cutoff: float) -> dict[str, Ends]:
    """The intervals of every number, by its name.

    Args:
        x: matrices in units of their largest entries.
        q: the candidates for their polar factors.
        cutoff: σ ≤ cutoff·σ₁ of x count as zero.
    """
    judged = Judged.of(q)
    sigma, w = _rooted(judged.unit)
    found = _nearest(x, w, cutoff)
    if not bool((found.settled & (found.away < math.inf)).all()):
        # q may be none, or have lost a direction. Where x is well-conditioned it does alone.
        found = found.better(_nearest(x, _rooted(x)[1], cutoff))
    full, zero = found.away < math.inf, frobenius(x) == 0
    low, high = outwards(*sigma, judged.power.unsqueeze(-1))
    error = [e.amax(dim=-1) for e in off_one((low, high))]
    # x of lower rank has fewer directions, and q may be better on those than on all; a zero matrix
    # has none.
    smallest = torch.where(full, high[:, 0], high[:, -1])
    return {
        "orthogonality": (torch.where(full, error[0], 0.0), torch.where(zero, 0.0, error[1])),
        "smallest": (torch.where(zero, 0.0, low[:, 0]), torch.where(zero, 0.0, smallest)),
        "largest": (low[:, -1], high[:, -1]),
        "alignment": judged.alignment(x, found.least, found.most),
        "distance": _distance(x, judged, sigma, found),
    }
