"""What every framework is asked: was it routed, does it learn, does it go on where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

import steepest


def unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside a framework's wrapper."""
    while not isinstance(optimizer, steepest.Muon) and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def check_routed(model: nn.Module, optimizer: Any, *, table: bool = True) -> None:
    """Each parameter is stepped as `steepest.route` says, and the optimizer's own table says so."""
    optimizer = unwrapped(optimizer)
    routing = steepest.route(model)
    told = {id(p): a for a, p in zip(routing, routing.parameters, strict=True)}
    seen = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            seen[id(p)] = group
    trained = {i for i, a in told.items() if not a.frozen and a.target != "constant"}
    assert trained <= seen.keys()
    for i in trained:
        assert seen[i]["adamw"] == (told[i].target != "matrix"), told[i].name
    both = {a.target == "matrix" for i, a in told.items() if i in trained}
    assert both == {True, False}, "a model that cannot tell routed from unrouted"
    for a in optimizer.routing if table else ():
        assert a.destination.startswith("AdamW") == (a.target != "matrix"), a


def check_falls(losses: Sequence[float], by: float = 0.1) -> None:
    """The loss of a run falls: the mean of its last third lies below that of its first."""
    third = max(len(losses) // 3, 1)
    first, last = sum(losses[:third]) / third, sum(losses[-third:]) / third
    assert last < first - by, losses


def furthest(a: Sequence[float], b: Sequence[float]) -> float:
    """The largest difference of two runs of the same length."""
    assert len(a) == len(b) > 0
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def rates(optimizer: Any) -> list[float]:
    """The learning rate of each group."""
    return [float(group["lr"]) for group in unwrapped(optimizer).param_groups]
