"""Intervals for the singular values of a matrix, from random vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from steepest.diagnostics.spectra._krylov import (
    Function,
    Leading,
    Quadrature,
    leading,
    quadrature,
    rounding,
    stretch,
    tangent,
)

GRID = 513
"""Points at which the largest value of a smooth function of one variable is looked for."""


class Sketch(NamedTuple):
    """Intervals for a matrix of Frobenius norm 1 with singular values σ, each at the same risk.

    Args:
        nuclear: the interval of Σσ.
        entropy: the interval of −Σσ²·log σ².
        log_rank: the interval of −Σp·log p with p = σ/Σσ.
        top: the interval of σ₁².
        bottom: a bound from above of the smallest σ.
        energies: the intervals of the sums of the 1, 2, … largest σ², (2, ·).
    """

    nuclear: tuple[float, float]
    entropy: tuple[float, float]
    log_rank: tuple[float, float]
    top: tuple[float, float]
    bottom: float
    energies: Tensor


def sketch(
    x: Tensor, probes: int, steps: int, *, risk: float, generator: torch.Generator
) -> Sketch:
    """The intervals of x (m, n), m ≤ n, of Frobenius norm 1.

    Args:
        x: the matrix in double precision.
        probes: vectors of the Krylov space, and as many to take a mean over.
        steps: the steps of each bidiagonalisation.
        risk: the probability with which an interval may miss its number.
        generator: the source of the vectors.
    """
    m = x.shape[0]
    # A space of few, but several, blocks in a small matrix.
    block = max(min(2, m), min(probes, m // 4))

    def normal(count: int) -> Tensor:
        drawn = torch.randn(count, m, generator=generator, dtype=x.dtype, device=generator.device)
        return drawn.to(x.device)

    found = leading(x, normal(block), max(1, min(steps // 2, m // block)))
    # A number is known from at most three events: the top, and two means.
    energies = _energies(found, m, block, risk / 3)
    # Not all, so that the bound of one more eigenvalue says how large the others can be.
    kept = max(1, 3 * block // 4)
    known = found.vectors[:kept]
    tests = normal(probes)
    tests = tests - (tests @ known.mH) @ known
    rules = quadrature(x, torch.cat([known, tests]), min(steps, m))
    rest = max(1 - float(energies[0, kept - 1]), rounding(x))
    # The trace of A over kept + 1 directions is at most the sum of its largest eigenvalues.
    next_one = float(energies[1, min(kept, block - 1)] - energies[0, kept - 1])
    top = math.sqrt(min(max(next_one, rounding(x)), rest))
    traces = _Traces(rules, kept, rest, top, risk / 3, rounding(x))
    nuclear = traces.nuclear(m)
    return Sketch(
        nuclear=nuclear,
        entropy=traces.entropy(m),
        log_rank=traces.log_rank(nuclear, m),
        top=(float(energies[0, 0]), float(energies[1, 0])),
        bottom=_bottom(rules, rounding(x)),
        energies=energies,
    )


def _energies(found: Leading, m: int, block: int, risk: float) -> Tensor:
    """Bounds of the sums of the k largest σ², for k up to the number of Ritz values."""
    lower = found.values.cumsum(0)
    tops, ends = found.values[:block].tolist(), []
    for k in range(1, block + 1):
        # Each of the k values must be right for their sum.
        angles = (tangent(m, block, j, risk / k) for j in range(1, k + 1))
        ends.append(sum(v * stretch(a, found.depth) for v, a in zip(tops[:k], angles, strict=True)))
    # The mean of more of them is no larger.
    ends += [ends[-1] * k / block for k in range(block + 1, len(lower) + 1)]
    # PSD blocks: the k largest of A are at most those of its two diagonal blocks together.
    outside = (1 - lower[-1]).clamp(min=rounding(found.vectors))
    upper = torch.minimum(lower.new_tensor(ends), lower + outside)
    return torch.stack([lower, upper]).clamp(max=1.0)


def _bottom(rules: Quadrature, tiny: float) -> float:
    """The smallest Ritz value; zero where it is rounding."""
    nodes, weights = rules.gauss
    # Where a Krylov space has ended, nodes without weight fill up the rule.
    least = float(nodes[weights > tiny * weights.sum(dim=-1, keepdim=True)].min())
    return least if least > tiny else 0.0


@dataclass(frozen=True)
class _Traces:
    """Traces of functions of √(xxᴴ) from quadratic forms.

    Args:
        rules: the quadrature of the leading vectors Q, then of draws from their complement.
        known: the number of leading vectors.
        rest: the part of ‖x‖_F² that they leave.
        top: a bound from above of the largest singular value of what they leave of x.
        risk: the risk that each mean may take.
        rounding: the rounding error of each mean.
    """

    rules: Quadrature
    known: int
    rest: float
    top: float
    risk: float
    rounding: float

    def trace(self, f: Function) -> tuple[float, float]:
        """Estimates of tr f from both rules: the quadrature is exact between them."""
        forms = self.rules(f)
        sums = forms[:, : self.known].sum(dim=1) + forms[:, self.known :].mean(dim=1)
        return float(sums[0]), float(sums[1])

    def deviation(self, f: Function, frobenius: float | None = None) -> float:
        """The most that the mean over the draws is off.

        Args:
            f: the function whose trace is estimated.
            frobenius: a bound from above of the norm of f(√A) without the leading vectors. None:
                √vᴴf²v of the draw v for which it is largest, since its mean over v is at least that
                norm.
        """
        if frobenius is None:
            frobenius = math.sqrt(float(self.rules(lambda s: f(s) ** 2)[1, self.known :].max()))
        grid = torch.linspace(0, self.top, GRID, dtype=torch.float64)
        spectral = min(frobenius, float(f(grid).abs().max()))
        draws = self.rules.gauss.shape[1] - self.known
        t = math.log(2 / self.risk) / draws
        return 2 * frobenius * math.sqrt(t) + 2 * spectral * t + self.rounding

    def nuclear(self, m: int) -> tuple[float, float]:
        """Σσ. Its variance is at most 2·rest: the square of √λ is λ."""
        lower, upper = self.trace(_identity)
        away = self.deviation(_identity, math.sqrt(self.rest))
        return max(lower - away, 1.0), min(upper + away, math.sqrt(m))

    def entropy(self, m: int) -> tuple[float, float]:
        """−Σσ²·log σ², as a ratio to Σσ² = 1: equal σ have no variance then."""
        lower, upper = self.trace(_information)
        mean = (lower + upper) / 2 / self.trace(torch.square)[0]
        away = (upper - lower) / 2 + self.deviation(lambda s: _information(s) - mean * s**2)
        return max(-mean - away, 0.0), min(away - mean, math.log(m))

    def log_rank(self, nuclear: tuple[float, float], m: int) -> tuple[float, float]:
        """log Σσ − Σσ·log σ/Σσ, the last fraction as a ratio of traces."""
        lower, upper = self.trace(lambda s: torch.xlogy(s, s))
        least, most = self.trace(_identity)
        mean = (lower + upper) / (least + most)
        away = (upper - lower) / 2 + abs(mean) * (most - least) / 2
        away += self.deviation(lambda s: torch.xlogy(s, s) - mean * s)
        low, high = (math.log(n) - mean for n in nuclear)
        return max(low - away / nuclear[0], 0.0), min(high + away / nuclear[0], math.log(m))


def _identity(s: Tensor) -> Tensor:
    return s


def _information(s: Tensor) -> Tensor:
    """σ²·log σ²."""
    return torch.xlogy(s**2, s**2)
