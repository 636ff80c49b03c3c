"""The optimizers of `steepest train`: one table of name, tuned settings and constructor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import steepest
from steepest._common.errors import invalid
from steepest.apps.train.config import Config, OptimizerConfig
from steepest.apps.train.tuned import TUNED
from steepest.norms import parse_norm
from steepest.optim import FAMILY
from steepest.retractions import Sphere

BETAS = (0.9, 0.95)


class TorchMuon(Optimizer):
    """`torch.optim.Muon` on the matrices of the blocks and AdamW on the rest, as one optimizer.

    Both parts share their groups with this object, so that one scheduler drives the two.

    Args:
        model: the model; its hidden matrices are those of the routing that have two axes.
        settings: `lr` and `weight_decay` go to Muon, `adamw_lr` to AdamW.
    """

    def __init__(self, model: nn.Module, settings: OptimizerConfig) -> None:
        views = steepest.routing.matrix_views(model)
        hidden = {n: p for n, p in model.named_parameters() if n in views and p.ndim == 2}
        rest = [p for n, p in model.named_parameters() if n not in hidden]
        self.muon = torch.optim.Muon(
            hidden.values(), lr=settings.lr, weight_decay=settings.weight_decay
        )
        self.adamw = torch.optim.AdamW(rest, lr=_adamw_lr(settings), betas=BETAS, weight_decay=0.0)
        super().__init__([*self.muon.param_groups, *self.adamw.param_groups], {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the matrices, then the rest; a closure is refused.

        Raises:
            ValueError: a closure was given.
        """
        if closure is not None:
            raise invalid("closure", closure, "call step() without one")
        self.muon.step()
        self.adamw.step()

    def state_dict(self) -> dict[str, Any]:
        """The state of both parts, each under its name."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        # Loading makes new groups; without this the scheduler would drive the old ones.
        self.param_groups = [*self.muon.param_groups, *self.adamw.param_groups]


def _adamw_lr(settings: OptimizerConfig) -> float:
    if settings.adamw_lr is None:
        raise invalid("adamw_lr", None, "this optimizer needs a learning rate for AdamW's part")
    return settings.adamw_lr


def _muon(model: nn.Module, settings: OptimizerConfig) -> Optimizer:
    return steepest.Muon(
        model,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        adamw_lr=_adamw_lr(settings),
        adamw_betas=BETAS,
    )


def _named(kind: Callable[..., Optimizer]) -> Build:
    """A named optimizer for the whole model; `adamw_lr` is that of AdamW on what it leaves."""

    def build(model: nn.Module, settings: OptimizerConfig) -> Optimizer:
        rest = {} if settings.adamw_lr is None else {"adamw_lr": settings.adamw_lr}
        return kind(
            model,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            adamw_betas=BETAS,
            **rest,
        )

    return build


def _hyperball(model: nn.Module, settings: OptimizerConfig) -> Optimizer:
    # GPT-2's first weights are a quarter of 1/√width at this width, and a sphere keeps their norm.
    kind = partial(steepest.Hyperball, retraction=Sphere(scale=4.0))
    return _named(kind)(model, settings)


def _descent(model: nn.Module, settings: OptimizerConfig) -> Optimizer:
    if settings.norm is None:
        raise invalid("norm", None, "say in which norm: --norm schatten:4")
    return steepest.SteepestDescent(
        model,
        parse_norm(settings.norm),
        lr=settings.lr,
        momentum=0.95,
        nesterov=True,
        weight_decay=settings.weight_decay,
        adamw_lr=_adamw_lr(settings),
        adamw_betas=BETAS,
    )


def _adamw(model: nn.Module, settings: OptimizerConfig) -> Optimizer:
    return torch.optim.AdamW(
        model.parameters(), lr=settings.lr, betas=BETAS, weight_decay=settings.weight_decay
    )


def _sgd(model: nn.Module, settings: OptimizerConfig) -> Optimizer:
    return torch.optim.SGD(
        model.parameters(), lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay
    )


Build: TypeAlias = Callable[[nn.Module, OptimizerConfig], Optimizer]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One row of the table: tuned settings and how to build the optimizer from settings."""

    tuned: OptimizerConfig
    build: Build


_BUILDS: Mapping[str, Build] = {
    "muon": _muon,
    "adamw": _adamw,
    "torch-muon": TorchMuon,
    "sgd": _sgd,
    "normalized-sgd": _named(steepest.NormalizedSGD),
    "sign": _named(steepest.SignSGD),
    "lion": _named(steepest.Lion),
    "spectral": _named(steepest.SpectralDescent),
    "polargrad": _named(steepest.PolarGrad),
    "scion": _named(steepest.Scion),
    "descent": _descent,
    **{name.lower(): _named(getattr(steepest, name)) for name in FAMILY},
    "hyperball": _hyperball,
}
RECIPES: Mapping[str, Recipe] = {
    name: Recipe(tuned=tuned, build=_BUILDS[name]) for name, tuned in TUNED.items()
}


def recipe(name: str) -> Recipe:
    """The row of an optimizer.

    Raises:
        ValueError: there is no such row.

    Examples:
        >>> recipe("sgd").tuned.lr
        0.2
    """
    if name not in RECIPES:
        raise invalid("optimizer", name, f"choose from {', '.join(RECIPES)}")
    return RECIPES[name]


def parts(optimizer: Optimizer) -> dict[str, Optimizer]:
    """The optimizers whose states the state of this one is made of, each by its place in it."""
    if isinstance(optimizer, TorchMuon):
        return {"muon": optimizer.muon, "adamw": optimizer.adamw}
    return {"": optimizer}


def lr_factor(config: Config, step: int) -> float:
    """The learning rate of a step as a part of its peak.

    Linear warm-up to 1, then with t from 0 to 1 over the rest: 1 − t, ½(1 + cos πt), or 1.

    Args:
        config: the settings with `steps`, `warmup` and `schedule`.
        step: the steps already taken.

    Examples:
        >>> from steepest.apps.train.config import OptimizerConfig
        >>> sgd = {"sgd": OptimizerConfig(lr=0.1, weight_decay=0.0)}
        >>> config = Config(optimizers=sgd, steps=10, warmup=2)
        >>> [round(lr_factor(config, s), 3) for s in (0, 1, 2, 6, 10)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    warmup = config.warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    t = (step - warmup) / max(config.steps - warmup, 1)
    if config.schedule == "linear":
        return 1 - t
    return 0.5 * (1 + math.cos(math.pi * t)) if config.schedule == "cosine" else 1.0


def scheduler(optimizer: Optimizer, config: Config) -> LambdaLR:
    """One schedule for every group of an optimizer, each from its own peak."""
    return LambdaLR(optimizer, lambda step: lr_factor(config, step))
