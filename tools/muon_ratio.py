"""Time `steepest.Muon` and `torch.optim.Muon` on the matrices of a width-128 GPT, interleaved.

    python tools/muon_ratio.py

Prints the median milliseconds of a step of each and their ratio. Set `ONEDNN_MAX_CPU_ISA` to see
another kind of CPU: AVX512_CORE has neither AMX nor bfloat16 instructions.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

import steepest

WIDTH, BLOCKS, STEPS = 128, 4, 41
# Query, key and value in one weight, attention output, and the two layers of the MLP.
SHAPES = [(3 * WIDTH, WIDTH), (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)] * BLOCKS


def main() -> None:
    """Measure and print."""
    torch.manual_seed(0)
    params = [[nn.Parameter(torch.randn(shape)) for shape in SHAPES] for _ in range(2)]
    views = [steepest.MatrixView(split=3 if m == 3 * WIDTH else 1) for m, _ in SHAPES]
    optimizers = {
        "steepest.Muon": steepest.Muon([{"params": params[0], "views": views}], lr=1e-3),
        "torch.optim.Muon": torch.optim.Muon(params[1], lr=1e-3),
    }
    times: dict[str, list[float]] = {name: [] for name in optimizers}
    for _ in range(STEPS):
        for name, optimizer in optimizers.items():
            for group in optimizer.param_groups:
                for p in group["params"]:
                    p.grad = torch.randn_like(p)
            start = time.perf_counter()
            optimizer.step()
            times[name].append(time.perf_counter() - start)
    medians = {name: 1e3 * statistics.median(t[5:]) for name, t in times.items()}
    for name, milliseconds in medians.items():
        print(f"{name:>18}: {milliseconds:6.1f} ms")
    print(f"             ratio: {medians['steepest.Muon'] / medians['torch.optim.Muon']:6.2f}")


if __name__ == "__main__":
    main()
