"""What a report on the constraints costs on the default GPT: the figures of docs/constraint.md."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

import steepest
from steepest.diagnostics import constraint_spectra
from steepest.train.config import ModelConfig
from steepest.train.model import GPT


def best(call: Callable[[], object], repeats: int = 5) -> float:
    """The shortest time of a call, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print both times."""
    torch.set_num_threads(1)
    model = GPT(ModelConfig(), vocabulary=68, seed=0)
    optimizer = steepest.Muon(model, lr=0.04)
    windows = torch.randint(0, 68, (4, 129), generator=torch.Generator().manual_seed(0))
    model.loss(windows).backward()
    optimizer.step()
    print(f"report   {best(lambda: steepest.constraint_report(model, optimizer)):.3f} s")
    print(f"spectra  {best(lambda: constraint_spectra(model, optimizer)):.3f} s")


if __name__ == "__main__":
    main()
