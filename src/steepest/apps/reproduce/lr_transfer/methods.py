"""The network of lr-transfer, and the optimizers with the initialisation that belongs to each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

import steepest
from steepest import norms
from steepest.apps.reproduce.data.digits import CLASSES, PIXELS
from steepest.polar import Auto

MOMENTUM = 0.9
RMS_TO_RMS = norms.Operator("rms", "rms")

BASE = 64
"""The width at which the learning rates of `Transfer` are tuned."""

# Of 2⁻⁶ and 2⁻⁴ the one with the lower losses at widths 256 and 512, with seed 0.
HEAD_LR = 2.0**-4
"""AdamW's learning rate of the head beside Muon, at that width."""


def _he(weight: Tensor, generator: Generator) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)


def _unit(weight: Tensor, generator: Generator) -> None:
    weight.copy_(RMS_TO_RMS.init(weight.shape, generator=generator))


def _zero_head(weight: Tensor, generator: Generator) -> None:
    _he(weight, generator)
    if len(weight) == CLASSES:
        weight.zero_()


def _sgd(model: nn.Module, lr: float) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=MOMENTUM)


def _adamw(model: nn.Module, lr: float) -> Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)


def _modular(model: nn.Module, lr: float) -> Optimizer:
    # Its error is far below what a learning rate off by a factor of 2 does, and it is not an SVD.
    norm = steepest.modular(model, polar=Auto(error=1e-3))
    return steepest.SteepestDescent(model, norm=norm, lr=lr, momentum=MOMENTUM)


def _muon(convention: Any, *, transferred: bool = True) -> Callable[[nn.Module, float], Optimizer]:
    """Muon for the first two weights and AdamW for the head; `lr` is that of the base width."""

    def build(model: nn.Module, lr: float) -> Optimizer:
        width = model.get_submodule("hidden").get_parameter("weight").shape[0]
        rates = steepest.Transfer(
            lr=lr,
            weight_decay=0.0,
            adamw_lr=HEAD_LR,
            width=(BASE, width if transferred else BASE),
            convention=convention,
        )
        return steepest.Muon(model, **rates.options)

    return build


@dataclass(frozen=True, kw_only=True)
class InitialisedOptimizer:
    """An optimizer with the initialisation that belongs to it.

    Args:
        title: the title of its panel.
        init: the function that fills a weight.
        build: the optimizer at a peak learning rate.
        cubic: c in the time of a step, proportional to (1 + c·width)·(weights of the network).
    """

    title: str
    init: Callable[[Tensor, Generator], None]
    build: Callable[[nn.Module, float], Optimizer]
    cubic: float = 0.0


BASELINES: Mapping[str, InitialisedOptimizer] = {
    "sgd": InitialisedOptimizer(title="SGD, momentum 0.9", init=_he, build=_sgd),
    "adamw": InitialisedOptimizer(title="AdamW", init=_he, build=_adamw),
    "modular": InitialisedOptimizer(
        title="steepest descent, modular norm", init=_unit, build=_modular, cubic=0.02
    ),
}

MUONS: Mapping[str, InitialisedOptimizer] = {
    name: InitialisedOptimizer(title=title, init=_zero_head, build=build, cubic=0.01)
    for name, title, build in (
        ("muon", "original", _muon("original")),
        ("muon-unclamped", "spectral_unclamped", _muon("spectral_unclamped")),
        ("muon-matched", "matched, as it is", _muon("match_rms_adamw", transferred=False)),
        ("muon-transferred", "matched, with Transfer", _muon("match_rms_adamw")),
    )
}

METHODS: Mapping[str, InitialisedOptimizer] = {**BASELINES, **MUONS}


def network(method: InitialisedOptimizer, width: int, seed: int) -> nn.Sequential:
    """The network with the weights of a seed."""
    generator = Generator().manual_seed(seed)
    sizes = (PIXELS, width, width, CLASSES)
    first, hidden, head = (nn.Linear(a, b, bias=False) for a, b in pairwise(sizes))
    with torch.no_grad():
        for layer in (first, hidden, head):
            method.init(layer.weight, generator)
    parts: list[tuple[str, nn.Module]] = [
        *(("first", first), ("relu1", nn.ReLU()), ("hidden", hidden), ("relu2", nn.ReLU())),
        ("head", head),
    ]
    return nn.Sequential(OrderedDict(parts))
