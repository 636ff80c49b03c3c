"""Muon: steepest descent in the spectral norm, with torch.optim.Muon's arguments and state."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar, Unpack, cast

import torch
from torch import Tensor, nn

from steepest._common.checks import check_object
from steepest._common.errors import invalid
from steepest._common.numerics import widened
from steepest.optim.choices import SHAPE_RULES, ShapeRule
from steepest.optim.groups import Views
from steepest.optim.momentum import average_dtype
from steepest.optim.optimizer import Params, SteepestOptimizer
from steepest.optim.options import Group, StepOptions
from steepest.optim.presets import PRESETS
from steepest.optim.rule import ShapedRule, UpdateRule
from steepest.optim.unrouted import grouped
from steepest.polar import JORDAN_QUINTIC, NewtonSchulz, PolarMethod, Schedule
from steepest.routing.table import Routing

ROW = PRESETS["Muon"]

LR, TORCH_LR = 0.02, 1e-3
"""Learning rates of KellerJordan/Muon, which trains a model as it is, and of torch.optim.Muon."""

TORCH_STEPS = 5
"""The number of Newton–Schulz steps in torch.optim.Muon."""

KEPT_METHODS = 64
"""The number of Newton–Schulz methods that an optimizer remembers."""


class Muon(SteepestOptimizer):
    """Momentum, then the polar factor: spectral steepest descent. A drop-in for torch.optim.Muon.

        buffer ← momentum·buffer + (1 − momentum)·grad
        u = momentum·buffer + (1 − momentum)·grad  if nesterov else buffer
        W ← (1 − lr·weight_decay)·W − lr·factor(m, n)·polar(u)

    with factor(m, n) = √max(1, m/n), or 0.2·√max(m, n) for `adjust_lr_fn="match_rms_adamw"`, or
    √(m/n) for "spectral_unclamped". The decay uses `lr` without the factor.

    Given a module, it routes: hidden matrices come here, everything else to AdamW in the same
    optimizer (`steepest.route`; look at `optimizer.routing`). Matrices of one shape are
    stacked, so that a model of many small layers costs few large products.

    Parameters that are frozen (`requires_grad=False`) when a module is given are routed as well:
    they are left alone, and train as soon as they are thawed.

    The state of each matrix is `momentum_buffer`, and the groups hold torch's keys, so a state_dict
    of either optimizer loads into the other; one with momentum in 8 bits loads only here. Loading
    torch's keeps the polar method chosen here.

    Args:
        params: A module, a `Routing`, parameters, (name, parameter) pairs, or groups of them. A
            group may hold `views`, and with `adamw=True` belongs to AdamW.
        lr: Spectral norm of a step, before the factor. None is torch's 1e-3 for matrices alone and
            with "match_rms_adamw", and 0.02 for all that torch's does not take: a module, groups
            of AdamW, parameters that are not matrices.
        weight_decay: Decoupled decay; bounds the weights by ‖W‖₂ ≤ factor·upper/weight_decay,
            where upper is the method's largest output singular value.
        momentum: Weight of the past in the average, in [0, 1).
        nesterov: Whether the average looks one step ahead.
        ns_coefficients: The coefficients (a, b, c) of one quintic. Giving it or `ns_steps` asks for
            exactly torch's Newton–Schulz in bfloat16.
        eps: A number kept because torch has it; a scale-free polar factor has no use for it.
        ns_steps: Number of quintic steps, below 100.
        adjust_lr_fn: "original" (also None), "match_rms_adamw", which lets a learning rate and a
            decay tuned for AdamW be used unchanged, or "spectral_unclamped", √(m/n) for wide
            matrices too.
        polar: The polar method, an object of `steepest.polar`. None means `Auto(error=0.05)`.
        options: The options of every optimizer: see `StepOptions`. A constraint "project" clips the
            singular values to factor/weight_decay by an SVD, and `adamw_lr` is `lr` with
            "match_rms_adamw" unless it is given.

    Raises:
        ValueError: a value out of range, `ns_*` together with `polar`, a parameter that is not
            a matrix outside an `adamw` group, or no matrix at all.

    Examples:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 8), torch.nn.Linear(8, 8))
        >>> optimizer = Muon(model, lr=0.02)
        >>> [group["adamw"] for group in optimizer.param_groups]
        [False, True, True]

    Sources:
        Keller Jordan et al., https://kellerjordan.github.io/posts/muon/ (2024); Bernstein &
        Newhouse, arXiv 2409.20325; Liu et al., arXiv 2502.16982 ("match_rms_adamw").
    """

    objects: ClassVar[tuple[str, ...]] = ("polar",)
    rule_keys: ClassVar[tuple[str, ...]] = ("polar", "ns_coefficients", "ns_steps", "adjust_lr_fn")
    # Not for subclasses, which may have state or keys that torch's has not.
    torch_keys: ClassVar[tuple[str, ...]] = (
        *("lr", "weight_decay", "momentum", "nesterov"),
        *("ns_coefficients", "eps", "ns_steps", "adjust_lr_fn"),
    )

    def __init__(
        self,
        params: Params,
        lr: float | Tensor | None = None,
        weight_decay: float = ROW.weight_decay,
        momentum: float = ROW.momentum,
        nesterov: bool = ROW.nesterov,
        ns_coefficients: tuple[float, float, float] | None = None,
        eps: float = 1e-7,
        ns_steps: int | None = None,
        adjust_lr_fn: ShapeRule = None,
        *,
        polar: PolarMethod | None = None,
        **options: Unpack[StepOptions],
    ) -> None:
        asked = ns_coefficients is not None or ns_steps is not None
        if asked and polar is not None:
            raise _ambiguous(polar)
        params = self._unwrapped(params)
        if not isinstance(params, nn.Module | Routing | Tensor | type):
            params = cast(Params, list(params))
        if lr is None:
            lr = TORCH_LR if adjust_lr_fn == "match_rms_adamw" or _alone(params) else LR
        if adjust_lr_fn == "match_rms_adamw" and options.get("adamw_lr") is None:
            options["adamw_lr"] = lr
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": JORDAN_QUINTIC if ns_coefficients is None else ns_coefficients,
            "eps": eps,
            "ns_steps": TORCH_STEPS if ns_steps is None else ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
            "polar": None if asked else polar or ROW.norm.polar,
        }
        self._methods: dict[tuple[object, int], NewtonSchulz] = {}
        super().__init__(params, defaults, options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; `ns_*` in it asks for Newton–Schulz in that group alone.

        Raises:
            ValueError: as the constructor.
        """
        asked = [k for k in ("ns_coefficients", "ns_steps") if k in param_group]
        polar = param_group.get("polar")
        if polar is None:
            others = {k: v for k, v in param_group.items() if k != "polar"}
            param_group = {**others, "polar": None} if asked else others
        elif any(param_group[k] != self.defaults[k] for k in asked):
            raise _ambiguous(polar)
        super().add_param_group(param_group)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        if group["adjust_lr_fn"] not in SHAPE_RULES:
            names = ", ".join(f'"{rule}"' for rule in SHAPE_RULES if rule)
            raise invalid("adjust_lr_fn", group["adjust_lr_fn"], f"give {names} or None")
        if group["polar"] is not None:
            remedy = "give a method object such as steepest.polar.Auto(error=0.05)"
            check_object("polar", group["polar"], PolarMethod, remedy)
        if not 1 <= group["ns_steps"] < 100:
            raise invalid("ns_steps", group["ns_steps"], "give a number of steps in 1…99")
        if len(group["ns_coefficients"]) != 3:
            raise invalid("ns_coefficients", group["ns_coefficients"], "give three numbers")

    def _check_shapes(self, group: Group, views: Views, rule: UpdateRule) -> None:
        if group["polar"] is None:
            return
        for p, view in zip(group["params"], views, strict=True):
            dtype = widened(average_dtype(p, group["momentum_dtype"]))
            for _, m, n in view.shapes(p.shape) if view else ():
                # An error that no method reaches is refused here, not in the middle of a step.
                if m and n:
                    group["polar"].accuracy(m, n, dtype)

    def _make_rule(self, group: Group) -> UpdateRule:
        # Kept, since torch 2.10 cannot make one in a compiled step, but finds what is there.
        asked = tuple(group["ns_coefficients"]), group["ns_steps"]
        if asked not in self._methods:
            if len(self._methods) == KEPT_METHODS:  # a schedule may ask for others in every step
                del self._methods[next(iter(self._methods))]
            self._methods[asked] = torch_newton_schulz(*asked)
        norm = ROW.norm.with_polar(group["polar"] or self._methods[asked])
        return ShapedRule(norm, group["adjust_lr_fn"])

    def __getstate__(self) -> dict[str, Any]:
        """The state of the base class, with the methods that were made."""
        return {**super().__getstate__(), "_methods": self._methods}


@lru_cache(maxsize=64)
def torch_newton_schulz(coefficients: tuple[float, float, float], steps: int) -> NewtonSchulz:
    """The method of torch.optim.Muon: one quintic, `steps` times, in bfloat16."""
    schedule = Schedule(
        name="torch",
        coefficients=(coefficients,) * steps,
        interval=(1e-3, 1.0),
        source="torch.optim.Muon",
    )
    return NewtonSchulz(schedule, torch.bfloat16)


def _alone(params: Any) -> bool:
    """Whether parameters are what torch.optim.Muon takes: matrices, without groups for AdamW."""
    if isinstance(params, nn.Module | Routing):
        return False
    if isinstance(params, Tensor):
        return True
    groups = grouped(params)
    members = [
        member[1] if isinstance(member, tuple) else member
        for group in groups
        for member in (group["params"] if isinstance(group["params"], list) else [None])
    ]
    return not any(group.get("adamw") for group in groups) and all(
        isinstance(p, Tensor) and p.ndim == 2 for p in members
    )


def _ambiguous(polar: Any) -> ValueError:
    return invalid(
        "polar",
        polar,
        "ns_coefficients and ns_steps ask for another method, torch's Newton–Schulz: give either "
        "them or polar",
    )
