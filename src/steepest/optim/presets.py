"""The table of the named optimizers: *name = norm + momentum + scale + decay*."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steepest.norms import L2, LInf, Norm, Operator, Spectral
from steepest.optim.choices import SLOTS, Scale, ShapeRule
from steepest.polar import Auto
from steepest.retractions import RadialBrake, Retraction, RowMagnitudes, Sphere, UpdateFloor
from steepest.transforms import (
    BalancedRows,
    Composed,
    Eigenbasis,
    GradientSecondMoment,
    NormalizedColumns,
    NormalizedRows,
    RowSecondMoment,
    SecondMoment,
    SemiorthogonalNorm,
    Sign,
    Transform,
)

FAST = Auto(error=0.05)
LION_BETAS = (0.9, 0.99)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One row of the table: the values that a name stands for.

    Args:
        norm: The norm in which a matrix, or every tensor, moves.
        momentum: Weight of the past in the average.
        nesterov: Whether the average looks one step ahead.
        betas: The two weights of an average that has them, in place of `momentum`.
        scale: "unit", or "dual" with sharpness 1, so that `lr` is 1/λ.
        weight_decay: Decoupled decay.
        before: The map of the average before the duality map.
        after: The map of the direction after it.
        retraction: The way in which weights take a step.
        adjust_lr_fn: The factor of `lr` by the shape of a matrix, for the rows of Muon.
        note: A remark for the table, on what the other columns cannot say.
        source: The publication.
    """

    norm: Norm
    momentum: float = 0.0
    nesterov: bool = False
    betas: tuple[float, float] | None = None
    scale: Scale = "unit"
    weight_decay: float = 0.0
    before: Transform | None = None
    after: Transform | None = None
    retraction: Retraction | None = None
    adjust_lr_fn: ShapeRule = None
    note: str = ""
    source: str


def _muon(**values: Any) -> Preset:
    """A row of Muon with other values."""
    usual = {"norm": Spectral(polar=FAST), "momentum": 0.95, "nesterov": True, "weight_decay": 0.1}
    return Preset(**{**usual, **values})


PRESETS: Mapping[str, Preset] = {
    "SGD": Preset(norm=L2(), scale="dual", source="Robbins & Monro 1951"),
    "NormalizedSGD": Preset(norm=L2(), momentum=0.9, source="Cutkosky & Mehta, arXiv 2002.03305"),
    "SignSGD": Preset(norm=LInf(), momentum=0.9, source="Bernstein et al., arXiv 1802.04434"),
    "Lion": Preset(norm=LInf(), betas=LION_BETAS, source="Chen et al., arXiv 2302.06675"),
    "SpectralDescent": Preset(
        norm=Spectral(polar=FAST),
        scale="dual",
        source="Carlson et al., NeurIPS 2015",
    ),
    "Muon": _muon(source="Jordan et al. 2024"),
    "PolarGrad": Preset(
        norm=Spectral(polar=FAST),
        momentum=0.95,
        scale="dual",
        source="Lau, Long & Su, arXiv 2505.21799",
    ),
    "Scion": Preset(
        norm=Operator("rms", "rms", polar=FAST),
        momentum=0.9,
        note="embeddings 1 → RMS, head 1 → ∞, vectors RMS",
        source="Pethick et al., arXiv 2502.07529",
    ),
    "NorMuon": _muon(after=RowSecondMoment(), source="Li et al., arXiv 2510.05491"),
    "AdaMuon": _muon(
        before=Sign(),
        after=Composed(SecondMoment(eps=1e-8), SemiorthogonalNorm()),
        adjust_lr_fn="match_rms_adamw",
        source="Si et al., arXiv 2507.11005",
    ),
    "Muon2": _muon(before=GradientSecondMoment(), source="Muon², arXiv 2604.09967"),
    "MuonEq": _muon(
        before=NormalizedRows(),
        adjust_lr_fn="match_rms_adamw",
        source="MuonEq, arXiv 2603.28254",
    ),
    "MuonPlus": _muon(
        after=Composed(NormalizedColumns(eps=1e-7), NormalizedRows(eps=1e-7)),
        adjust_lr_fn="spectral_unclamped",
        source="Muon+, arXiv 2602.21545",
    ),
    "Aurora": _muon(before=BalancedRows(polar=FAST), source="Aurora, arXiv 2606.27715"),
    "SOAPMuon": _muon(
        before=Eigenbasis(),
        weight_decay=0.0,
        source="Vyas et al., arXiv 2409.11321; modded-nanogpt, track 3, record 46",
    ),
    "Hyperball": _muon(retraction=Sphere(), weight_decay=0.0, source="Hyperball, arXiv 2606.16899"),
    "Muown": _muon(
        retraction=RowMagnitudes(),
        adjust_lr_fn="match_rms_adamw",
        weight_decay=0.0,
        source="Lion et al., arXiv 2605.10797",
    ),
    "MuonFloor": _muon(
        retraction=UpdateFloor(),
        weight_decay=0.0,
        source="modded-nanogpt, track 3, record 9",
    ),
    "MuonBrake": _muon(retraction=RadialBrake(), source="NVIDIA Emerging-Optimizers 2026"),
}
"""The rows, which the constructors of these names read."""

FAMILY = tuple(n for n, row in PRESETS.items() if any(getattr(row, key) for key in SLOTS))
"""Names of the rows with maps beside the duality map, or with another way to step."""
