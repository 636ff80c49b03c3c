"""A comparison of two steps in words."""

from __future__ import annotations

TIE = 0.05
"""Guaranteed decreases that differ by less than this share count as equal."""

RANK_ONE = 1.01
"""Up to this nuclear rank a gradient counts as of rank one: its σ₁ has 99.99 % of Σσ²."""


def favoured(nuclear_rank: float, spread: float) -> str:
    """The geometry whose step guarantees more: "spectral", "euclidean" or "neither"."""
    ratio = nuclear_rank / spread
    if nuclear_rank <= RANK_ONE or 1 / (1 + TIE) <= ratio <= 1 + TIE:
        return "neither"
    return "spectral" if ratio > 1 else "euclidean"


def sentence(
    nuclear_rank: float,
    spread: float,
    guaranteed: float,
    measured: float | None,
    best: float | None,
) -> str:
    """Say which geometry a layer favours, and why.

    Args:
        nuclear_rank: the nuclear rank of the gradient.
        spread: the spread of the input: what a spectral step costs in nuclear rank.
        guaranteed: the decrease that the spectral step guarantees, over that of the Euclidean one.
        measured: the same of the measured decreases; None where one of the two is not positive.
        best: the same of the best decreases along both; None where one has no best length.
    """
    rank, cost = f"the gradient's nuclear rank {nuclear_rank:.3g}", f"({spread:.3g})"
    if nuclear_rank <= RANK_ONE:
        return "neither: the gradient is of rank one, so both steps have the same direction"
    tests = "; ".join(
        _tested(ratio, guaranteed < 1, *words)
        for ratio, *words in (
            (measured, "measured", "measured, the loss does not fall with both"),
            (best, "each at its best length", "not both have a best length"),
        )
    )
    favours = favoured(nuclear_rank, spread)
    if favours == "neither":
        return f"neither: {rank} is about what the input's spread costs {cost}"
    if favours == "spectral":
        return (
            f"spectral: {rank} exceeds what the input's spread costs {cost}: the spectral step "
            f"guarantees {guaranteed:.3g} times the decrease; {tests}"
        )
    return (
        f"Euclidean: {rank} is less than what the input's spread costs {cost}: the Euclidean step "
        f"guarantees {1 / guaranteed:.3g} times the decrease; {tests}"
    )


def _tested(ratio: float | None, turned: bool, what: str, without: str) -> str:
    """Whether a ratio of decreases, turned over for the Euclidean step, bears a verdict out."""
    if ratio is None:
        return without
    ratio = 1 / ratio if turned else ratio
    return f"{what} {ratio:.3g} times" + (
        ", so there the other step is better" if ratio < 1 else ""
    )
