"""The blocks of three slots that a row may fill, by the class of the object that fills it.

A block takes of the arguments of its slot, by their names, those that it needs. It reads the
attributes of the object as hyper-parameters from the group, as `group["beta"]`. Its docstring says
in one line what it does, then the formula, in the letters u, d and W, then under `Attributes:` what
it reads. Functions and constants of its module that it uses come along.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from steepest.apps.eject.blocks import maps, retractions, soap

Block = Callable[..., Tensor]

BEFORE: Mapping[str, Block] = {
    "BalancedRows": maps.balance_rows,
    "Eigenbasis": soap.scale_in_eigenbases,
    "GradientSecondMoment": maps.scale_as_adam,
    "NormalizedRows": maps.equal_rows,
    "Sign": maps.signs,
}
"""Maps of the average u, before its polar factor."""

AFTER: Mapping[str, Block] = {
    "NormalizedColumns": maps.unit_columns,
    "NormalizedRows": maps.unit_rows,
    "RowSecondMoment": maps.scale_rows,
    "SecondMoment": maps.scale_entries,
    "SemiorthogonalNorm": maps.semiorthogonal_norm,
}
"""Maps of the direction d, which is the polar factor."""

RETRACTION: Mapping[str, Block] = {
    "RadialBrake": retractions.radial_brake,
    "RowMagnitudes": retractions.rows_apart,
    "Sphere": retractions.sphere,
    "UpdateFloor": retractions.floored,
}
"""Ways to move the weights W."""

PULL: Mapping[str, Block] = {"RowMagnitudes": retractions.pull_to_rows}
"""Maps of the gradient that belong to a way to move."""

# What stands for the blocks of a row: it has every argument that a block may take.
# ruff: noqa: ARG001


def before(
    u: Tensor, params: list[Any], states: list[dict[str, Any]], group: dict[str, Any]
) -> Tensor:
    """The average to follow in the place of u; here u itself.

    Args:
        u: The averages, shape (parameters, parts, m, n).
        params: The parameters, with their gradients.
        states: The state of each parameter.
        group: The values of the group.
    """
    return u


def after(
    d: Tensor, params: list[Any], states: list[dict[str, Any]], group: dict[str, Any]
) -> Tensor:
    """The direction in the place of d; here d itself.

    Args:
        d: The directions, shape (parameters, parts, m, n).
        params: The parameters, with their gradients.
        states: The state of each parameter.
        group: The values of the group.
    """
    return d


def pull(w: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """The gradient to average in the place of grad; here grad itself.

    Args:
        w: A parameter, shape (m, n).
        grad: Its gradient.
        state: Its state.
        group: The values of the group.
    """
    return grad


def retract(
    w: Tensor, d: Tensor, factor: float, state: dict[str, Any], group: dict[str, Any]
) -> Tensor:
    """The new weights; here (1 − lr·weight_decay)·W − lr·factor·d.

    Args:
        w: The matrices of a parameter, shape (parts, m, n).
        d: Their directions.
        factor: The factor of the learning rate for their shape.
        state: The state of the parameter.
        group: The values of the group.
    """
    lr: float = group["lr"]
    kept: float = 1 - lr * group["weight_decay"]
    return kept * w - lr * factor * d
