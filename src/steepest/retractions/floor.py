"""Steps that are not too short for their weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from steepest._common.checks import positive
from steepest.retractions.retraction import (
    Combination,
    Products,
    Retraction,
    StepSize,
    above_rounding,
)
from steepest.transforms import State


@dataclass(frozen=True, repr=False)
class UpdateFloor(Retraction):
    """A step that is no shorter than a share of the weights: ‖u‖/‖W‖ ≥ ratio.

        u = factor·d;  f = max(1, ratio·‖W‖/‖u‖);  W ← (1 − lr·weight_decay)·W − lr·f·u

    The norms are Frobenius norms, and do not count the learning rate. Where weights grow, steps
    grow with them, so that learning does not slow down without weight decay.

    Args:
        ratio: The least ratio of a step at `lr` = 1 to the weights.
        rows: Whether each row has a ratio of its own; the matrix has one otherwise.

    Sources:
        KellerJordan/modded-nanogpt, records/track_3_optimization: records 9 (whole matrices, 0.35)
        and 46 (rows, 0.3825).
    """

    ratio: float = 0.35
    rows: bool = False

    def __post_init__(self) -> None:
        positive("ratio", self.ratio)

    def move(self, products: Products, size: StepSize, state: State) -> Combination:
        """The weights of W and d in the new W."""
        ww, _, dd = products
        update = dd * size.factor**2
        there = above_rounding(update)
        wanted = self.ratio * (ww / torch.where(there, update, 1)).sqrt()
        factor = torch.where(there, wanted.clamp(min=1), 1)
        return Combination((1 - size.decay).expand_as(ww), -size.length * factor)
