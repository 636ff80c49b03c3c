"""Ends of a certificate's intervals from a singular value decomposition: as narrow as rounding."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from steepest.polar._bounded import Isometry
from steepest.polar._ends import (
    DOUBT,
    EPS,
    Ends,
    Judged,
    frobenius,
    off_one,
    outwards,
    rounding,
)

# How far a decomposition moves singular values, in units of `rounding`·σ₁. Measured against 40
# digits: 0.95·max(m, n)·eps·σ₁ at most (up to 9 × 12, four kinds of spectra).
DECOMPOSED = 2.0

# The factor UVᴴ of a decomposition is off by so many `rounding`·√Σ(σ₁/σ_i)². Measured by a step of
# Newton's method in 80-bit arithmetic: 0.27 at most (up to 40 × 70, five kinds of spectra,
# condition numbers up to 1e10).
FACTORED = 1.5


class _Counted(NamedTuple):
    """The directions that count, where the cut-off may lie within rounding of some.

    Args:
        surely: σ is above it.
        possibly: σ is not surely below.
        noise: σ is surely at the level of rounding.
        unsure: σ may lie on either side of a cut-off.
    """

    surely: Tensor
    possibly: Tensor
    noise: Tensor
    unsure: Tensor

    @staticmethod
    def of(s: Tensor, size: int, resolution: float, cutoff: float) -> _Counted:
        top = s[:, :1]
        doubt = DOUBT * size * EPS * top
        level = max(resolution, cutoff) * top
        surely, possibly = s > level + doubt, s > level - doubt
        noise = s + doubt <= cutoff * top
        # Between rounding and resolution neither 1 nor 0 is promised.
        free = ~possibly & (s - doubt > cutoff * top)
        return _Counted(surely, possibly, noise, ~(surely | noise | free))


class _Spectrum(NamedTuple):
    """Singular values, and how far their directions may be turned.

    Args:
        s: σ in falling order.
        moved: the backward error ‖E‖₂ of their decomposition.
    """

    s: Tensor
    moved: Tensor

    def shares(self, counts: Tensor, factor: float = 1.0) -> Tensor:
        """‖E‖₂/(σ_i − e − 2‖E‖₂) for each σ that counts, with e the largest that does not.

        0 for those that do not count, inf where nothing is known.
        """
        moved = factor * self.moved
        edge = torch.where(counts, 0.0, self.s).amax(dim=-1, keepdim=True)
        gap = self.s - edge - 2 * moved
        share = torch.where(gap > 0, moved / torch.where(gap > 0, gap, 1.0), math.inf)
        return torch.where(counts, share, 0.0)

    def turned(self, counts: Tensor) -> Tensor:
        """Bound on the change of the projector on the directions that count; 0 if all do."""
        turned = 2 * self.shares(counts).amax(dim=-1)
        return torch.where(counts.all(dim=-1), 0.0, turned).clamp(max=1.0)

    def shifted(self, counts: Tensor) -> Tensor:
        """Bound on the change ‖Δp‖_F of the partial isometry of the directions that count.

        It is a function of the Hermitian matrix [0 x; xᴴ 0], ±1 at ±σ and 0 at the other
        eigenvalues. A change E of x changes it by E times divided differences of that function, at
        most 2/(σ_i − e) in the row of σ_i, so ‖Δp‖_F ≤ √2·‖E‖₂·√Σ(2/(σ_i − e))².
        """
        shares = self.shares(counts, FACTORED / DECOMPOSED)
        bound: Tensor = torch.linalg.vector_norm(shares, dim=-1)
        return torch.minimum(bound, 2 * counts.sum(dim=-1).sqrt())


class _Rows(NamedTuple):
    """q in the left singular directions of x.

    Args:
        judged: q and its units.
        rows: Uᴴq, in units of q.
        every: ends of all singular values of q, in its units.
    """

    judged: Judged
    rows: Tensor
    every: Ends

    @staticmethod
    def of(q: Tensor, u: Tensor) -> _Rows:
        judged = Judged.of(q)
        values = torch.linalg.svdvals(judged.unit)
        slack = (DECOMPOSED + 1) * rounding(q) * values[:, :1]
        return _Rows(judged, u.mH @ judged.unit, ((values - slack).clamp(min=0), values + slack))

    def values(self, counts: Tensor, spectrum: _Spectrum) -> Ends:
        """The singular values of the rows that count; then, for those that do not, 0.

        Without the other directions those of q are interlaced: the i-th of k lies between the i-th
        and the (i + m − k)-th of m. That holds however far the directions are turned.
        """
        values = torch.linalg.svdvals(self.rows * counts.unsqueeze(-1))
        low, high = self.every
        slack = (high - low)[:, :1] + spectrum.turned(counts).unsqueeze(-1) * high[:, :1]
        m = counts.shape[-1]
        index = torch.arange(m, device=low.device) + (~counts).sum(dim=-1, keepdim=True)
        low = torch.maximum(values - slack, low.gather(-1, index.clamp(max=m - 1)))
        high = torch.minimum(values + slack, high)
        kept = _first(counts)
        return torch.where(kept, low, 0.0), torch.where(kept, high, 0.0)

    def least_distance(self, counted: _Counted) -> Tensor:
        """Bound on ‖q − p‖_F by the singular values of q and the rank of p (Mirsky's theorem)."""
        one = self.judged.one.unsqueeze(-1)
        low, high = (end * one / self.judged.power.unsqueeze(-1) for end in self.every)
        off = torch.maximum(one - high, low - one).clamp(min=0)
        either = torch.where(_first(counted.possibly), torch.minimum(off, low), low)
        gaps = torch.where(_first(counted.surely), off, either)
        norm: Tensor = torch.linalg.vector_norm(gaps, dim=-1)
        return norm * (1 - rounding(self.rows))

    def distance(
        self, vh: Tensor, counted: _Counted, spectrum: _Spectrum, away: Tensor, *, whole: bool
    ) -> Ends:
        """‖q − p‖_F/‖p‖_F over the directions that are judged: all of them if `whole`.

        Args:
            vh: right singular vectors of x.
            counted: the directions that count.
            spectrum: the singular values of x.
            away: bound on the error of p.
            whole: whether a direction that does not count has to be absent from q.
        """
        one, size = self.judged.one, self.judged.size
        near = self.rows * (one / self.judged.power)[:, None, None]
        wrong = near - (one.unsqueeze(-1) * counted.surely).unsqueeze(-1) * vh
        rank, most, doubtful = (
            mask.sum(dim=-1).double() for mask in (counted.surely, counted.possibly, counted.unsure)
        )
        slack = 2 * rounding(vh) * (size + rank.sqrt() * one) + one * (away + doubtful.sqrt())
        if whole:
            floor = self.least_distance(counted)
        else:
            floor = torch.zeros_like(size)
            wrong = wrong * (counted.surely | counted.noise).unsqueeze(-1)
            loud = ~(counted.noise | counted.unsure)
            turned = spectrum.turned(counted.surely) + spectrum.turned(loud)
            slack = slack + turned * size + frobenius(near * counted.unsure.unsqueeze(-1))
        # Squares of a tiny q underflow.
        off = torch.where(most > 0, frobenius(wrong), size)
        low = torch.maximum(off - slack, floor) / most.clamp(min=1).sqrt()
        return outwards(low, (off + slack) / rank.clamp(min=1).sqrt(), one)


def _first(counts: Tensor) -> Tensor:
    """Move every True to the front."""
    return counts.sort(dim=-1, descending=True).values


def _last(values: Tensor, counts: Tensor) -> Tensor:
    """The last value of those that count; 0 if none does."""
    index = (counts.sum(dim=-1, keepdim=True) - 1).clamp(min=0)
    return values.gather(-1, index).squeeze(-1)


def decomposed(x: Tensor, q: Tensor, resolution: float, cutoff: float) -> dict[str, Ends]:
    """The intervals of every number, by its name.

    Args:
        x: matrices in units of their largest entries.
        q: the candidates for their polar factors.
        resolution: σ ≤ resolution·σ₁ do not count.
        cutoff: σ ≤ cutoff·σ₁ are noise.
    """
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    spectrum = _Spectrum(s, DECOMPOSED * rounding(x) * s[:, :1])
    counted = _Counted.of(s, max(x.shape[-2:]), resolution, cutoff)
    rows = _Rows.of(q, u)
    most = rows.values(counted.possibly, spectrum)
    # Fewer directions: a larger least singular value, a smaller worst one.
    unsure = bool(counted.unsure.any())
    least = rows.values(counted.surely, spectrum) if unsure else most

    power, nuclear = rows.judged.power, s.sum(dim=-1)
    spread = s.shape[-1] * spectrum.moved[:, 0]
    errors = [off_one(outwards(*ends, power.unsqueeze(-1))) for ends in (least, most)]
    surely, possibly = _first(counted.surely), _first(counted.possibly)
    away = torch.minimum(spectrum.shifted(counted.surely), Isometry.of(x, u @ vh, cutoff).away)
    return {
        "orthogonality": (
            torch.where(surely, errors[0][0], 0.0).amax(dim=-1),
            torch.where(possibly, errors[1][1], 0.0).amax(dim=-1),
        ),
        "smallest": outwards(
            _last(most[0], counted.possibly), _last(least[1], counted.surely), power
        ),
        "largest": outwards(rows.every[0][:, 0], rows.every[1][:, 0], power),
        "alignment": rows.judged.alignment(x, nuclear - spread, nuclear + spread),
        "distance": rows.distance(vh, counted, spectrum, away, whole=resolution <= cutoff),
    }
