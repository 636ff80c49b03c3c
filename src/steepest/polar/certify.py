"""How good a polar factor is: a certificate from the matrix and the factor alone."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from jaxtyping import Float64, Inexact
from torch import Tensor

from steepest._types import invalid, shape_text
from steepest.polar.base import (
    check_matrices,
    epsilon,
    in_double,
    safe_divisor,
    unit_scale,
    widened,
)

# Up to here the decomposition takes about a second for one matrix: 0.2 s at 512×512, 1.2 s at
# 512×2048, with bounds 0.1 s and 0.2 s (torch 2.13, one x86-64 core).
EXACT_SIZE = 512


class Interval(NamedTuple):
    """Where a number lies, for each matrix of a batch; equal ends where it is known exactly."""

    lower: Float64[Tensor, "*batch"]
    upper: Float64[Tensor, "*batch"]

    def __str__(self) -> str:
        """The hull over the batch, as `0.998` or `0.998 … 1.01`."""
        if self.lower.numel() == 0:
            return "no matrices"
        ends = dict.fromkeys(f"{v:.3g}" for v in (self.lower.min(), self.upper.max()))
        return " … ".join(ends)


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What `certify` found; for the polar factor itself every number is 0 or 1.

    The directions are the left singular vectors of x on its smaller side whose σ lies above the
    resolution; U and V hold them and their partners, and there are k of them.

    Args:
        exact: whether the ends of every interval are equal; otherwise they are bounds.
        orthogonality: ‖Uᴴ(qqᴴ)U − I‖₂, so max |σ² − 1| over the singular values σ of Uᴴq. For full
            rank that is ‖qqᴴ − I‖₂, or ‖qᴴq − I‖₂ where x is tall.
        smallest: least singular value of Uᴴq: of q, for full rank.
        largest: ‖q‖₂.
        alignment: Re⟨x, q⟩/‖x‖_*. It is at most ‖q‖₂, since the nuclear norm is dual to the
            spectral one, and 1 for the polar factor: ⟨UΣVᴴ, UVᴴ⟩ = tr Σ.
        distance: ‖q − UVᴴ‖_F/‖UVᴴ‖_F.
    """

    exact: bool
    orthogonality: Interval
    smallest: Interval
    largest: Interval
    alignment: Interval
    distance: Interval

    def __str__(self) -> str:
        """A line a number, each over the whole batch."""
        names = [f.name for f in fields(self) if f.name != "exact"]
        title = f"polar factor, {'exact' if self.exact else 'bounds'}"
        return "\n".join([title, *(f"  {n:<13}  {getattr(self, n)}" for n in names)])


def certify(
    x: Inexact[Tensor, "*batch m n"],
    q: Inexact[Tensor, "*batch m n"],
    *,
    exact: bool | None = None,
    resolution: float = 0.0,
) -> Certificate:
    """How far q is from the polar factor of x, whichever way it was computed.

    Exact numbers come from a singular value decomposition x = UΣVᴴ. Without one (m ≤ n, else
    everything is transposed):

        G = qqᴴ,  w = G^{-1/2}q,  xwᴴ = S + K,  N = x − xwᴴw        S Hermitian, K skew
        ‖S‖_* ≤ ‖x‖_* ≤ ‖S‖_* + √m·(‖K‖_F + ‖N‖_F)
        ‖q − w‖_F ≤ ‖q − UVᴴ‖_F ≤ ‖q − w‖_F + √(‖K‖_F² + 2‖N‖_F²)/λ_min(S)

    The last line asks for a λ_min(S) above the level of rounding, which also shows that x has full
    rank; where it is not, the bounds of the distance are 0 and ∞.

    Like the factor itself the answer does not depend on the scale of x. A zero matrix has no
    directions: its factor 0 gets distance 0 and alignment 1.

    Args:
        x: real or complex matrices, shape (*batch, m, n).
        q: what is said to be their polar factor, same shape.
        exact: whether to decompose x; None means where min(m, n) ≤ 512, or a resolution is given.
        resolution: directions with σ ≤ resolution·σ₁ are left out, as far as they can: a fast
            method promises nothing there. Those at the level of rounding, σ ≤ max(m, n)·eps·σ₁ in
            the precision of x, are always left out; there the exact factor is zero, and q counts.

    Returns:
        Intervals of shape (*batch), in float64.

    Raises:
        ValueError: shapes differ, an entry is not finite, a resolution outside [0, 1), or one
            together with `exact=False`.

    Examples:
        >>> import torch
        >>> x = torch.diag(torch.tensor([3.0, 1.0]))
        >>> found = certify(x, 0.9 * torch.eye(2))
        >>> round(found.distance.upper.item(), 6), round(found.alignment.lower.item(), 6)
        (0.1, 0.9)

    Sources:
        Higham, Functions of Matrices (SIAM, 2008), chapter 8: the nearest isometry to q is w. The
        upper bound of the distance is derived in `_bounds`.
    """
    _check(x, q, exact, resolution)
    if x.numel() == 0:
        zero = torch.zeros(x.shape[:-2], dtype=torch.float64, device=x.device)
        return _certificate(zero, zero, zero, zero + 1, zero)
    if exact is None:
        exact = resolution > 0 or min(x.shape[-2:]) <= EXACT_SIZE
    rounding = max(x.shape[-2:]) * epsilon(widened(x.dtype))
    x, q = unit_scale(in_double(x.detach())), in_double(q.detach())
    if x.shape[-2] > x.shape[-1]:
        x, q = x.mH, q.mH
    return _exact(x, q, resolution, rounding) if exact else _bounds(x, q, rounding)


