"""Decay of a product of two factors, a root for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from steepest.retractions.retraction import Combination, Products, Retraction, StepSize
from steepest.transforms import State


@dataclass(frozen=True)
class SplitDecay(Retraction):
    """A decay that the product of two factors takes once, where each takes its root.

        k = √(1 − lr·weight_decay);  W ← k·W − (lr·factor/k)·d

    To the first order in the steps of both factors their product B·A decays by 1 − lr·weight_decay
    and moves by B·ΔA + ΔB·A, as it would without decay.

    Sources:
        Cesista et al., LoRA-Muon, arXiv 2606.12921, algorithm 1.
    """

    rows: ClassVar[bool] = False  # type: ignore[misc]

    def move(self, products: Products, size: StepSize, state: State) -> Combination:
        """The weights of W and d in the new W."""
        kept = (1 - size.decay).sqrt()
        # At a decay of 1 nothing is left of the product, whatever the step is.
        step = torch.where(kept > 0, size.length / torch.where(kept > 0, kept, 1), 0)
        return Combination(kept.expand_as(products.xx), -step.expand_as(products.xx))
