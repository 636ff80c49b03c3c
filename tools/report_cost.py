"""The cost of a report on the constraints: the figures of docs/constraint.md."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from steepest import Muon, constraint_report
from steepest.apps.train.config import ModelConfig
from steepest.apps.train.model import GPT
from steepest.diagnostics import constraint_spectra


def best(call: Callable[[], object], repeats: int) -> float:
    """The shortest time of a call, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def default_gpt() -> tuple[nn.Module, Muon]:
    """The model of `steepest train` after a step."""
    model = GPT(ModelConfig(), vocabulary=68, seed=0)
    optimizer = Muon(model, lr=0.04)
    windows = torch.randint(0, 68, (4, 129), generator=torch.Generator().manual_seed(0))
    model.loss(windows).backward()
    optimizer.step()
    return model, optimizer


def one_matrix() -> tuple[nn.Module, Muon]:
    """The widest matrix of a block of GPT-2 small after a step."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(3072, 768, bias=False)
    weight = model.weight
    weight.data.normal_(0, 0.02, generator=generator)
    weight.grad = torch.randn(weight.shape, generator=generator)
    optimizer = Muon([weight], lr=0.04)
    optimizer.step()
    return model, optimizer


def main() -> None:
    """Print the times of each."""
    torch.set_num_threads(1)
    for name, (model, optimizer), repeats in (
        ("default GPT", default_gpt(), 5),
        ("768×3072", one_matrix(), 2),
    ):
        report = best(partial(constraint_report, model, optimizer), repeats)
        both = best(partial(constraint_report, model, optimizer, spectra=True), repeats)
        spectra = best(partial(constraint_spectra, model, optimizer), repeats)
        print(f"{name:12}  report {report:.3f} s  with spectra {both:.3f} s  alone {spectra:.3f} s")


if __name__ == "__main__":
    main()
