"""Training a network on the digits, as every experiment does it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from steepest.apps.reproduce.data.digits import CLASSES, PIXELS, Digits
from steepest.apps.reproduce.framework.experiment import Settings


def classifier(width: int, hidden: int, *, seed: int) -> nn.Sequential:
    """A network for small digits with He's normal weights of a seed; its last layer is `head`.

    Args:
        width: the width of the hidden layers.
        hidden: their number; ReLU follows each, and no layer has a bias.
        seed: the seed of the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = (PIXELS, *[width] * hidden, CLASSES)
    model = nn.Sequential()
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
        linear = nn.Linear(fan_in, fan_out, bias=False)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu", generator=generator)
        last = i > hidden
        model.add_module("head" if last else f"layer{i}", linear)
        if not last:
            model.add_module(f"relu{i}", nn.ReLU())
    return model


def training_steps(
    model: nn.Module, optimizer: Optimizer, digits: Digits, settings: Settings, *, seed: int
) -> Iterator[bool]:
    """Minimise the cross-entropy of random batches; step t of T has the part 1 − t/T of the lr.

    Args:
        model: a module from images to ten logits.
        optimizer: an optimizer of its parameters.
        digits: the digits to train on.
        settings: give `steps` and `batch`.
        seed: the seed of the batches: equal seeds see equal digits in equal order.

    Yields:
        True after each step; False instead of the first whose loss is not finite, the last one.
    """
    draw = torch.Generator().manual_seed(seed)
    schedule = LambdaLR(optimizer, lambda t: 1 - t / settings.steps)
    for _ in range(settings.steps):
        picked = torch.randint(len(digits.labels), (settings.batch,), generator=draw)
        loss = F.cross_entropy(model(digits.images[picked]), digits.labels[picked])
        if not math.isfinite(loss.item()):
            yield False
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield True


def train(
    model: nn.Module,
    optimizer: Optimizer,
    digits: Digits,
    settings: Settings,
    *,
    seed: int,
    after_step: Callable[[], None] | None = None,
) -> bool:
    """Take all `training_steps`.

    Args:
        model: a module from images to ten logits.
        optimizer: an optimizer of its parameters.
        digits: the digits to train on.
        settings: give `steps` and `batch`.
        seed: the seed of the batches.
        after_step: called after each step, for what an experiment does to its weights.

    Returns:
        False if a loss was not finite; the run ends there.
    """
    for finite in training_steps(model, optimizer, digits, settings, seed=seed):
        if not finite:
            return False
        if after_step is not None:
            after_step()
    return True


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float | None, float]:
    """Mean cross-entropy in nats, None if it is not finite, and the part that is right."""
    logits = model(images)
    loss = F.cross_entropy(logits, labels).item()
    right = (logits.argmax(dim=-1) == labels).double().mean().item()
    return (loss if math.isfinite(loss) else None), right
