"""The singular values of many matrices in few calls."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from steepest._common.numerics import safe_divisor
from steepest.diagnostics.spectra.spectrum import Spectrum, ranks_of, spectrum

# Measured on one x86-64 core: 0.1 s for the eigenvalues at a side of 768, 0.25 s at 1024; the
# randomised numbers of 2048 × 2048 take 0.5 s.
EXACT = 1024
"""The largest smaller side of a matrix that is decomposed; above it ranks are randomised."""

RANKS = ("nuclear_rank", "stable_rank", "effective_rank")

PROBES, STEPS = 8, 12
"""The vectors and the steps of a randomised spectrum."""

TRUSTED = 0.5
"""A randomised rank whose stated error is a larger share of it is left out."""


@dataclass(frozen=True, eq=False)
class Decomposed:
    """The decompositions of matrices X = UΣVᴴ, (batch, m, n) with m ≤ n, in double precision.

    Args:
        top: σ₁ of each, (batch,).
        total: Σσ of each, (batch,).
        ranks: nuclear, stable and effective rank of each, (batch, 3); 0 for zero, NaN for one that
            is not known well enough.
        values: σ of each in falling order, (batch, m); None if randomised.
        left: U, if asked for and not randomised.
        right: Vᴴ, if asked for and not randomised; zero where σ is.
    """

    top: Tensor
    total: Tensor
    ranks: Tensor
    values: Tensor | None = None
    left: Tensor | None = None
    right: Tensor | None = None

    def split(self, sizes: Sequence[int]) -> list[Decomposed]:
        """The parts of a batch."""
        found = [getattr(self, f.name) for f in fields(self)]
        parts = [[None] * len(sizes) if x is None else x.split(list(sizes)) for x in found]
        return [Decomposed(*some) for some in zip(*parts, strict=True)]


def decompose(
    stacks: Sequence[Tensor], *, vectors: bool = False, gram: bool = True
) -> list[Decomposed]:
    """The singular values of stacks (batch, m, n), m ≤ n; those of equal shape in one call.

    Args:
        stacks: matrices in double precision.
        vectors: whether to find U and Vᴴ as well.
        gram: whether to go by the eigenvalues of XXᴴ, several times as fast for wide matrices. In
            double precision that is as exact as matrices are that were float32.
    """
    places: dict[object, list[int]] = defaultdict(list)
    for i, x in enumerate(stacks):
        places[(x.shape[-2:], x.dtype, x.device)].append(i)
    found: dict[int, Decomposed] = {}
    for same in places.values():
        joined = torch.cat([stacks[i] for i in same])
        done = _randomised(joined) if joined.shape[-2] > EXACT else _exact(joined, vectors, gram)
        found.update(zip(same, done.split([len(stacks[i]) for i in same]), strict=True))
    return [found[i] for i in range(len(stacks))]


def _exact(x: Tensor, vectors: bool, gram: bool) -> Decomposed:
    left, values, right = _factors(x, vectors, gram)
    return Decomposed(values[:, 0], values.sum(-1), ranks_of(values), values, left, right)


def _factors(x: Tensor, vectors: bool, gram: bool) -> tuple[Tensor | None, Tensor, Tensor | None]:
    if gram:
        return gram_factors(x, vectors)
    if not vectors:
        return None, torch.linalg.svdvals(x), None
    left, values, right = torch.linalg.svd(x, full_matrices=False)
    return left, values, right


def gram_factors(x: Tensor, vectors: bool) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """U, σ in falling order and Vᴴ of X = UΣVᴴ, (*batch, m, n) with m ≤ n, from XXᴴ.

    Args:
        x: X, in double precision; σ is off by rounding of the size of √eps·σ₁ at most.
        vectors: whether to find U and Vᴴ, whose rows are zero where σ is.
    """
    # The square of a tiny gradient must not underflow.
    scale = safe_divisor(torch.linalg.matrix_norm(x, keepdim=True).real)
    x = x / scale
    product = x @ x.mH
    if not vectors:
        squares = torch.linalg.eigvalsh(product).flip(-1)
        return None, squares.clamp(min=0).sqrt() * scale[..., 0], None
    squares, left = torch.linalg.eigh(product)
    values, left = squares.flip(-1).clamp(min=0).sqrt(), left.flip(-1)
    return left, values * scale[..., 0], (left.mH @ x) / safe_divisor(values).unsqueeze(-1)


def _randomised(x: Tensor) -> Decomposed:
    found = [spectrum(m, method="randomised", probes=PROBES, steps=STEPS) for m in x]
    ranks = [[_trusted(s, name) for name in RANKS] for s in found]
    return Decomposed(
        x.new_tensor([s.spectral_norm for s in found], dtype=torch.float64),
        x.new_tensor([s.nuclear_norm for s in found], dtype=torch.float64),
        x.new_tensor(ranks, dtype=torch.float64),
    )


def _trusted(found: Spectrum, name: str) -> float:
    """A rank, if its error is small enough."""
    value: float = getattr(found, name)
    return value if found.errors[name] <= TRUSTED * value else math.nan
