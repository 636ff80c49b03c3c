"""Rows as magnitudes and directions: Muown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steepest._common.checks import positive, weight
from steepest.retractions.retraction import (
    Combination,
    Products,
    Retraction,
    StepSize,
    above_rounding,
)
from steepest.transforms import State


@dataclass(frozen=True, repr=False)
class RowMagnitudes(Retraction):
    """Weights W = g·v/‖v‖ by rows: v moves along the direction, the magnitudes g by Adam.

        γ = ⟨G, W⟩_row/g;  the gradient that is averaged is (g/‖v‖)·(G − γ·W/g)
        v ← v − lr·factor·d;  g ← g − lr·Adam(γ)
        W ← g·v/‖v‖ − lr·weight_decay·W_before;  then g ← ‖W‖_row

    Only g, ‖v‖ and Adam's two averages are kept, for each row: v is W·‖v‖/g. Rows begin with
    g = ‖v‖ = ‖W‖_row; one that is zero, which has no direction, with `zero_row`.

    Args:
        betas: The weights of the past in Adam's two averages.
        eps: Adam's eps.
        zero_row: The magnitude of a row that begins as zero.

    Sources:
        Lion, Hübler et al., Muown, arXiv 2605.10797; kcc-lion/muown; `zero_row` as in its entry in
        KellerJordan/modded-nanogpt, records/track_3_optimization, record 23.
    """

    rows: ClassVar[bool] = True  # type: ignore[misc]
    names: ClassVar[tuple[str, ...]] = ("magnitude", "length", "average", "square", "steps")
    pulls: ClassVar[bool] = True

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    zero_row: float = 0.33**0.5

    def __post_init__(self) -> None:
        for beta in self.betas:
            weight("betas", beta)
        positive("eps", self.eps)
        positive("zero_row", self.zero_row)

    def pull(self, products: Products, state: State) -> Combination:
        """The weights of W and G in the gradient that is averaged."""
        ww, wg, _ = products
        begins, norm = state["steps"] == 0, ww.sqrt()
        for name in ("magnitude", "length"):
            first = torch.where(norm > 0, norm, self.zero_row)
            state[name] = torch.where(begins, first, state[name])
        # Weights are rounded, and others may change them: their norms are what counts.
        signed = torch.where(state["magnitude"] < 0, -norm, norm)
        state["magnitude"] = torch.where(norm > 0, signed, state["magnitude"])
        magnitude, length = state["magnitude"], state["length"]
        limit = torch.finfo(wg.dtype).max ** 0.5 / 8  # its square is finite
        slope = (wg / magnitude).clamp(-limit, limit)
        state["average"] = state["average"].lerp(slope, 1 - self.betas[0])
        state["square"] = state["square"].lerp(slope.square(), 1 - self.betas[1])
        state["steps"] = state["steps"] + 1
        return Combination(-slope / length, magnitude / length)

    def move(self, products: Products, size: StepSize, state: State) -> Combination:
        """The weights of W and d in the new W."""
        ww, wd, dd = products
        moves, zero = size.lr != 0, ww == 0
        magnitude = state["magnitude"] - size.lr * self._adam(state)
        # In the units of W; relative to what was before, so that a row at rest stays bit for bit.
        step = size.length * state["magnitude"] / state["length"]
        square = torch.where(zero, 1, ww)
        growth = (1 - 2 * step * wd / square + step**2 * dd / square).clamp(min=0).sqrt()
        growth = torch.where(zero, 1, growth)
        ratio = magnitude / state["magnitude"] / torch.where(growth > 0, growth, 1)
        # A row that is zero points where its first step does, if that is more than rounding.
        points = zero & above_rounding(dd)
        norm = torch.where(points, dd, 1).sqrt()
        length = torch.where(points, size.length * norm, growth * state["length"])
        first = torch.where(points, magnitude / norm, 0)
        x, y = ratio - size.decay, -torch.where(zero, first, ratio * step)
        # Where there is decay the rows are shorter than their magnitudes.
        norm = (x**2 * ww + 2 * x * y * wd + y**2 * dd).clamp(min=0).sqrt()
        magnitude = torch.where(size.decay > 0, norm, magnitude)
        for name, value in (("length", length), ("magnitude", magnitude)):
            state[name] = torch.where(moves, value, state[name])
        return Combination(torch.where(moves, x, 1), torch.where(moves, y, 0))

    def _adam(self, state: State) -> Tensor:
        """Adam's update of the magnitudes over the learning rate."""
        first, second = (1 - beta ** state["steps"] for beta in self.betas)
        return state["average"] / first / ((state["square"] / second).sqrt() + self.eps)
