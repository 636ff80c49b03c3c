"""The class of an ejected file: its step, for matrices in stacks or for tensors as they are.

An ejected file has one of the two, with the name, the docstring and the constructor of its row.
`average`, `pull`, `before`, `after` and `retract` stand for the blocks that the row has chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from steepest.apps.eject.blocks.adamw import adamw
from steepest.apps.eject.blocks.averages import nesterov as average
from steepest.apps.eject.blocks.layers import dualize
from steepest.apps.eject.blocks.polar import normalized, polar_factor, shape_factor
from steepest.apps.eject.blocks.row import row
from steepest.apps.eject.blocks.slots import after, before, pull, retract


class StackedOptimizer(torch.optim.Optimizer):
    """The step of parameters that are computed in stacks.

    Attributes:
        adjust_lr_fn: Rule of `shape_factor`: None, "match_rms_adamw" or "spectral_unclamped".
    """

    def __init__(self, params: Iterable[Any], **defaults: Any) -> None:
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return the loss of the closure."""
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        for group in self.param_groups:
            alike: dict[Any, list[Any]] = {}
            for p in group["params"]:
                if row.adamw and p.grad is not None and group["adamw"]:
                    adamw(p, self.state[p], group)
                elif p.grad is not None:
                    alike.setdefault((p.shape, p.dtype, p.device), []).append(p)
            for same in alike.values():
                self._move(same, group)
        return loss

    def _move(self, params: list[Any], group: dict[str, Any]) -> None:
        """Update parameters of one shape, as one stack."""
        if row.states:
            states = [self.state[p] for p in params]
        if row.pull:
            grads = [pull(p.flatten(1), p.grad.flatten(1), self.state[p], group) for p in params]
            u = torch.stack(
                [average(g, self.state[p], group) for p, g in zip(params, grads, strict=True)]
            )
        elif row.average:
            u = torch.stack([average(p.grad, self.state[p], group) for p in params])
        else:
            u = torch.stack([p.grad for p in params])
        if row.direction == "polar":
            u = torch.unflatten(u.flatten(2), 1, (group["split"], -1))  # (parameters, parts, m, n)
        if row.before:
            u = before(u, params, states, group)
        if row.direction == "polar":
            d = polar_factor(u)
        else:
            d = dualize(u, group)
        if row.dual:
            d = d * (u * d).sum((-2, -1), keepdim=True)
        if row.after:
            d = after(d, params, states, group)
        if row.retraction and row.shaped:
            factor = shape_factor(group["adjust_lr_fn"], *u.shape[-2:])
        elif row.shaped:
            lr = group["lr"] * shape_factor(group["adjust_lr_fn"], *u.shape[-2:])
        elif not row.retraction:
            lr = group["lr"]
        for p, x in zip(params, d, strict=True):
            if row.retraction:
                w = retract(p.reshape(x.shape), x, factor, self.state[p], group)
                p.copy_(w.reshape(p.shape))
            else:
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(x.reshape(p.shape), alpha=-lr)


class TensorwiseOptimizer(torch.optim.Optimizer):
    """The step of tensors one by one."""

    def __init__(self, params: Iterable[Any], **defaults: Any) -> None:
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return the loss of the closure."""
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, group)
        return loss

    def _move(self, p: Any, group: dict[str, Any]) -> None:
        """Update a parameter."""
        if row.average:
            u = average(p.grad, self.state[p], group)
        else:
            u = p.grad
        if row.direction == "sign":
            d = u.sign()
        elif row.direction == "unit":
            d = normalized(u, tuple(range(u.ndim)))
        else:
            d = u
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(d, alpha=-group["lr"])
