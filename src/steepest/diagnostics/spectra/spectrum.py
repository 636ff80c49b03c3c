"""The singular values of a matrix in a few numbers: how many of them matter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float64, Inexact
from torch import Tensor

from steepest._common.errors import invalid, shape_text
from steepest._common.numerics import (
    epsilon,
    in_double,
    power_of_two_scale,
    safe_divisor,
    unit_scale,
)
from steepest.diagnostics.spectra._estimators import Sketch, sketch
from steepest.diagnostics.spectra._krylov import rounding
from steepest.polar.method import check_matrices

Method = Literal["auto", "exact", "randomised"]
"""The way to a spectrum: a decomposition, a randomised one, or the quicker for the size."""

METHODS = ("auto", "exact", "randomised")
# Measured on one core: as fast as a randomised spectrum at 1024², half as fast at 2048²; twice as
# fast at 768 × 3072 (tools/spectrum_cost.py).
EXACT_SIZE = 1024

QUANTITIES = {
    "nuclear_rank": "nuclear rank",
    "stable_rank": "stable rank",
    "effective_rank": "effective rank",
    "entropy": "SVD entropy",
    "condition": "condition",
    "nuclear_norm": "‖X‖_*",
    "frobenius_norm": "‖X‖_F",
    "spectral_norm": "‖X‖₂",
}
"""The fields of a `Spectrum` that are numbers, and how they are written."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Spectrum:
    """The numbers of `spectrum` for a matrix X with the singular values σ₁ ≥ σ₂ ≥ … ≥ σ_k.

    Args:
        shape: the shape of X, m × n; k = min(m, n).
        values: σ in falling order, in double precision; None if randomised.
        nuclear_rank: (Σσ)²/Σσ², in [1, k].
        stable_rank: Σσ²/σ₁², in [1, k].
        effective_rank: exp(−Σ p·log p) with p = σ/Σσ, in [1, k].
        entropy: −Σ p·log p/log k with p = σ²/Σσ², in [0, 1]; 0 for k = 1.
        condition: σ₁/σ_k; inf where σ_k is zero or rounding. Randomised, a lower bound.
        nuclear_norm: Σσ.
        frobenius_norm: √Σσ².
        spectral_norm: σ₁.
        errors: the most that each of these numbers is off: by rounding if exact, else with
            probability `confidence`.
        confidence: the confidence of each error by itself; 1 if exact.
        shares: lower and upper bounds of energy(1), energy(2), …, shape (2, ·).
    """

    shape: tuple[int, int]
    values: Float64[Tensor, " k"] | None
    nuclear_rank: float
    stable_rank: float
    effective_rank: float
    entropy: float
    condition: float
    nuclear_norm: float
    frobenius_norm: float
    spectral_norm: float
    errors: Mapping[str, float]
    confidence: float
    shares: Float64[Tensor, "2 known"] = field(repr=False)

    def energy(self, k: int) -> float:
        """The share of Σσ² that the k largest singular values have: the best rank-k part of X."""
        lower, upper = self._energy(k)
        return (lower + upper) / 2

    def energy_error(self, k: int) -> float:
        """The most that `energy(k)` is off, with probability `confidence`."""
        lower, upper = self._energy(k)
        return (upper - lower) / 2

    def _energy(self, k: int) -> tuple[float, float]:
        if k < 1:
            raise invalid("k", k, "give a number of singular values, 1 or more")
        if k >= min(self.shape):
            whole = float(self.frobenius_norm > 0)
            return whole, whole
        lower, upper = self.shares[:, min(k, self.shares.shape[1]) - 1].tolist()
        # Beyond what a sketch has looked at, only the lower bound is left.
        return lower, upper if k <= self.shares.shape[1] else 1.0

    def __str__(self) -> str:
        """A line a number; with what it may be off, if randomised."""
        how = "exact" if self.values is not None else f"randomised, each to {self.confidence:.4g}"
        lines = [f"spectrum of {shape_text(self.shape)}, {how}"]
        for name, words in QUANTITIES.items():
            value, error = getattr(self, name), self.errors[name]
            bound = value > 0 and math.isinf(error) and not math.isinf(value)
            text = f"{'≥ ' * bound}{value:.4g}"
            if self.values is None and 0 < error < math.inf:
                text += f" ± {error:.1g}"
            lines.append(f"  {words:<14}  {text}")
        return "\n".join(lines)


