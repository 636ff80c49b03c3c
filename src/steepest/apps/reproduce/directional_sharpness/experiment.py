"""The direction of the largest fall of the loss, and whether the spectral step gains with nr(G).

Along a direction d the quadratic model of a loss falls by at most ⟨g, d⟩²/(2·dᵀHd): what counts is
the correlation with the gradient and the directional sharpness. At several steps of the run
of two networks with three optimizers both are measured for the gradient, its sign, the polar
factors of its matrices and, where AdamW trains, Adam's direction; of all hidden layers together,
and of each one moved by itself. Of each layer the ranks of the gradient G and of the input A are
taken at the same point. With c the curvature of the loss in the layer's outputs the guaranteed
decreases are ‖G‖_F²/(2L_F), L_F = c·‖A‖₂², and ‖G‖_*²/(2L_2), L_2 = c·Σ_{i ≤ out} σ_i(A)², so
that the polar direction should be ahead by nr(G)·L_F/L_2. See `sharpness_nets` for networks and
data.
"""

from __future__ import annotations

from steepest.apps.reproduce.directional_sharpness.claims import CLAIMS
from steepest.apps.reproduce.directional_sharpness.networks import SharpnessSettings, measure
from steepest.apps.reproduce.directional_sharpness.pictures import (
    draw_advantages,
    draw_decreases,
    draw_sharpnesses,
)
from steepest.apps.reproduce.directional_sharpness.tables import (
    advantages,
    correlations,
    decreases,
    layers,
    sharpnesses,
)
from steepest.apps.reproduce.framework.experiment import Cell, Reproduction
from steepest.apps.reproduce.names import TITLES

COSTS = {"text": 40.0, "images": 1.0}
"""A run of the GPT takes about forty times as long as one on digits."""

OPTIMIZERS = ("muon", "adamw", "sgd")


def cells(settings: SharpnessSettings) -> list[Cell]:
    """Every seed, network and optimizer that trains it."""
    return [
        Cell(key={"network": network, "optimizer": optimizer, "seed": seed}, cost=cost)
        for seed in settings.seeds
        for network, cost in COSTS.items()
        for optimizer in OPTIMIZERS
    ]


DIRECTIONAL_SHARPNESS = Reproduction(
    name="directional-sharpness",
    title=TITLES["directional-sharpness"],
    full=SharpnessSettings(),
    quick=SharpnessSettings(
        seeds=(0,),
        steps=8,
        batch=32,
        windows=4,
        layers=1,
        width=32,
        looks=(0, 1, 2, 4, 8),
        look_digits=64,
        look_windows=2,
    ),
    cells=cells,
    measure=measure,
    claims=CLAIMS,
    tables={
        "decreases": decreases,
        "sharpness": sharpnesses,
        "advantages": advantages,
        "correlations": correlations,
        "layers": layers,
    },
    pictures={
        "decreases": draw_decreases,
        "sharpness": draw_sharpnesses,
        "advantages": draw_advantages,
    },
)
