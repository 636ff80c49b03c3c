"""Steps that change the norm of the weights more slowly than their direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from steepest._common.errors import invalid
from steepest.retractions.retraction import Combination, Products, Retraction, StepSize
from steepest.transforms import State


@dataclass(frozen=True, repr=False)
class RadialBrake(Retraction):
    """A step of which the norm of a matrix takes only a share, the larger norm for the less of it.

        V = (1 − lr·weight_decay)·W − lr·factor·d;  a = (1 − lr·weight_decay)·‖W‖_F
        s = outward if ‖V‖_F > a else inward;  W ← (a + s·(‖V‖_F − a))·V/‖V‖_F

    Args:
        outward: The share of a growing norm, in [0, 1].
        inward: The share of a shrinking norm, in [0, 1].

    Sources:
        NVIDIA-NeMo/Emerging-Optimizers, weight_update_hooks; after KellerJordan/modded-nanogpt,
        records/track_3_optimization, record 29, which brakes the radial part of the direction.
    """

    rows: ClassVar[bool] = False  # type: ignore[misc]

    outward: float = 0.5
    inward: float = 1.0

    def __post_init__(self) -> None:
        for name in ("outward", "inward"):
            if not 0 <= getattr(self, name) <= 1:
                raise invalid(name, getattr(self, name), "give a share in [0, 1]")

    def move(self, products: Products, size: StepSize, state: State) -> Combination:
        """The weights of W and d in the new W."""
        ww, wd, dd = products
        kept, step = 1 - size.decay, size.length
        before = kept * ww.sqrt()
        after = (kept**2 * ww - 2 * kept * step * wd + step**2 * dd).clamp(min=0).sqrt()
        share = torch.where(after > before, self.outward, self.inward)
        aim = before + share * (after - before)
        scale = torch.where(after > 0, aim / torch.where(after > 0, after, 1), 1)
        return Combination(scale * kept, -scale * step)
