"""The blocks of three slots that a row may fill, by the class of the object that fills it.

A block is a function with the signature of its slot. It reads the attributes of the object as
hyper-parameters from the group, as `group["beta2"]`. Its docstring says in one line what it does,
then the formula, in the letters u, d and W, then under `Attributes:` what it reads. Functions and
constants of its module that it uses come along.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

BEFORE: Mapping[str, Callable[..., Tensor]] = {}
"""Maps of the average u, before its direction."""

AFTER: Mapping[str, Callable[..., Tensor]] = {}
"""Maps of the direction d."""

RETRACTION: Mapping[str, Callable[..., None]] = {}
"""Ways to move the weights W."""


# What stands for the blocks of a row: a block may need all of these arguments.
# ruff: noqa: ARG001


def before(u: Tensor, states: list[dict[str, Any]], group: dict[str, Any]) -> Tensor:
    """The average to follow in the place of u; here u itself.

    Args:
        u: The averages, shape (parameters, parts, m, n); those of entries (1, *shape).
        states: The state of each parameter.
        group: The values of the group.
    """
    return u


def after(d: Tensor, states: list[dict[str, Any]], group: dict[str, Any]) -> Tensor:
    """The direction in the place of d; here d itself.

    Args:
        d: The directions, in the shape of the averages.
        states: The state of each parameter.
        group: The values of the group.
    """
    return d


def retract(p: Any, d: Tensor, lr: float, state: dict[str, Any], group: dict[str, Any]) -> None:
    """Move a parameter; here W ← (1 − lr·weight_decay)·W − lr·d.

    Args:
        p: The parameter W, changed in place.
        d: Its direction, in its shape.
        lr: The learning rate, with the factor of the shape.
        state: The state of the parameter.
        group: The values of the group.
    """
    p.mul_(1 - group["lr"] * group["weight_decay"])
    p.add_(d, alpha=-lr)
