"""The cost and the error of a randomised spectrum beside an exact one: docs/diagnostics.md.

On a random matrix and on one whose singular values fall as those of a gradient do, σ_i ∝ 1/i.
Both are timed in turns in one run, so that the ratio does not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import time
from typing import Literal

import torch
from torch import Tensor

from steepest.diagnostics import Spectrum, spectrum

SHAPES = ("512x512", "768x3072", "1024x1024", "2048x2048", "4096x4096")
SHOWN = ("nuclear_rank", "stable_rank", "effective_rank", "entropy")


def falling(m: int, n: int) -> Tensor:
    """A Gaussian matrix with its rows scaled by 1/i: singular values close to such a law."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(m, n, generator=generator)
    return rows / torch.arange(1, m + 1).unsqueeze(1)


def gaussian(m: int, n: int) -> Tensor:
    """Independent entries."""
    return torch.randn(m, n, generator=torch.Generator().manual_seed(0))


def timed(x: Tensor, method: Literal["exact", "randomised"]) -> tuple[float, Spectrum]:
    """Seconds, and what came out."""
    start = time.perf_counter()
    found = spectrum(x, method=method)
    return time.perf_counter() - start, found


def main() -> None:
    """Print times, their ratio, and the stated and the actual errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shapes", nargs="*", default=SHAPES, help="such as 768x3072")
    torch.set_num_threads(1)
    for shape in parser.parse_args().shapes:
        m, n = (int(side) for side in shape.split("x"))
        for name, x in (("gaussian", gaussian(m, n)), ("1/i", falling(m, n))):
            slow, exact = timed(x, "exact")
            fast, found = timed(x, "randomised")
            print(f"{shape:10} {name:9} exact {slow:7.3f} s  randomised {fast:6.3f} s  ", end="")
            print(f"ratio {slow / fast:5.2f}")
            for quantity in SHOWN:
                value, true = getattr(found, quantity), getattr(exact, quantity)
                stated = found.errors[quantity] / true
                print(f"    {quantity:15} {true:9.4g}  stated ± {stated:.1%}", end="")
                print(f"  actual {abs(value - true) / true:.2%}", flush=True)


if __name__ == "__main__":
    main()
