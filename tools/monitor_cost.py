"""The cost of a monitor: steps of a model in turns with and without it, in one run.

    python tools/monitor_cost.py

Of three models it prints the median time of a step, the time of an observation, what the hooks add
to a step that is not observed, and the share of the training time at the default interval.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

import steepest
from steepest.apps.train.config import ModelConfig
from steepest.apps.train.model import GPT
from steepest.diagnostics import Monitor

EVERY = 100
ROUNDS, BLOCK = 3, 3


def gpt(width: int) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """The model of `steepest train` at a width, with its batch."""
    model = GPT(ModelConfig(width=width), vocabulary=68, seed=0)
    windows = torch.randint(68, (16, 129))
    return model, lambda m: m.loss(windows)


def conv_net() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """Six convolutions on pictures of 32 × 32."""
    widths = (3, 64, 64, 128, 128, 256, 256)
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(widths)):
        layers += [nn.Conv2d(a, b, 3, stride=1 + i % 2, padding=1), nn.BatchNorm2d(b), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))
    x, y = torch.randn(64, 3, 32, 32), torch.randint(10, (64,))
    return model, lambda m: F.cross_entropy(m(x), y)


MODELS = {
    "GPT, width 128": lambda: gpt(128),
    "GPT, width 256": lambda: gpt(256),
    "convolutions": conv_net,
}


def steps(model: nn.Module, loss: Callable[[nn.Module], Tensor], optimizer: Optimizer) -> float:
    """The median time of a few steps."""
    times = []
    for _ in range(BLOCK):
        start = time.perf_counter()
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Measure every model with steepest.Muon and print a table."""
    torch.manual_seed(0)
    print("| model | step, ms | observation, ms | hooks, % of a step | share at every=100, % |")
    print("|---|---:|---:|---:|---:|")
    for name, make in MODELS.items():
        model, loss = make()
        optimizer = steepest.Muon(model)
        plain, hooked, looks = [], [], []
        steps(model, loss, optimizer)
        for _ in range(ROUNDS):
            plain.append(steps(model, loss, optimizer))
            # Not one of these steps is due.
            with Monitor(model, optimizer, every=10**6, step=100, quiet=True):
                hooked.append(steps(model, loss, optimizer))
            with Monitor(model, optimizer, every=1, quiet=True) as monitor:
                steps(model, loss, optimizer)
            looks.append(monitor.seconds / BLOCK)
        step, look = statistics.median(plain), statistics.median(looks)
        added = statistics.median(h / p - 1 for h, p in zip(hooked, plain, strict=True))
        print(
            f"| {name} | {1e3 * step:.0f} | {1e3 * look:.0f} | {100 * added:.1f} "
            f"| {100 * look / (EVERY * step):.2f} |"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
