"""Ways to move weights. An ejected file has one, and calls it `retract`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from steepest.apps.eject.blocks.maps import frobenius


def sphere(w: Tensor, d: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Take a step of relative length lr, and go back to the norm from before.

        V = W − lr·‖W‖_F·d/‖d‖_F;  s = scale in the first step, then 1
        W ← s·(1 − lr·weight_decay)·‖W‖_F·V/‖V‖_F

    Attributes:
        scale: Radius of the sphere over the norm that a matrix begins with.
    """
    lr: float = group["lr"]
    radius: Tensor = (1 - lr * group["weight_decay"]) * frobenius(w)
    if lr != 0 and "begun" not in state:
        radius, state["begun"] = group["scale"] * radius, True
    v = w - lr * frobenius(w) / frobenius(d) * d
    return radius / frobenius(v) * v


def radial_brake(w: Tensor, d: Tensor, factor: float, group: dict[str, Any]) -> Tensor:
    """Take a step of which the norm of a matrix gets a share.

        V = (1 − lr·weight_decay)·W − lr·shape_factor(m, n)·d;  a = (1 − lr·weight_decay)·‖W‖_F
        s = outward if ‖V‖_F > a, else inward
        W ← (a + s·(‖V‖_F − a))·V/‖V‖_F

    Attributes:
        outward: The share of a growing norm.
        inward: The share of a shrinking norm.
    """
    lr: float = group["lr"]
    kept: float = 1 - lr * group["weight_decay"]
    v = kept * w - lr * factor * d
    before, now = kept * frobenius(w), frobenius(v)
    share = torch.where(now > before, group["outward"], group["inward"])
    return (before + share * (now - before)) / now * v


def floored(w: Tensor, d: Tensor, factor: float, group: dict[str, Any]) -> Tensor:
    """Take a step that is no shorter than a share of the weights.

        x = shape_factor(m, n)·d;  f = max(1, ratio·‖W‖/‖x‖)
        W ← (1 − lr·weight_decay)·W − lr·f·x

    Attributes:
        ratio: The least ratio of a step at lr = 1 to the weights.
        rows: Whether each row has a ratio of its own, rather than the matrix.
    """
    lr: float = group["lr"]
    kept: float = 1 - lr * group["weight_decay"]
    dims, x = (-1,) if group["rows"] else (-2, -1), factor * d
    least: float = 10 * torch.finfo(x.dtype).eps  # below it a direction is rounding
    size, step = (y.square().sum(dims, keepdim=True).sqrt() for y in (w, x))
    ratio: float = group["ratio"]
    longer = torch.where(step > least, ratio * size / step, 1).clamp(min=1)
    return kept * w - lr * longer * x


def pull_to_rows(w: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Average the gradient of the magnitudes of rows; return that of their directions.

    W = g·v/‖v‖_row;  γ = ⟨grad, W⟩_row/g;  grad ← (g·grad − γ·W)/‖v‖_row
    """
    norm = w.square().sum(-1, keepdim=True).sqrt()
    if "magnitude" not in state:
        first = torch.where(norm > 0, norm, group["zero_row"])
        state.update(magnitude=first, length=first.clone(), steps=0)
        state.update(average=torch.zeros_like(first), square=torch.zeros_like(first))
    # Weights are rounded, and others may change them: their norms are what counts.
    g = torch.where(norm > 0, norm.copysign(state["magnitude"]), state["magnitude"])
    state["magnitude"] = g
    beta1, beta2 = group["betas"]
    slope = (w * grad).sum(-1, keepdim=True) / g
    state["steps"] += 1
    state["average"].lerp_(slope, 1 - beta1)
    state["square"].lerp_(slope.square(), 1 - beta2)
    return torch.div(g * grad - slope * w, state["length"])


def rows_apart(
    w: Tensor, d: Tensor, factor: float, state: dict[str, Any], group: dict[str, Any]
) -> Tensor:
    """Move the directions of rows along d, and their magnitudes by Adam.

        v ← v − lr·shape_factor(m, n)·d;  g ← g − lr·Adam(γ)
        W ← g·v/‖v‖_row − lr·weight_decay·W;  then g ← ‖W‖_row

    Attributes:
        betas: Weights of the past in Adam's two averages.
        eps: Adam's eps.
        zero_row: The magnitude of a row that begins as zero.
    """
    w, d = w.flatten(0, -2), d.flatten(0, -2)
    lr: float = group["lr"]
    decay: float = lr * group["weight_decay"]
    first, second = (1 - beta ** state["steps"] for beta in group["betas"])
    adam = state["average"] / first / ((state["square"] / second).sqrt() + group["eps"])
    v: Tensor = state["length"] / state["magnitude"] * w - lr * factor * d
    size = v.square().sum(-1, keepdim=True).sqrt()
    state["length"] = size = torch.where(size > 0, size, state["length"])
    state["magnitude"] = state["magnitude"] - lr * adam
    new: Tensor = state["magnitude"] / size * v - decay * w
    if decay > 0:
        state["magnitude"] = new.square().sum(-1, keepdim=True).sqrt()
    return new
