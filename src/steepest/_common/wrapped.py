"""Optimizers in the wrappers of frameworks."""

from __future__ import annotations

from typing import Any

import torch


def unwrapped(optimizer: Any) -> Any:
    """The optimizer inside of those that a framework puts around it, as accelerate does.

    Such a wrapper is an optimizer by its class, and holds the one that steps as `optimizer`.
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    return optimizer
