"""Scion's norm for each kind of layer."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from steepest.apps.eject.blocks.polar import normalized, polar_factor


def dualize(u: Tensor, group: dict[str, Any]) -> Tensor:
    """The direction of length 1 in the norm of a layer, for each tensor of a stack.

    Attributes:
        head_scale: Radius of the ball of the head over that of hidden layers.
    """
    layer = group["layer"]
    if layer == "hidden":  # RMS → RMS
        parts = torch.unflatten(u.flatten(2), 1, (group["split"], -1))  # (parameters, parts, m, n)
        m, n = parts.shape[-2:]
        return math.sqrt(m / n) * polar_factor(parts)
    if layer == "embedding":  # 1 → RMS
        return math.sqrt(u.shape[-1]) * normalized(u, (-1,))
    if layer == "head":  # 1 → ∞
        return u.sign().mul_(group["head_scale"] / u.shape[-1])
    return math.sqrt(u[0].numel()) * normalized(u, tuple(range(1, u.ndim)))  # RMS
