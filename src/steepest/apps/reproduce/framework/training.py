"""Training a network on the digits, as every experiment does it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from steepest.apps.reproduce.data.digits import Digits
from steepest.apps.reproduce.framework.experiment import Settings


def train(
    model: nn.Module,
    optimizer: Optimizer,
    digits: Digits,
    settings: Settings,
    *,
    seed: int,
    after_step: Callable[[], None] | None = None,
) -> bool:
    """Minimise the cross-entropy of random batches; step t of T has the part 1 − t/T of the lr.

    Args:
        model: a module from images to ten logits.
        optimizer: an optimizer of its parameters.
        digits: the digits to train on.
        settings: give `steps` and `batch`.
        seed: the seed of the batches: equal seeds see equal digits in equal order.
        after_step: called after each step, for what an experiment does to its weights.

    Returns:
        False if a loss was not finite; the run ends there.
    """
    draw = torch.Generator().manual_seed(seed)
    schedule = LambdaLR(optimizer, lambda t: 1 - t / settings.steps)
    for _ in range(settings.steps):
        picked = torch.randint(len(digits.labels), (settings.batch,), generator=draw)
        loss = F.cross_entropy(model(digits.images[picked]), digits.labels[picked])
        if not math.isfinite(loss.item()):
            return False
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
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
