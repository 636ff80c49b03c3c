"""The reproductions by name, and what can be chosen of them; torch is not needed for it."""

from __future__ import annotations

from collections.abc import Mapping

TITLES: Mapping[str, str] = {
    "lr-transfer": "Best learning rate against width: SGD, AdamW and steepest descent in the "
    "modular norm",
    "depth-variance": "Size of the activations against depth: SGD, AdamW, Muon, and Muon in the "
    "ball ‖W‖ ≤ 1",
    "warm-start": "Polar factors started from the last step's: products against error in Muon's "
    "training",
    "spectral-constraint": "Weight decay as a constraint: Lion-K on a quadratic and two networks "
    "against its balls",
    "directional-sharpness": "How far the loss falls along the directions of optimizers, and the "
    "gradient's rank",
    "quadratics": "Muon on simple quadratics: grid, noise, greed and conditioning",
}
"""The question of each in a line."""

SCALES = ("paper", "full", "quick")