@torch.no_grad()
def spectrum(
    x: Inexact[Tensor, "m n"],
    *,
    method: Method = "auto",
    probes: int = 16,
    steps: int = 32,
    confidence: float = 0.99,
    generator: torch.Generator | None = None,
) -> Spectrum:
    """Norms, ranks and energies of one matrix: exact, or randomised with stated errors.

    Both in double precision, whatever the type and the scale of x. A randomised spectrum takes
    products of x with vectors instead of a decomposition. With A = xxᴴ/‖x‖_F² of the smaller
    side, Q the leading Ritz vectors of a block Krylov space and g Gaussian,

        tr f(A) = tr Qᴴf(A)Q + E gᴴ(I − QQᴴ)·f(A)·(I − QQᴴ)g

    for the nuclear norm, f = √λ, and the entropies, f = λ·log λ and √λ·log √λ. Each quadratic form
    lies between a Gauss and a Gauss–Radau rule, so that only the mean over `probes` draws is left
    to chance. Its deviation is at most

        2‖B‖_F·√(t/probes) + 2‖B‖₂·t/probes,   B = (I − QQᴴ)·f(A)·(I − QQᴴ)

    with probability 1 − 2·exp(−t). For the nuclear norm ‖B‖_F is at most what Q leaves of ‖x‖_F,
    which is known; for the entropies the same probes estimate it. σ₁ and the energies lie between
    Ritz values and a multiple of them that follows from the Gaussian start.

    A zero matrix has ranks, entropy and energies 0 and the condition inf.

    Args:
        x: one real or complex matrix.
        method: "auto" is exact up to a smaller side of 1024.
        probes: vectors at a time; errors of the ranks fall with its square root.
        steps: products with x and xᴴ per vector.
        confidence: the probability with which each error holds.
        generator: the source of the draws; None is a fresh one with seed 0, never torch's own.

    Raises:
        ValueError: no matrix, an empty one, NaN or inf, or an option out of range.

    Examples:
        >>> found = spectrum(torch.diag(torch.tensor([3.0, 4.0, 0.0])))
        >>> round(found.nuclear_rank, 4), round(found.stable_rank, 4), round(found.energy(1), 4)
        (1.96, 1.5625, 0.64)

    Sources:
        Ubaru, Chen & Saad, SIMAX 38 (2017); Meyer, Musco, Musco & Woodruff, Hutch++ (SOSA 2021);
        Laurent & Massart, Annals of Statistics 28 (2000), lemma 1.
    """
    _check(x, method, probes, steps, confidence)
    work = in_double(x.detach())
    power = power_of_two_scale(work)
    scaled = work * power
    norm = float(torch.linalg.vector_norm(scaled))
    if norm == 0 or method == "exact" or (method == "auto" and min(x.shape) <= EXACT_SIZE):
        return _exact(scaled / (norm or 1.0), norm / float(power))
    generator = generator or torch.Generator().manual_seed(0)
    wide = scaled if x.shape[0] <= x.shape[1] else scaled.mH
    found = sketch(wide / norm, probes, steps, risk=1 - confidence, generator=generator)
    return _randomised(found, x, norm / float(power), confidence)


def _check(x: Tensor, method: str, probes: int, steps: int, confidence: float) -> None:
    """Raise unless there is a spectrum."""
    if x.ndim != 2:
        raise invalid(
            "x",
            f"{shape_text(x.shape)} {x.dtype}",
            "give one matrix; a MatrixView cuts a parameter into matrices",
        )
    _check_entries(x)
    if method not in METHODS:
        raise invalid("method", method, 'give "auto", "exact" or "randomised"')
    for name, value in (("probes", probes), ("steps", steps)):
        if value < 2:
            raise invalid(name, value, "give 2 or more")
    if not 0 < confidence < 1:
        raise invalid("confidence", confidence, "give a probability between 0 and 1")


