"""The geometry that each layer favours: what was found, in numbers, as a table and in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from steepest._common.errors import shape_text
from steepest._common.text import for_json, table

TIE = 0.05
"""Guaranteed decreases that differ by less than this share count as equal."""

RANK_ONE = 1.01
"""Up to this nuclear rank a gradient counts as of rank one: its σ₁ has 99.99 % of Σσ²."""


@dataclass(frozen=True, kw_only=True)
class LayerVerdict:
    """One layer Z = W·A: what its gradient G and its input A say about a step.

    All decreases are of this layer's step alone, the others held still; positive is better.
    Numbers are None where there is no verdict, and `note` says why.

    Args:
        layer: the name of the weight, without ".weight".
        shape: the shape of the weight.
        calls: the number of times that the weight is used.
        nuclear_rank: nr(G) = ‖G‖_*²/‖G‖_F².
        stable_rank: st(A) = ‖A‖_F²/‖A‖₂² of the input, all positions of the batch.
        spread: the stable rank of the `out` largest singular values of A: what the nuclear rank has
            to exceed for the spectral step to guarantee more.
        curvature: c, the largest second derivative of the loss by Z, raised by `curvature_error`.
        curvature_error: the residual of the eigenvector that was found.
        guaranteed_euclidean: ‖G‖_F²/(2c‖A‖₂²), by Δ = −G/(c‖A‖₂²).
        guaranteed_spectral: `‖G‖_*²/(2c·Σσ²)`, by `Δ = −‖G‖_*/(c·Σσ²)·UVᵀ`, Σσ² = spread·‖A‖₂².
        measured_euclidean: the measured fall of the loss with the Euclidean step.
        measured_spectral: the measured fall with the spectral step.
        best_euclidean: the best decrease along −G of the quadratic model in W; None where that has
            no minimum.
        best_spectral: the best decrease along −UVᵀ, likewise.
        note: the reason for no verdict; else empty.
    """

    layer: str
    shape: tuple[int, ...]
    calls: int
    nuclear_rank: float | None = None
    stable_rank: float | None = None
    spread: float | None = None
    curvature: float | None = None
    curvature_error: float | None = None
    guaranteed_euclidean: float | None = None
    guaranteed_spectral: float | None = None
    measured_euclidean: float | None = None
    measured_spectral: float | None = None
    best_euclidean: float | None = None
    best_spectral: float | None = None
    note: str = ""

    @property
    def guaranteed_ratio(self) -> float | None:
        """The spectral guarantee over the Euclidean one: nuclear_rank/spread."""
        return _ratio(self.guaranteed_spectral, self.guaranteed_euclidean)

    @property
    def measured_ratio(self) -> float | None:
        """The spectral decrease over the Euclidean one; None where one of them is not positive."""
        return _ratio(self.measured_spectral, self.measured_euclidean)

    @property
    def best_ratio(self) -> float | None:
        """The same of the best decreases; None where one of them does not exist."""
        return _ratio(self.best_spectral, self.best_euclidean)

    @property
    def favours(self) -> str:
        """The step that guarantees more: "spectral", "euclidean", or "neither"."""
        if self.nuclear_rank is None or self.spread is None:
            return "neither"
        return _favoured(self.nuclear_rank, self.spread)

    @property
    def sentence(self) -> str:
        """The geometry that the layer favours and why, or the reason for no verdict."""
        guaranteed = self.guaranteed_ratio
        if self.nuclear_rank is None or self.spread is None or guaranteed is None:
            return f"no verdict: {self.note}"
        return _sentence(
            self.nuclear_rank, self.spread, guaranteed, self.measured_ratio, self.best_ratio
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data for JSON, with what is derived."""
        return for_json(
            {
                **asdict(self),
                "shape": list(self.shape),
                "guaranteed_ratio": self.guaranteed_ratio,
                "measured_ratio": self.measured_ratio,
                "best_ratio": self.best_ratio,
                "favours": self.favours,
                "sentence": self.sentence,
            }
        )

    def cells(self) -> tuple[str, ...]:
        """The row as text, as `HEADINGS` names it."""
        numbers = (
            self.nuclear_rank,
            self.stable_rank,
            self.spread,
            self.curvature,
            self.guaranteed_euclidean,
            self.guaranteed_spectral,
            self.measured_euclidean,
            self.measured_spectral,
            self.best_euclidean,
            self.best_spectral,
        )
        texts = ("–" if n is None else f"{n:.3g}" for n in numbers)
        return (self.layer, shape_text(self.shape), *texts, "–" if self.note else self.favours)