def _check(x: Tensor, q: Tensor, exact: bool | None, resolution: float) -> None:
    """Raise unless there is something to certify."""
    check_matrices(x)
    if q.shape != x.shape:
        raise invalid("q", shape_text(q.shape), f"give the shape of x, {shape_text(x.shape)}")
    if not 0 <= resolution < 1:
        raise invalid("resolution", resolution, "give a number in [0, 1)")
    if exact is False and resolution:
        raise invalid("resolution", resolution, "bounds know no singular values: take exact=True")
    for name, matrices in (("x", x), ("q", q)):
        if not bool(torch.isfinite(matrices).all()):
            raise invalid(name, "non-finite entries", "remove NaN and inf first")


def _certificate(*known: Tensor) -> Certificate:
    """From the numbers themselves, in the order of the fields."""
    names = [f.name for f in fields(Certificate) if f.name != "exact"]
    return Certificate(exact=True, **{n: Interval(v, v) for n, v in zip(names, known, strict=True)})


def _frobenius(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=(-2, -1))
    return norm


def _inner(x: Tensor, q: Tensor) -> Tensor:
    """Re⟨x, q⟩."""
    return (x.conj() * q).real.sum(dim=(-2, -1))


def _exact(x: Tensor, q: Tensor, resolution: float, rounding: float) -> Certificate:
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    rows = u.mH @ q
    kept = s > max(resolution, rounding) * s[..., :1]
    # Between rounding and resolution neither 1 nor 0 is promised.
    judged = kept | (s <= rounding * s[..., :1])
    error = (rows - kept.unsqueeze(-1) * vh) * judged.unsqueeze(-1)
    count = kept.sum(dim=-1)
    largest = torch.linalg.matrix_norm(q, ord=2)
    # Masked rows are zeros at the end.
    values = torch.linalg.svdvals(rows * kept.unsqueeze(-1))
    last = values.gather(-1, (count - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1)
    deviation = (values**2 - 1).abs()
    deviation = torch.where(
        torch.arange(s.shape[-1], device=s.device) < count[..., None], deviation, 0
    )
    nuclear = s.sum(dim=-1)
    return _certificate(
        deviation.amax(dim=-1),
        last,
        largest,
        torch.where(nuclear > 0, _inner(x, q) / safe_divisor(nuclear), 1.0),
        _frobenius(error) / count.clamp(min=1).double().sqrt(),
    )


def _bounds(x: Tensor, q: Tensor, rounding: float) -> Certificate:
    """Intervals from two m × m eigenvalue problems; m ≤ n.

    With p = UVᴴ, x = Bp and y = Sw the difference F = x − y = Kw + N satisfies, for Z = pwᴴ − I,

        BZ + ZS = Fwᴴ − pFᴴ,   so  ‖Z‖_F ≤ 2‖F‖_F/(λ_min(B) + λ_min(S))
        ‖p − w‖_F² = ‖Z‖_F² + ‖p(I − wᴴw)‖_F²,   Bp(I − wᴴw) = N

    and λ_min(B) = σ_min(x) ≥ λ_min(S), since ‖w‖₂ = 1. ‖F‖_F² = ‖K‖_F² + ‖N‖_F².
    """
    m = x.shape[-2]
    values, v = torch.linalg.eigh(q @ q.mH)
    values = values.clamp(min=0)
    # Below √eps a singular value of q is rounding of the Gram matrix.
    inside = values > epsilon(torch.float64) * values[..., -1:]
    root = torch.where(inside, safe_divisor(values).rsqrt(), 0.0)
    w = (v * root.to(v.dtype).unsqueeze(-2)) @ (v.mH @ q)
    inner = x @ w.mH
    hermitian = (inner + inner.mH) / 2
    skew, rest = _frobenius(inner - hermitian), _frobenius(x - inner @ w)
    spectrum = torch.linalg.eigvalsh(hermitian)
    size = _frobenius(x)
    # At least σ₁, so that every σ of a positive S lies above the level of rounding.
    top = torch.minimum(size, spectrum.abs().amax(dim=-1) + skew + rest)
    positive = spectrum[..., 0] > rounding * top

    nuclear = spectrum.abs().sum(dim=-1)
    least = torch.maximum(nuclear, size)
    most = torch.maximum(least, torch.minimum(nuclear + m**0.5 * (skew + rest), m**0.5 * size))
    ends = torch.stack([_inner(x, q) / safe_divisor(norm) for norm in (least, most)])
    ends = torch.where(size > 0, ends, 1.0)
    away = _frobenius(q - w) / m**0.5
    turned = (skew**2 + 2 * rest**2).sqrt() / torch.where(positive, spectrum[..., 0], 1.0)
    far = torch.where(positive, away + turned / m**0.5, torch.inf)
    smallest, largest = values[..., 0].sqrt(), values[..., -1].sqrt()
    error = (values - 1).abs().amax(dim=-1)
    # x of lower rank has fewer directions, and q may be better on those than on all.
    return Certificate(
        exact=False,
        orthogonality=Interval(torch.where(positive, error, 0.0), error),
        smallest=Interval(smallest, torch.where(positive, smallest, largest)),
        largest=Interval(largest, largest),
        alignment=Interval(ends.amin(dim=0), ends.amax(dim=0)),
        distance=Interval(torch.where(positive, away, 0.0), far),
    )
