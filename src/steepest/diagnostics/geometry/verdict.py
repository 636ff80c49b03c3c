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

WEAK = (
    "A weak guide: this holds at one point for one batch, and as a rule for choosing a geometry "
    "the ratio is worth little (docs/reproductions.md, directional-sharpness). Compare two short "
    "runs before you change an optimizer."
)
"""The caveat of every verdict; the page that it names has the measurements behind it."""


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
        routed: the reason why the routing gives the weight to AdamW, which judges it: an embedding
            or a head; else empty. Its numbers are kept, and there is no verdict.
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
    routed: str = ""

    @property
    def judged(self) -> bool:
        """Whether there is a verdict: the numbers exist, and the routing has not decided before."""
        return self.guaranteed_ratio is not None and not self.routed

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
        """The better step, "spectral" or "euclidean"; "neither" where a test contradicts."""
        if not self.judged or self.nuclear_rank is None or self.nuclear_rank <= RANK_ONE:
            return "neither"
        first, *tests = (_side(r) for r in (self.guaranteed_ratio, *self._tests) if r is not None)
        return first if set(tests) <= {first, "neither"} else "neither"

    @property
    def _tests(self) -> tuple[float | None, ...]:
        return self.measured_ratio, self.best_ratio

    @property
    def progress(self) -> float | None:
        """The spectral step's decrease over the Euclidean one's, by the hardest test there is."""
        known = (self.best_ratio, self.measured_ratio, self.guaranteed_ratio)
        return next((ratio for ratio in known if ratio is not None), None) if self.judged else None

    @property
    def sentence(self) -> str:
        """The step that suits the layer, how much it gains, and what to do."""
        if not self.judged:
            why = f"AdamW's by the routing: {self.routed}" if self.routed else self.note
            return f"not judged: {why}"
        if (self.nuclear_rank or 0.0) <= RANK_ONE:
            return "neither: the gradient has rank one, so both steps agree; nothing to change"
        return _sentence(self)

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
        return (self.layer, shape_text(self.shape), *texts, self.favours if self.judged else "–")


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


def _side(ratio: float | None) -> str:
    """The step that a ratio of decreases, spectral over Euclidean, speaks for."""
    if ratio is None or 1 / (1 + TIE) <= ratio <= 1 + TIE:
        return "neither"
    return "spectral" if ratio > 1 else "euclidean"


NAMES = {"spectral": ("Muon", "a gradient step"), "euclidean": ("a gradient step", "Muon")}
"""The step that a word stands for, and its rival, as users call them."""


def _sentence(row: LayerVerdict) -> str:
    """The verdict on a layer whose gradient has more than one direction."""
    words = ("guaranteed", "measured over short steps", "each step at its best length")
    ratios = (row.guaranteed_ratio, *row._tests)
    found = [(what, ratio) for what, ratio in zip(words, ratios, strict=True) if ratio is not None]
    favours = row.favours
    if favours == "neither":
        said = "; ".join(f"{what}: {_ahead(ratio)}" for what, ratio in found)
        return f"undecided: {said}; nothing to change"
    suited, rival = NAMES[favours]
    along = [(what, ratio if favours == "spectral" else 1 / ratio) for what, ratio in found]
    what, gain = along[-1]
    rest = ", ".join(f"{w} {r:.3g}" for w, r in along[:-1])
    return (
        f"{favours}: suits {suited}: expect about {gain:.2g} times the progress of {rival} "
        f"({what}{'; ' if rest else ''}{rest})"
    )


def _ahead(ratio: float) -> str:
    """The step that a ratio puts ahead, in words."""
    side = _side(ratio)
    if side == "neither":
        return "about equal"
    return f"{NAMES[side][0]} ahead {max(ratio, 1 / ratio):.3g} times"


def _kinds(judged: list[LayerVerdict]) -> str:
    """How many layers suit which step."""
    if len(judged) == 1:
        return (
            "The one layer that could be judged "
            + {
                "spectral": "suits Muon",
                "euclidean": "suits a gradient step",
                "neither": "is undecided",
            }[judged[0].favours]
        )
    count = {kind: sum(r.favours == kind for r in judged) for kind in NAMES}
    if len(judged) in count.values():
        kind = max(count, key=count.__getitem__)
        return f"All {len(judged)} layers that could be judged suit {NAMES[kind][0]}"
    undecided = len(judged) - sum(count.values())
    return (
        f"Of {len(judged)} layers that could be judged {count['spectral']} suit Muon, "
        f"{count['euclidean']} a gradient step, and {undecided} are undecided"
    )


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
    def caveat(self) -> str:
        """The worth of the verdicts, and the thing to do before acting on them."""
        return WEAK

    @property
    def summary(self) -> str:
        """The whole model in a few sentences: which step suits it, and what was not judged."""
        judged = [row for row in self.rows if row.judged]
        text = "No layer could be judged."
        if judged:
            gain = median(row.progress or 0.0 for row in judged)
            text = (
                f"{_kinds(judged)}. Expect about {gain:.2g} times the progress of a gradient step "
                "along Muon's direction here (median over these layers)."
            )
        reasons: dict[str, list[str]] = {}
        for row in self.rows:
            if not row.judged:
                reasons.setdefault(row.sentence.partition(": ")[2], []).append(row.layer)
        silent = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
        return text + (f" Not judged: {silent}." if silent else "")

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
            WEAK,
            "Guaranteed is what holds if the loss is a quadratic function of the layer's output.",
        ]
        return "\n".join(lines)
