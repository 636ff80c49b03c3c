"""Momentum in 8 bits: bytes of state, time of a step, and the loss of short runs.

    python tools/eight_bits.py [--sets gpt-128 gpt-256] [--rounds 15]
    python tools/eight_bits.py --steps 300 [--width 64] [--layers 2] [--seeds 0 1 2]

Without `--steps` it prints, for each set of `steepest bench`, the bytes of momentum per parameter
and the time of a step over that with float32, in turns on one thread; for Muon and for Lion, of
which a step has no polar factor. With it, the final loss of the GPT of `steepest train`, smaller,
on the text that needs no file: steps of Muon whose learning rate falls to zero, with momentum in
float32, in bfloat16 and in 8 bits, from the same weights and on the same windows.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR

import steepest
from steepest.apps._machine import cpu_name
from steepest.apps.bench.sets import chosen
from steepest.apps.train.config import ModelConfig
from steepest.apps.train.data import Corpus, batch, load_text, prepare, validation_windows
from steepest.apps.train.model import GPT

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "8 bits": torch.int8}
MAKE: dict[str, Callable[[list[nn.Parameter], torch.dtype], Optimizer]] = {
    "Muon": lambda ps, dtype: steepest.Muon(ps, lr=1e-3, momentum_dtype=dtype),
    "Lion": lambda ps, dtype: steepest.Lion(ps, lr=1e-3, momentum_dtype=dtype),
}
WARMUP = 3
CONTEXT, BATCH, WINDOWS = 64, 16, 128


def costs(name: str, shapes: Sequence[tuple[int, int]], rounds: int) -> dict[str, list[float]]:
    """The bytes of state per parameter, and the times of steps, in seconds, by type.

    Those are of this thread: waiting for other programs is not a part of them.
    """
    params = {kind: [nn.Parameter(torch.randn(s)) for s in shapes] for kind in TYPES}
    optimizers = {kind: MAKE[name](params[kind], dtype) for kind, dtype in TYPES.items()}
    times: dict[str, list[float]] = {kind: [] for kind in TYPES}
    for _ in range(WARMUP + rounds):
        grads = [torch.randn(s) for s in shapes]
        for kind, optimizer in optimizers.items():
            for p, grad in zip(params[kind], grads, strict=True):
                p.grad = grad.clone()
            start = time.thread_time()
            optimizer.step()
            times[kind].append(time.thread_time() - start)
    found = {}
    for kind, optimizer in optimizers.items():
        kept = sum(x.nbytes for own in optimizer.state.values() for x in own.values())
        found[kind] = [kept / sum(p.numel() for p in params[kind]), *times[kind][WARMUP:]]
    return found


def report_costs(sets: Sequence[str], rounds: int) -> None:
    """Print a line for each set and optimizer."""
    print(cpu_name())
    heads = " | ".join(f"{kind}, bytes" for kind in TYPES)
    print(f"| set | optimizer | {heads} | float32, ms | bfloat16, × | 8 bits, × |")
    print("|---|---|" + "---:|" * (len(TYPES) + 3))
    for each in chosen(sets):
        for name in MAKE:
            found = costs(name, each.shapes, rounds)
            whole = found["float32"][1:]
            ratios = [
                statistics.median(x / y for x, y in zip(found[kind][1:], whole, strict=True))
                for kind in ("bfloat16", "8 bits")
            ]
            kept = " | ".join(f"{found[kind][0]:.3f}" for kind in TYPES)
            print(
                f"| {each.name} | {name} | {kept} | {1e3 * statistics.median(whole):.1f} "
                f"| {ratios[0]:.2f} | {ratios[1]:.2f} |"
            )


def final_loss(corpus: Corpus, size: ModelConfig, steps: int, seed: int, kind: str) -> float:
    """The validation loss after the last step."""
    model = GPT(size, vocabulary=len(corpus.characters), seed=seed)
    optimizer = steepest.Muon(model, lr=0.02, adamw_lr=3e-3, momentum_dtype=TYPES[kind])
    scheduler = LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    for step in range(steps):
        windows = batch(corpus.train, seed=seed, step=step, size=BATCH, context=CONTEXT)
        optimizer.zero_grad()
        model.loss(windows).backward()
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        return float(model.loss(validation_windows(corpus, context=CONTEXT, count=WINDOWS)))


def report_losses(size: ModelConfig, steps: int, seeds: Sequence[int]) -> None:
    """Print a line for each seed, and the means."""
    corpus = prepare(load_text(None), context=CONTEXT)
    print(f"{steps} steps, {size.layers} layers of width {size.width}, {corpus.name}")
    print("| seed | " + " | ".join(TYPES) + " |")
    print("|---:|" + "---:|" * len(TYPES))
    rows: list[list[float]] = []
    for seed in seeds:
        rows.append([final_loss(corpus, size, steps, seed, kind) for kind in TYPES])
        print(f"| {seed} | " + " | ".join(f"{loss:.4f}" for loss in rows[-1]) + " |", flush=True)
    means = map(statistics.fmean, zip(*rows, strict=True))
    print("| mean | " + " | ".join(f"{mean:.4f}" for mean in means) + " |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sets", nargs="*", default=["gpt-128", "gpt-256"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, help="train instead, so many steps")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if given.steps is None:
        # As in a run, whose activations have been freed: then the allocator keeps its pages.
        torch.ones(2**23 - 2**18).sum()
        report_costs(given.sets, given.rounds)
    else:
        size = ModelConfig(width=given.width, layers=given.layers, heads=2, context=CONTEXT)
        report_losses(size, given.steps, given.seeds)


if __name__ == "__main__":
    main()
