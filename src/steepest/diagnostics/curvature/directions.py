"""Directions that optimizers take from one gradient: of a norm, of Adam, or your own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim.adam import adam

from steepest._common.errors import invalid
from steepest.diagnostics.curvature._joint_norm import joint_norm
from steepest.diagnostics.curvature.loss import LossAt, Named
from steepest.norms import LInf, Norm, ProductNorm, Spectral
from steepest.polar import JORDAN, NewtonSchulz
from steepest.views import MatrixView

Maker: TypeAlias = Callable[[dict[str, Tensor]], Named]
"""A function from the gradients, by name, to a direction."""

Chosen: TypeAlias = Norm | ProductNorm | Maker | Named
"""A direction to compare: that of a norm, of a function of the gradients, or tensors by name."""

# torch.optim.Adam: the defaults of an optimizer that is not given.
ADAM = {"betas": (0.9, 0.999), "eps": 1e-8}

# By these a state is known as one of Adam's kind. Adamax has one of them, others just count steps.
AVERAGES = {"exp_avg", "exp_avg_sq"}


def gradient_step(grads: Named) -> dict[str, Tensor]:
    """−g: the direction of gradient descent."""
    return {name: -g for name, g in grads.items()}


def adam_step(
    grads: Named, *, params: Named | None = None, optimizer: Any = None
) -> dict[str, Tensor]:
    """The direction that Adam would take now, by torch's own update.

        m ← β₁·m + (1 − β₁)·g;  v ← β₂·v + (1 − β₂)·g²;  −(m/(1 − β₁ᵗ))/(√(v/(1 − β₂ᵗ)) + eps)

    A parameter without state takes its first step, −g/(|g| + eps). Decoupled weight decay is left
    out; that of `torch.optim.Adam`, a part of its gradient, is in it. The state is not changed.

    Args:
        grads: the present gradient of each parameter.
        params: the parameters, where an optimizer is given.
        optimizer: a `torch.optim.Adam` or `AdamW`, or one of this library with `adamw` groups.

    Examples:
        >>> adam_step({"w": torch.tensor([4.0, -0.5])})["w"].round(decimals=4).tolist()
        [-1.0, 1.0]

    Sources:
        Kingma & Ba, arXiv 1412.6980, algorithm 1.
    """
    groups = [] if optimizer is None else optimizer.param_groups
    known = {p: group for group in groups for p in group["params"]}
    out = {}
    for name, g in grads.items():
        p = None if params is None else params[name]
        group = {} if p is None else known.get(p, {})
        state = {} if p is None or not group else optimizer.state.get(p, {})
        out[name] = _adam_direction(g, p, group, state if state.keys() >= AVERAGES else {})
    return out


def has_adam_state(p: Tensor, optimizer: Any) -> bool:
    """Whether an optimizer has averages of Adam for a parameter."""
    return optimizer is not None and optimizer.state.get(p, {}).keys() >= AVERAGES


@torch.no_grad()
def _adam_direction(
    g: Tensor, p: Tensor | None, group: Mapping[str, Any], state: Mapping[str, Any]
) -> Tensor:
    """One step of length 1 from zero, with a copy of the state."""
    own = group if _is_adam(group, state) else {}
    if p is not None and not own.get("decoupled_weight_decay", True):
        g = g + (-1 if own["maximize"] else 1) * own["weight_decay"] * p
    beta1, beta2 = (float(b) for b in own.get("betas", ADAM["betas"]))
    moved = torch.zeros_like(g)
    largest = [state["max_exp_avg_sq"].clone()] if own.get("amsgrad") and state else []
    adam(
        [moved],
        [g],
        [state["exp_avg"].clone() if state else torch.zeros_like(g)],
        [state["exp_avg_sq"].clone() if state else torch.zeros_like(g)],
        largest,
        [torch.as_tensor(state.get("step", 0.0), dtype=torch.float32).cpu().clone()],
        foreach=False,
        amsgrad=bool(largest),
        beta1=beta1,
        beta2=beta2,
        lr=1.0,
        weight_decay=0.0,
        eps=float(own.get("eps", ADAM["eps"])),
        maximize=bool(own.get("maximize", False)),
    )
    return moved


def _is_adam(group: Mapping[str, Any], state: Mapping[str, Any]) -> bool:
    """Whether a group's betas and eps are those of Adam: those of other optimizers are not."""
    return "exp_avg_sq" in state or "amsgrad" in group or bool(group.get("adamw"))


DIRECTIONS: Mapping[str, Chosen] = MappingProxyType(
    {
        "gradient": gradient_step,
        "sign": LInf(),
        "muon": Spectral(),
        "newton-schulz": Spectral(polar=NewtonSchulz(JORDAN)),
        "adam": adam_step,
    }
)
"""The directions that `compare_directions` compares by default, by name.

Gradient descent; the sign; the polar factor of each matrix, exact and by Jordan's five steps, in
the type of the parameters and without a factor for its shape; Adam, with the state of the optimizer
if one is given.
"""


def direction_of(
    point: LossAt, chosen: Chosen, views: Mapping[str, MatrixView], optimizer: Any = None
) -> dict[str, Tensor]:
    """A direction at a point, to be added to the parameters: −dualize(g) for a norm.

    Raises:
        ValueError: as `LossAt.direction` and `joint_norm`, or something that is not a direction.
    """
    if isinstance(chosen, Norm | ProductNorm):
        measured = joint_norm(chosen, point.params, views, exact=False)
        return gradient_step(measured.dualize({k: point.grad[k] for k in measured.names}))
    if callable(chosen):
        if chosen is adam_step:
            chosen = partial(adam_step, params=point.params, optimizer=optimizer)
        chosen = chosen({name: g.clone() for name, g in point.grad.items()})
    if not isinstance(chosen, Mapping):
        raise invalid(
            "directions",
            type(chosen).__name__,
            "give a norm, tensors by the names of the parameters, or a function that makes these "
            "of the gradients",
        )
    return point.direction(chosen, "directions")
