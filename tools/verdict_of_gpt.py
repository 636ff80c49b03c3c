"""The verdict of `compare_geometries` on the GPT of `steepest train`: docs/diagnostics.md."""

from __future__ import annotations

import argparse
import time

from torch import Tensor

import steepest
from steepest.apps.train.config import ModelConfig
from steepest.apps.train.data import batch, load_text, prepare
from steepest.apps.train.model import GPT
from steepest.diagnostics import compare_geometries


def loss(model: GPT, windows: Tensor) -> Tensor:
    """Mean cross-entropy of the windows."""
    return model.loss(windows)


def main() -> None:
    """Compare before the first step and after the last, with a constant learning rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--windows", type=int, default=2, help="in the batch that is looked at")
    chosen = parser.parse_args()
    size = ModelConfig()
    corpus = prepare(load_text(None), context=size.context)
    model = GPT(size, vocabulary=len(corpus.characters), seed=0)
    optimizer = steepest.Muon(model, lr=0.02)

    def windows(seed: int, step: int, count: int) -> Tensor:
        return batch(corpus.train, seed=seed, step=step, size=count, context=size.context)

    for step in range(chosen.steps + 1):
        if step in (0, chosen.steps):
            start = time.perf_counter()
            verdict = compare_geometries(model, loss, windows(7, 0, chosen.windows))
            print(f"step {step}: {time.perf_counter() - start:.1f} s\n{verdict}\n")
        optimizer.zero_grad()
        loss(model, windows(0, step, 16)).backward()
        optimizer.step()


if __name__ == "__main__":
    main()
