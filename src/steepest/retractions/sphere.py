"""Steps on the sphere of the weights as they are: Hyperball."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from steepest._common.checks import positive
from steepest.retractions.retraction import Combination, Products, Retraction, StepSize
from steepest.transforms import State


@dataclass(frozen=True, repr=False)
class Sphere(Retraction):
    """A step of relative length lr along the direction, and back to the norm from before.

        V = W − lr·‖W‖_F·d/‖d‖_F;  W ← (1 − lr·weight_decay)·‖W‖_F·V/‖V‖_F

    Without weight decay every matrix keeps the Frobenius norm that it begins with; decay shrinks
    the sphere. `lr` is about the angle of a step, a factor of the direction has no effect, and zero
    stays zero: matrices that begin small, or as zero, should begin larger.

    Args:
        scale: The radius of the sphere over the norm that a matrix begins with; its first step
            scales it.

    Sources:
        Hyperball (MuonH), arXiv 2606.16899; with decay as in NVIDIA-NeMo/Emerging-Optimizers.
    """

    rows: ClassVar[bool] = False  # type: ignore[misc]
    names: ClassVar[tuple[str, ...]] = ("begun",)

    scale: float = 1.0

    def __post_init__(self) -> None:
        positive("scale", self.scale)

    def move(self, products: Products, size: StepSize, state: State) -> Combination:
        """The weights of W and d in the new W."""
        ww, wd, dd = products
        # In the units of ‖W‖ the step is of length lr; the weight of W is exactly 1 at lr = 0.
        ratio = torch.where(dd > 0, (ww / torch.where(dd > 0, dd, 1)).sqrt(), 0)
        step, moves = size.lr * ratio, size.lr != 0
        squared = ww - 2 * step * wd + step**2 * dd
        back = torch.where(squared > 0, (ww / torch.where(squared > 0, squared, 1)).sqrt(), 1)
        first = moves & (state["begun"] == 0)
        kept = (1 - size.decay) * back * torch.where(first, self.scale, 1.0)
        state["begun"] = torch.where(moves, 1.0, state["begun"])
        return Combination(kept, -kept * step)
