"""The table of the named optimizers: *name = norm + momentum + scale + decay*."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from steepest.norms import L2, LInf, Norm, Operator, Spectral
from steepest.optim.choices import Scale
from steepest.polar import Auto

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
        note: A remark for the table, on what the other columns cannot say.
        source: The publication.
    """

    norm: Norm
    momentum: float = 0.0
    nesterov: bool = False
    betas: tuple[float, float] | None = None
    scale: Scale = "unit"
    weight_decay: float = 0.0
    note: str = ""
    source: str


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
    "Muon": Preset(
        norm=Spectral(polar=FAST),
        momentum=0.95,
        nesterov=True,
        weight_decay=0.1,
        note="lr·√max(1, out/in)",
        source="Jordan et al. 2024",
    ),
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
}
"""The rows, which the constructors of these names read."""
