"""Steps on the sphere of the weights as they are: Hyperball."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from steepest.retractions.retraction import Combination, Products, Retraction, StepSize
from steepest.transforms import State


@dataclass(frozen=True)
class Sphere(Retraction):
    """A step of relative length lr along the direction, and back to the norm from before.

        V = W − lr·‖W‖_F·d/‖d‖_F;  W ← ‖W‖_F·V/‖V‖_F

    Every matrix keeps the Frobenius norm that it begins with, so there is no weight decay, and `lr`
    is about the angle of a step; a factor of the direction has no effect. Zero stays zero.

    Sources:
        Hyperball (MuonH), arXiv 2606.16899.
    """

    rows: ClassVar[bool] = False  # type: ignore[misc]
    decays: ClassVar[bool] = False

    def move(self, products: Products, size: StepSize, state: State) -> Combination:
        """The weights of W and d in the new W."""
        ww, wd, dd = products
        # In the units of ‖W‖ the step is of length lr; exactly 1 at lr = 0.
        ratio = torch.where(dd > 0, (ww / torch.where(dd > 0, dd, 1)).sqrt(), 0)
        step = size.lr * ratio
        squared = ww - 2 * step * wd + step**2 * dd
        scale = torch.where(squared > 0, (ww / torch.where(squared > 0, squared, 1)).sqrt(), 1)
        return Combination(scale, -scale * step)
