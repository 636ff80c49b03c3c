"""Maps beside the polar factor: of the average u before it, of the direction d after it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from steepest.apps.eject.blocks.polar import normalized, polar_factor


def signs(u: Tensor) -> Tensor:
    """The sign of every entry.

    u ← sign(u)
    """
    return u.sign()


def equal_rows(u: Tensor) -> Tensor:
    """Every row over its Euclidean norm.

    u ← u/‖u‖_row
    """
    return normalized(u, (-1,))


def balance_rows(u: Tensor, group: dict[str, Any]) -> Tensor:
    """Weights for the rows of a tall matrix that make those of its polar factor alike.

        u ← u/‖u‖_row; then iterations − 1 times
        u ← u·(n/m/‖polar(u)‖²_row)^exponent, for a tall m × n matrix

    Attributes:
        iterations: Number of polar factors in a step.
        exponent: How much of the unevenness an iteration takes away.
    """
    m, n = u.shape[-2:]
    if m <= n:
        return u
    u, tiny = normalized(u, (-1,)), torch.finfo(u.dtype).tiny
    for _ in range(group["iterations"] - 1):
        rows = polar_factor(u).square().sum(-1, keepdim=True)
        u = u / (rows * (m / n)).clamp(min=tiny) ** group["exponent"]
    return u


def averaged(name: str, x: Tensor, states: list[dict[str, Any]], beta: float) -> Tensor:
    """Update the averages of x in the states of the parameters; return them as a stack."""
    for state, each in zip(states, x, strict=True):
        if name not in state:
            state[name] = torch.zeros_like(each)
        state[name].lerp_(each, 1 - beta)
    return torch.stack([state[name] for state in states])


def scale_as_adam(
    u: Tensor, params: list[Any], states: list[dict[str, Any]], group: dict[str, Any]
) -> Tensor:
    """Entries over the root of an average of the squared gradient.

        v ← beta·v + (1 − beta)·grad²
        u ← u/(√v + eps)

    Attributes:
        beta: Weight of the past in v.
        eps: A number that is added to the root of v.
    """
    grads = torch.stack([p.grad for p in params]).reshape(u.shape)
    v = averaged("second_moment", grads.square(), states, group["beta"])
    eps: float = group["eps"]
    return u / (v.sqrt() + eps)


def scale_entries(d: Tensor, states: list[dict[str, Any]], group: dict[str, Any]) -> Tensor:
    """Entries over the root of an average of their squares.

        v ← beta·v + (1 − beta)·d²
        d ← d/(√v + eps)

    Attributes:
        beta: Weight of the past in v.
        eps: A number that is added to the root of v.
    """
    v = averaged("second_moment", d.square(), states, group["beta"])
    eps: float = group["eps"]
    return d / (v.sqrt() + eps)


def frobenius(x: Tensor) -> Tensor:
    """The Frobenius norm of each matrix; never zero, to divide by it."""
    return x.square().sum((-2, -1), keepdim=True).sqrt().clamp(min=torch.finfo(x.dtype).tiny)


def scale_rows(d: Tensor, states: list[dict[str, Any]], group: dict[str, Any]) -> Tensor:
    """Rows over the root of an average of their mean squares, at the same Frobenius norm.

        v ← beta·v + (1 − beta)·mean_row(d²)
        d ← c·d/(√v + eps), c such that ‖d‖_F stays

    Attributes:
        beta: Weight of the past in v.
        eps: A number that is added to the root of v.
    """
    v = averaged("second_moment", d.square().mean(-1, keepdim=True), states, group["beta"])
    eps: float = group["eps"]
    y = d / (v.sqrt() + eps)
    return y * (frobenius(d) / frobenius(y))


def unit_columns(d: Tensor, group: dict[str, Any]) -> Tensor:
    """Every column over its Euclidean norm.

        d ← d/√(‖d‖²_column + eps)

    Attributes:
        eps: A number that is added to the squared norms.
    """
    eps: float = group["eps"]
    return d / (d.square().sum(-2, keepdim=True) + eps).sqrt()


def unit_rows(d: Tensor, group: dict[str, Any]) -> Tensor:
    """Every row over its Euclidean norm.

        d ← d/√(‖d‖²_row + eps)

    Attributes:
        eps: A number that is added to the squared norms.
    """
    eps: float = group["eps"]
    return d / (d.square().sum(-1, keepdim=True) + eps).sqrt()


def semiorthogonal_norm(d: Tensor) -> Tensor:
    """The Frobenius norm of a polar factor of full rank.

    d ← √min(m, n)·d/‖d‖_F
    """
    return math.sqrt(min(d.shape[-2:])) * normalized(d, (-2, -1))