def _check_entries(x: Tensor) -> None:
    check_matrices(x)
    if 0 in x.shape[-2:]:
        raise invalid("x", shape_text(x.shape), "an empty matrix has no singular values")
    if not bool(torch.isfinite(x).all()):
        raise invalid("x", "non-finite entries", "remove NaN and inf first")


def _exact(x: Tensor, unit: float) -> Spectrum:
    """The spectrum from a matrix of Frobenius norm 1 (or 0), which is `unit` too small."""
    return _of_values(_singular_values(x), tuple(x.shape), unit, rounding(x))


def of_values(values: Float64[Tensor, " k"], shape: tuple[int, int]) -> Spectrum:
    """The spectrum of a matrix of this shape whose singular values are known, in falling order."""
    norm = torch.linalg.vector_norm(values)
    off = max(shape) * epsilon(values.dtype)
    return _of_values(values / safe_divisor(norm), shape, float(norm), off)


def _of_values(s: Tensor, shape: tuple[int, ...], unit: float, off: float) -> Spectrum:
    """The spectrum from all singular values over `unit`, each off by off·σ₁ at most."""
    s = s / safe_divisor(torch.linalg.vector_norm(s))
    top, bottom, count = float(s[0]), float(s[-1]), len(s)
    nuclear, sums = float(s.sum()), count * off * top
    # |x·log x − y·log y| ≤ δ·(1 − log δ) where |x − y| ≤ δ ≤ 1/e.
    inner = count * off * top * (1 - math.log(off)) + sums * math.log(max(count, 2))
    rank = float(_effective_rank(s))
    singular = bottom <= off * top
    condition = math.inf if singular else top / bottom
    slack = off * condition
    known = {
        "nuclear_rank": (nuclear**2, 2 * nuclear * sums + sums**2),
        "stable_rank": (float(_stable_rank(s)), 3 * off * float(_stable_rank(s))),
        "effective_rank": (rank, rank * math.expm1(2 * inner / (nuclear or 1.0))),
        "entropy": (float(_svd_entropy(s)), 4 * sums / math.log(max(count, 2))),
        # Twice as far off at most while σ_k keeps half of its digits; else nothing is known.
        "condition": (condition, 4 * slack * condition if slack < 0.5 else math.inf),
        "nuclear_norm": (nuclear * unit, sums * unit),
        "frobenius_norm": (unit, off * unit),
        "spectral_norm": (top * unit, off * top * unit),
    }
    energies = (s**2).cumsum(0).clamp(max=1.0)
    return Spectrum(
        shape=(int(shape[0]), int(shape[1])),
        values=s * unit,
        **{name: value for name, (value, _) in known.items()},
        errors={name: error for name, (_, error) in known.items()},
        confidence=1.0,
        shares=torch.stack([energies, energies]),
    )


def _randomised(found: Sketch, x: Tensor, unit: float, confidence: float) -> Spectrum:
    """The spectrum from intervals for x/unit, which has Frobenius norm 1."""
    most = math.log(min(x.shape)) or 1.0
    low, high = found.top
    (least, largest), (flat, even), (few, many) = found.nuclear, found.entropy, found.log_rank
    known = {
        "nuclear_rank": _middle(least**2, largest**2),
        "stable_rank": _middle(1 / high, 1 / low),
        "effective_rank": _middle(math.exp(few), math.exp(many)),
        "entropy": _middle(flat / most, even / most),
        "condition": (math.sqrt(low) / found.bottom if found.bottom else math.inf, math.inf),
        "nuclear_norm": _middle(least * unit, largest * unit),
        "frobenius_norm": (unit, rounding(in_double(x)) * unit),
        "spectral_norm": _middle(math.sqrt(low) * unit, math.sqrt(high) * unit),
    }
    return Spectrum(
        shape=(int(x.shape[0]), int(x.shape[1])),
        values=None,
        **{name: value for name, (value, _) in known.items()},
        errors={name: error for name, (_, error) in known.items()},
        confidence=confidence,
        shares=found.energies,
    )


def _middle(lower: float, upper: float) -> tuple[float, float]:
    """The middle of an interval, and how far it is to the ends."""
    return (lower + upper) / 2, (upper - lower) / 2


