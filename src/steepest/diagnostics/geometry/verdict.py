"""The geometry that each layer favours: what was found, in numbers, as a table and in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from steepest._common.errors import shape_text
from steepest._common.text import for_json, table
from steepest.diagnostics.geometry._sentences import favoured, sentence


@dataclass(frozen=True, kw_only=True)
class LayerVerdict:
    """One layer Z = W·A: what its gradient G and its input A say about a step.

    All decreases are of this layer's step alone, the others held still; positive is better.
    Numbers are None where there is no verdict, and `note` says why.

    Args:
        layer: the name of the weight, without ".weight".
        shape: the shape of the weight.
        calls: how often the weight is used.
        nuclear_rank: nr(G) = ‖G‖_*²/‖G‖_F².
        stable_rank: st(A) = ‖A‖_F²/‖A‖₂² of the input, all positions of the batch.
        spread: the same with the `out` largest singular values of A alone: what the nuclear rank
            has to exceed for the spectral step to guarantee more.
        curvature: c, the largest second derivative of the loss by Z, raised by `curvature_error`.
        curvature_error: the residual of the eigenvector that was found.
        guaranteed_euclidean: ‖G‖_F²/(2c‖A‖₂²), by Δ = −G/(c‖A‖₂²).
        guaranteed_spectral: `‖G‖_*²/(2c·Σσ²)`, by `Δ = −‖G‖_*/(c·Σσ²)·UVᵀ`, Σσ² = spread·‖A‖₂².
        measured_euclidean: how far the loss does fall with the Euclidean step.
        measured_spectral: how far it falls with the spectral step.
        best_euclidean: the best decrease along −G of the quadratic model in W; None where that has
            no minimum.
        best_spectral: the same along −UVᵀ.
        note: the reason why there is no verdict; else empty.
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
        return favoured(self.nuclear_rank, self.spread)

    @property
    def sentence(self) -> str:
        """The geometry that the layer favours and why, or why there is no verdict."""
        guaranteed = self.guaranteed_ratio
        if self.nuclear_rank is None or self.spread is None or guaranteed is None:
            return f"no verdict: {self.note}"
        return sentence(
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


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


def _ratio(above: float | None, below: float | None) -> float | None:
    if above is None or below is None or not (above > 0 and below > 0):
        return None
    return above / below


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The result of `compare`: rows to iterate over; a table and a sentence each when printed.

    `verdict["head"]` is the row of a layer.

    Args:
        loss: its value.
        rows: one for each weight.
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
