"""Averages of gradients: the kinds of momentum. An ejected file has one, and calls it `average`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def heavy_ball(grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Update the buffer; return the average to follow.

        u ← momentum·u + (1 − momentum)·grad

    Attributes:
        momentum: Weight of the past in the average.
    """
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(grad)
    u: Tensor = state["momentum_buffer"].lerp_(grad, 1 - group["momentum"])
    # Where a gradient is exactly zero, an average that has faded is taken as zero.
    return u.masked_fill((grad == 0) & (u.abs() <= 1e-12), 0)


def nesterov(grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Update the buffer; return the average to follow.

        buffer ← momentum·buffer + (1 − momentum)·grad
        u = momentum·buffer + (1 − momentum)·grad  if nesterov, else buffer

    Attributes:
        momentum: Weight of the past in the average.
        nesterov: Whether the average looks one step ahead.
    """
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(grad)
    u = state["momentum_buffer"].lerp_(grad, 1 - group["momentum"])
    u = grad.lerp(u, group["momentum"]) if group["nesterov"] else u
    # Where a gradient is exactly zero, an average that has faded is taken as zero.
    return u.masked_fill((grad == 0) & (u.abs() <= 1e-12), 0)


def two_weights(grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Return the average to follow, made before the buffer is updated.

        u = β₁·buffer + (1 − β₁)·grad
        buffer ← β₂·buffer + (1 − β₂)·grad

    Attributes:
        betas: β₁ and β₂, the weights of the past in u and in the buffer.
    """
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(grad)
    u = grad.lerp(state["momentum_buffer"], group["betas"][0])
    state["momentum_buffer"].lerp_(grad, 1 - group["betas"][1])
    # Where a gradient is exactly zero, an average that has faded is taken as zero.
    return u.masked_fill((grad == 0) & (u.abs() <= 1e-12), 0)
