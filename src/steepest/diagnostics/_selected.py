"""The parameters that are both in a model and in an optimizer, and their names in the model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeAlias

from torch import Tensor, nn

from steepest._common.errors import invalid
from steepest._common.wrapped import unwrapped
from steepest.optim import ParameterView, SteepestOptimizer
from steepest.routing.matrices import all_names

Model: TypeAlias = nn.Module | Iterable[tuple[str, Tensor]]
"""The parameters to look at: those of a module, or pairs of name and tensor."""


def selected(model: Model, optimizer: Any) -> list[ParameterView]:
    """Each parameter of the model that moves in a norm, called as there, in the optimizer's order.

    Raises:
        ValueError: an optimizer of somebody else, no names, or nothing in common.
    """
    optimizer = unwrapped(optimizer)
    if not isinstance(optimizer, SteepestOptimizer):
        raise invalid(
            "optimizer",
            type(optimizer).__name__,
            "only an optimizer of this library says which ball its decay has: "
            "steepest.Muon takes the place of torch.optim.Muon",
        )
    names = names_of(model)
    moved = (v for v in optimizer.parameter_views() if v.geometry is not None and v.param in names)
    found = [replace(v, name=names[v.param]) for v in moved]
    if not found:
        raise invalid(
            "model",
            type(model).__name__,
            "none of its parameters moves in a norm of this optimizer: give the model that it was "
            "made for",
        )
    return found


def names_of(model: Model) -> dict[Tensor, str]:
    """The first name of each parameter."""
    return {param: names[0] for param, names in all_names(model).items()}
