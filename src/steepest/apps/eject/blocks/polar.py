"""Directions of one length: the polar factor of a matrix, and a tensor over its norm."""

from __future__ import annotations

import torch
from torch import Tensor

from steepest.apps.eject.blocks.row import row

# An ejected file has the steps that were asked for, and what they reach.
SCHEDULE = ((1.875, -1.25, 0.375),) * 8


def polar_factor(x: Tensor) -> Tensor:
    """UVᵀ of each X = UΣVᵀ: X ← X/‖X‖_F; for (a, b, c): A = XXᵀ, X ← aX + (bA + cA²)X."""
    y = x.to(torch.promote_types(x.dtype, torch.float32)).flatten(0, -3)
    # For entries of any size; zero stays zero.
    y = y / y.abs().amax((-2, -1), keepdim=True).clamp(min=torch.finfo(y.dtype).tiny)
    y = y / y.square().sum((-2, -1), keepdim=True).sqrt().clamp(min=1)
    if row.half:
        y = y.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    y = y.mT if tall else y  # (batch, m, n) with m ≤ n
    for a, b, c in SCHEDULE:
        gram = torch.bmm(y, y.mT)
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        y = torch.baddbmm(y, gram, y, beta=a)
    return (y.mT if tall else y).reshape(x.shape)


def shape_factor(rule: str | None, m: int, n: int) -> float:
    """The factor of the learning rate for a matrix of m outputs and n inputs."""
    if rule == "match_rms_adamw":
        return float(0.2 * max(m, n) ** 0.5)
    return float((m / n if rule == "spectral_unclamped" else max(1, m / n)) ** 0.5)


def normalized(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """x/‖x‖₂ along axes, for entries of any size; zero stays zero."""
    x = x / x.abs().amax(dims, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return x / x.square().sum(dims, keepdim=True).sqrt().clamp(min=1)
