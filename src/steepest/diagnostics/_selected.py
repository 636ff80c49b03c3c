"""The parameters that are both in a model and under a constraint of an optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from torch import Tensor, nn

from steepest._common.errors import invalid
from steepest.optim import Constrained, SteepestOptimizer
from steepest.views import MatrixView

Model: TypeAlias = nn.Module | Iterable[tuple[str, Tensor]]


def selected(model: Model, optimizer: Any) -> list[tuple[str, Constrained]]:
    """Each constrained parameter of the model with its name there, in the optimizer's order.

    Raises:
        ValueError: an optimizer of somebody else, no names, or nothing in common.
    """
    if not isinstance(optimizer, SteepestOptimizer):
        raise invalid(
            "optimizer",
            type(optimizer).__name__,
            "only an optimizer of this library says which ball its decay has: "
            "steepest.Muon takes the place of torch.optim.Muon",
        )
    names = names_of(model)
    found = [(names[c.param], c) for c in optimizer.constraints() if c.param in names]
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
    pairs: list[Any] = list(model.named_parameters() if isinstance(model, nn.Module) else model)
    names: dict[Tensor, str] = {}
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise invalid(
                "model", type(model).__name__, "give a module, or (name, parameter) pairs"
            )
        names.setdefault(pair[1], pair[0])
    return names


def views_in(optimizer: Any) -> dict[Tensor, MatrixView]:
    """How an optimizer of this library sees its matrices; another one says nothing."""
    if not isinstance(optimizer, SteepestOptimizer):
        return {}
    groups = (group for group in optimizer.param_groups if not group["adamw"])
    pairs = (pair for g in groups for pair in zip(g["params"], g["views"], strict=True))
    return {param: view for param, view in pairs if view is not None}
