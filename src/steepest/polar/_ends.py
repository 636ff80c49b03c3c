"""Ends of the intervals of a certificate: units without overflow, and the rounding of each end.

x and q are stacks (batch, m, n) in double precision with m ≤ n, x in units of its largest entry.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from steepest._common.numerics import epsilon, power_of_two_scale, safe_divisor, times

Ends = tuple[Tensor, Tensor]
"""Lower and upper bound of a number, for each matrix of a batch."""

EPS = epsilon(torch.float64)
LARGEST = torch.finfo(torch.float64).max

# A singular value near 0 is off by 0.23·max(m, n)·eps·σ₁ at most, measured against 40 digits (up to
# 8 × 12, four kinds of spectra). Hence those of a matrix of lower rank lie below the cut-off of
# float64, max(m, n)·eps·σ₁, beyond doubt.
DOUBT = 0.5


def rounding(x: Tensor) -> float:
    """How far a product with these matrices is off, over the lengths of its factors.

    A sum of n products is off by n·eps/2 of their magnitudes at most. Long ones are added up in
    blocks, and their errors have either sign: this allows for 16 times √n·eps/2.
    """
    n = max(x.shape[-2:])
    return min(n + 4.0, 8 * math.sqrt(n)) * EPS


def frobenius(x: Tensor) -> Tensor:
    """‖x‖_F of each matrix."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=(-2, -1))
    return norm


class Judged(NamedTuple):
    """q in units in which nothing over- or underflows.

    Args:
        unit: q times `power`, with its largest entry near 1.
        power: a power of two for each matrix.
        near: q times `one`: to be compared with isometries times `one`.
        one: 1, or the power for a large q.
    """

    unit: Tensor
    power: Tensor
    near: Tensor
    one: Tensor

    @property
    def size(self) -> Tensor:
        """‖q‖_F times `one`, however small."""
        return frobenius(self.unit) * (self.one / self.power)

    @staticmethod
    def of(q: Tensor) -> Judged:
        power = power_of_two_scale(q)
        unit = times(q, power)
        one = power.clamp(max=1.0)
        return Judged(unit, power[:, 0, 0], torch.where(power > 1, q, unit), one[:, 0, 0])

    def alignment(self, x: Tensor, least: Tensor, most: Tensor) -> Ends:
        """Re⟨x, q⟩ over a norm between `least` and `most`; 1 where that is 0."""
        inner = (x.conj() * self.unit).real.sum(dim=(-2, -1))
        slack = rounding(x) * frobenius(x) * frobenius(self.unit)
        ends = [
            end / safe_divisor(norm)
            for end in (inner - slack, inner + slack)
            for norm in (least, most)
        ]
        low, high = outwards(
            torch.stack(ends).amin(dim=0), torch.stack(ends).amax(dim=0), self.power
        )
        return torch.where(most > 0, low, 1.0), torch.where(most > 0, high, 1.0)


def outwards(lower: Tensor, upper: Tensor, power: Tensor) -> Ends:
    """The ends over a power of two, moved apart by the rounding of their own arithmetic.

    What is exactly 0 stays so. Beyond the numbers lies the largest of them, or inf.
    """
    # A factor rather than a difference: an end may be inf.
    low = lower * (1 - 16 * EPS * lower.sign()) / power
    high = upper * (1 + 16 * EPS * upper.sign()) / power
    inf = torch.full_like(low, math.inf)
    low = torch.where(lower == 0, 0.0, torch.nextafter(low, -inf)).clamp(max=LARGEST)
    high = torch.where(upper == 0, 0.0, torch.nextafter(high, inf)).clamp(min=-LARGEST)
    return low, high


def off_one(values: Ends) -> Ends:
    """|σ² − 1| for σ in an interval."""
    low, high = values
    ends = [(v - 1).abs() * (v + 1) for v in values]
    least = torch.where((low <= 1) & (high >= 1), 0.0, torch.minimum(*ends))
    return outwards(least, torch.maximum(*ends), torch.ones_like(low))