HEADINGS = (
    "layer",
    "shape",
    "nr(G)",
    "st(A)",
    "spread",
    "c",
    "bound: ℓ2",
    "spectral",
    "measured: ℓ2",
    "spectral ",
    "best: ℓ2",
    " spectral",
    "favours",
)
LEFT = {"layer", "shape", "favours"}


def _favoured(nuclear_rank: float, spread: float) -> str:
    """The geometry whose step guarantees more: "spectral", "euclidean" or "neither"."""
    ratio = nuclear_rank / spread
    if nuclear_rank <= RANK_ONE or 1 / (1 + TIE) <= ratio <= 1 + TIE:
        return "neither"
    return "spectral" if ratio > 1 else "euclidean"


def _sentence(
    nuclear_rank: float,
    spread: float,
    guaranteed: float,
    measured: float | None,
    best: float | None,
) -> str:
    """Say which geometry a layer favours, and why.

    Args:
        nuclear_rank: the nuclear rank of the gradient.
        spread: the spread of the input, the nuclear rank that a spectral step costs.
        guaranteed: the decrease that the spectral step guarantees, over that of the Euclidean one.
        measured: the measured decrease with the spectral step over that with the other; None where
            one of the two is not positive.
        best: the best decrease along the spectral direction over that along the other; None where
            one has no best length.
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
    favours = _favoured(nuclear_rank, spread)
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


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


def _ratio(above: float | None, below: float | None) -> float | None:
    if above is None or below is None or not (above > 0 and below > 0):
        return None
    return above / below


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The result of `compare_geometries`: rows to iterate over, printed as a table and sentences.

    `verdict["head"]` is the row of a layer.

    Args:
        loss: the value of the loss.
        rows: the verdict of each weight.
    """

    loss: float
    rows: tuple[LayerVerdict, ...]

    def __iter__(self) -> Iterator[LayerVerdict]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, layer: str) -> LayerVerdict:
        """The row of a layer."""
        return next(row for row in self.rows if row.layer == layer.removesuffix(".weight"))

    @property
    def summary(self) -> str:
        """The whole model in a sentence."""
        judged = [row for row in self.rows if row.guaranteed_ratio is not None]
        if not judged:
            return f"No verdict for any of {_layers(len(self))}."
        count = {kind: sum(r.favours == kind for r in judged) for kind in ("spectral", "euclidean")}
        text = (
            f"Of {_layers(len(judged))} {count['spectral']} favour the spectral step, "
            f"{count['euclidean']} the Euclidean one, and "
            f"{len(judged) - sum(count.values())} neither; in the median the spectral step "
            f"guarantees {median(r.guaranteed_ratio or 0.0 for r in judged):.3g} times the decrease"
        )
        for what, ratios in (
            ("measured", [r.measured_ratio for r in judged]),
            ("each at its best length", [r.best_ratio for r in judged]),
        ):
            if known := [ratio for ratio in ratios if ratio is not None]:
                text += f", {what} {median(known):.3g} times"
        silent = len(self) - len(judged)
        return f"{text}." + (f" No verdict for {silent} more." if silent else "")

    def to_json(self) -> dict[str, Any]:
        """Plain data for JSON."""
        rows = [row.to_json() for row in self.rows]
        return {**for_json({"loss": self.loss}), "summary": self.summary, "rows": rows}

    def __str__(self) -> str:
        lines = [
            table(HEADINGS, [row.cells() for row in self.rows], left=LEFT),
            "",
            *(f"{row.layer}: {row.sentence}." for row in self.rows),
            "",
            self.summary,
            "Guaranteed is what holds if the loss is a quadratic function of the layer's output.",
        ]
        return "\n".join(lines)
