"""How good a polar factor is: a certificate from the matrix and the factor alone."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from jaxtyping import Float64, Inexact
from torch import Tensor

from steepest._common.errors import invalid, shape_text
from steepest._common.numerics import epsilon, unit_scale, widened
from steepest.polar._bounded import bounded
from steepest.polar._decomposed import decomposed
from steepest.polar._ends import Ends
from steepest.polar.method import check_matrices

# Up to here the decomposition takes about a second for one matrix: 0.2 s at 512×512, 1.2 s at
# 512×2048, with bounds 0.1 s and 0.2 s (torch 2.13, one x86-64 core).
EXACT_SIZE = 512


class Interval(NamedTuple):
    """An interval that holds a number of each matrix of a batch.

    Each end carries the rounding of what it was computed from.
    """

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
    """The result of `certify`; for the polar factor itself every number is 0 or 1.

    The directions are the left singular vectors of x on its smaller side whose σ lies above the
    resolution; U and V hold them and their partners, and there are k of them.

    Args:
        exact: whether x was decomposed: then the ends of an interval differ by rounding alone,
            otherwise they are bounds.
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
    everything is transposed), with an isometry w near q,

        xwᴴ = S + K,  N = x − xwᴴw        S Hermitian, K skew
        ‖S‖_* ≤ ‖x‖_* ≤ ‖S‖_* + √m·(‖K‖_F + ‖N‖_F)
        |‖q − UVᴴ‖_F − ‖q − w‖_F| ≤ ‖x − Sw‖_F/λ_min(S)

    The last line asks for a λ_min(S) above the level of rounding, which also shows that x has full
    rank; where it is not, the bounds of the distance are 0 and ∞. w starts as (qqᴴ)^(−1/2)·q, the
    isometry nearest to q, and Newton's method moves it towards UVᴴ until ‖x − Sw‖_F is rounding.

    Every end of an interval carries the rounding of float64, in which everything is computed. For
    the distance that is about 1e-14·σ₁/σ_r with the smallest σ_r that counts: in float64 itself an
    ill-conditioned x leaves the factor that vague. Where a σ lies at a cut-off to within rounding,
    the intervals hold for the directions with it and for those without.

    Like the factor itself the answer does not depend on the scale of x, and q may be of any size.
    A zero matrix has no directions: its factor 0 gets distance 0 and alignment 1.

    Args:
        x: real or complex matrices, shape (*batch, m, n).
        q: the candidates for their polar factors, same shape.
        exact: whether to decompose x; None means where min(m, n) ≤ 512, or a resolution is given.
        resolution: directions with σ ≤ resolution·σ₁ are left out, as far as they can: a fast
            method promises nothing there. Those at the level of rounding, σ ≤ max(m, n)·eps·σ₁ in
            the precision of x, are always left out; there the exact factor is zero, and q counts.

    Returns:
        Intervals of shape (*batch), in float64.

    Raises:
        ValueError: no matrices, shapes or devices differ, an entry is not finite, a resolution
            outside [0, 1), or one together with `exact=False`.

    Examples:
        >>> import torch
        >>> x = torch.diag(torch.tensor([3.0, 1.0]))
        >>> found = certify(x, 0.9 * torch.eye(2))
        >>> round(found.distance.upper.item(), 6), round(found.alignment.lower.item(), 6)
        (0.1, 0.9)

    Sources:
        Higham, Functions of Matrices (SIAM, 2008), chapter 8: the nearest isometry to q. The bound
        of the distance is derived in `steepest.polar._bounded`.
    """
    _check(x, q, exact, resolution)
    if exact is None:
        exact = resolution > 0 or min(x.shape[-2:]) <= EXACT_SIZE
    return _certificate(exact, _measured(x, q, exact, resolution), x.shape[:-2])


def _measured(x: Tensor, q: Tensor, exact: bool, resolution: float) -> dict[str, Ends]:
    """The ends of every number, of matrices in one batch axis."""
    if x.numel() == 0:
        zero = torch.zeros(x.shape[:-2].numel(), dtype=torch.float64, device=x.device)
        return {name: (zero + (name == "alignment"),) * 2 for name in _numbers()}
    cutoff = max(x.shape[-2:]) * epsilon(widened(x.dtype))
    wide = torch.complex128 if x.is_complex() or q.is_complex() else torch.float64
    x, q = (t.detach().to(wide).reshape(-1, *t.shape[-2:]) for t in (x, q))
    if x.shape[-2] > x.shape[-1]:
        x, q = x.mH, q.mH
    x = unit_scale(x)
    return decomposed(x, q, resolution, cutoff) if exact else bounded(x, q, cutoff)


def _numbers() -> list[str]:
    """The names of the numbers, in their order."""
    return [f.name for f in fields(Certificate) if f.name != "exact"]


def _certificate(exact: bool, found: dict[str, Ends], batch: torch.Size) -> Certificate:
    """Make the certificate of a batch from the ends of each number."""
    intervals = {n: Interval(*(e.reshape(batch) for e in found[n])) for n in _numbers()}
    return Certificate(exact=exact, **intervals)


def _check(x: Tensor, q: Tensor, exact: bool | None, resolution: float) -> None:
    """Raise unless there is something to certify."""
    check_matrices(x)
    check_matrices(q, "q")
    if q.shape != x.shape:
        raise invalid("q", shape_text(q.shape), f"give the shape of x, {shape_text(x.shape)}")
    if q.device != x.device:
        raise invalid("q", q.device, f"move it to the device of x, {x.device}")
    if not 0 <= resolution < 1:
        raise invalid("resolution", resolution, "give a number in [0, 1)")
    if exact is False and resolution:
        raise invalid("resolution", resolution, "bounds know no singular values: take exact=True")
    for name, matrices in (("x", x), ("q", q)):
        if not bool(torch.isfinite(matrices).all()):
            raise invalid(name, "non-finite entries", "remove NaN and inf first")