def _singular_values(x: Tensor) -> Tensor:
    # LAPACK is three times faster on 3072 × 768 than on its transpose.
    s: Tensor = torch.linalg.svdvals(x if x.shape[-2] >= x.shape[-1] else x.mT.contiguous())
    return s


def _unit_values(x: Tensor) -> Tensor:
    """Singular values (*batch, k) of each matrix over its Frobenius norm, in double precision."""
    _check_entries(x)
    s = _singular_values(unit_scale(in_double(x.detach())))
    norm: Tensor = torch.linalg.vector_norm(s, dim=-1, keepdim=True)
    return s / safe_divisor(norm)


def _stable_rank(s: Tensor) -> Tensor:
    return torch.where(s[..., 0] > 0, safe_divisor(s[..., 0]) ** -2, 0.0)


def _effective_rank(s: Tensor) -> Tensor:
    total = s.sum(dim=-1, keepdim=True)
    entropy: Tensor = torch.special.entr(s / safe_divisor(total)).sum(dim=-1)
    return torch.where(total[..., 0] > 0, entropy.exp(), 0.0)


def _svd_entropy(s: Tensor) -> Tensor:
    most = math.log(s.shape[-1]) or 1.0
    entropy: Tensor = torch.special.entr(s**2).sum(dim=-1)
    return entropy / most


@torch.no_grad()
def nuclear_rank(x: Inexact[Tensor, "*batch m n"]) -> Float64[Tensor, "*batch"]:
    """The nuclear rank of each matrix, exactly.

        (Σσ)²/Σσ²,   in [1, min(m, n)]; 0 for zero

    Raises:
        ValueError: an empty matrix, NaN or inf.

    Examples:
        >>> round(nuclear_rank(torch.diag(torch.tensor([3.0, 4.0]))).item(), 12)
        1.96
    """
    return _unit_values(x).sum(dim=-1) ** 2


@torch.no_grad()
def stable_rank(x: Inexact[Tensor, "*batch m n"]) -> Float64[Tensor, "*batch"]:
    """The stable rank of each matrix, exactly.

        Σσ²/σ₁²,   in [1, min(m, n)]; 0 for zero

    Raises:
        ValueError: an empty matrix, NaN or inf.

    Examples:
        >>> round(stable_rank(torch.diag(torch.tensor([3.0, 4.0]))).item(), 12)
        1.5625
    """
    return _stable_rank(_unit_values(x))


@torch.no_grad()
def effective_rank(x: Inexact[Tensor, "*batch m n"]) -> Float64[Tensor, "*batch"]:
    """The effective rank of each matrix, exactly.

        exp(−Σ p·log p),   p = σ/Σσ,   in [1, min(m, n)]; 0 for zero

    Raises:
        ValueError: an empty matrix, NaN or inf.

    Examples:
        >>> round(effective_rank(torch.eye(5)).item(), 12)
        5.0

    Sources:
        Roy & Vetterli, EUSIPCO 2007.
    """
    return _effective_rank(_unit_values(x))


@torch.no_grad()
def svd_entropy(x: Inexact[Tensor, "*batch m n"]) -> Float64[Tensor, "*batch"]:
    """The entropy of the energies of each matrix, exactly.

        −Σ p·log p/log min(m, n),   p = σ²/Σσ²,   in [0, 1]

    0 for zero, and where min(m, n) = 1.

    Raises:
        ValueError: an empty matrix, NaN or inf.

    Examples:
        >>> round(svd_entropy(torch.eye(5)).item(), 12)
        1.0

    Sources:
        Liu et al., Muon is scalable for LLM training, arXiv 2502.16982.
    """
    return _svd_entropy(_unit_values(x))


def ranks_of(values: Tensor) -> Tensor:
    """Nuclear, stable and effective rank along a last axis, from singular values (*batch, k)."""
    s = values / safe_divisor(torch.linalg.vector_norm(values, dim=-1, keepdim=True))
    return torch.stack([s.sum(dim=-1) ** 2, _stable_rank(s), _effective_rank(s)], dim=-1)
