"""A table of costs for `Auto`, measured on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import torch

from steepest.apps._machine import cpu_name
from steepest.apps.bench.machine import CPU
from steepest.apps.bench.rounds import Clock, no_collection
from steepest.polar import CostTable, definite_inverse, processor_class

Operation = Callable[[], object]
Builder = Callable[[int, int], Operation]
"""(m, batch) to an operation on a batch of m × m matrices."""

SIZES = (8, 32, 64, 128, 256, 512, 768, 1024)
ROWS = 1024
"""A batch of matrices has about so many rows in all, and at least two matrices, as a stack has."""
REPEATS, DEAR_REPEATS = 9, 3
DEAR = 0.1
"""Seconds from which on an operation is repeated less often."""
RATIO_SIZE = 512
SLOW = 0.3
"""Seconds of one product from which on larger ones are not measured, in a type that is slower than
float32: where bfloat16 is emulated, one of 768 × 768 takes a second."""


def _matrices(m: int, batch: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(m)
    return torch.randn(batch, m, m, generator=generator, dtype=dtype)


def _product(dtype: torch.dtype) -> Builder:
    def build(m: int, batch: int) -> Operation:
        x, out = _matrices(m, batch, dtype), torch.empty(batch, m, m, dtype=dtype)
        return lambda: torch.bmm(x, x, out=out)

    return build


def _inverse(m: int, batch: int) -> Operation:
    x = _matrices(m, batch)
    definite = x @ x.mT / m + torch.eye(m)

    @torch.no_grad()
    def operation() -> torch.Tensor:
        return definite_inverse(definite)

    return operation


def _eigh(m: int, batch: int) -> Operation:
    x = _matrices(m, batch, torch.float64)
    gram = x @ x.mT
    return lambda: torch.linalg.eigh(gram)


def _svd(m: int, batch: int) -> Operation:
    x = _matrices(m, batch)
    return lambda: torch.linalg.svd(x)


BLOCKS: Mapping[str, Builder] = {
    "product": _product(torch.float32),
    "bfloat16": _product(torch.bfloat16),
    "float16": _product(torch.float16),
    "inverse": _inverse,
    "eigh": _eigh,
    "svd": _svd,
}
"""The operation that each list of costs in a `CostTable` times."""

NARROW = ("bfloat16", "float16")
"""Products in types that a processor may only emulate."""

RATIOS: Mapping[str, tuple[Builder, Builder]] = {
    "wide": (_product(torch.float64), _product(torch.float32)),
}
"""The two operations whose times make each single number of a `CostTable`: first over second."""


def seconds(operation: Operation, clock: Clock) -> float:
    """The fastest time but one, after a first call that does not count."""
    operation()
    times: list[float] = []
    with no_collection():
        while len(times) < (DEAR_REPEATS if times and times[0] > DEAR else REPEATS):
            start = clock()
            operation()
            times.append(clock() - start)
    return sorted(times)[1]


def costs(
    build: Builder,
    sizes: Sequence[int],
    clock: Clock = time.perf_counter,
    *,
    single: Mapping[int, float] | None = None,
) -> tuple[tuple[int, float], ...]:
    """(m, seconds for one matrix) for each size, ascending.

    Args:
        build: makes the operation.
        sizes: the sides of the square matrices, ascending.
        clock: seconds from some moment on.
        single: seconds of float32 for each size. With it, the sizes end where one takes longer than
            that and longer than `SLOW`, but not before the second.
    """
    found: list[tuple[int, float]] = []
    for m in sizes:
        batch = max(2, ROWS // m)
        took = seconds(build(m, batch), clock) / batch
        found.append((m, took))
        if single and len(found) > 1 and took > max(SLOW, single[m]):
            break
    return tuple(found)


def source() -> str:
    """The origin that a table states which this process measures."""
    threads = torch.get_num_threads()
    return (
        f"measured by `steepest bench --calibrate --threads {threads}` on {cpu_name()} "
        f"(class {processor_class(CPU)}), torch {torch.__version__}, {datetime.now(UTC).date()}"
    )


def calibrate(
    *, sizes: Sequence[int] = SIZES, clock: Clock = time.perf_counter, say: Callable[[str], None]
) -> CostTable:
    """Measure every field of a `CostTable`, and state in its `source` on what.

    Args:
        sizes: the sides of the square matrices, ascending.
        clock: seconds from some moment on.
        say: a function that is told what is being measured.
    """
    found: dict[str, Any] = {"source": source()}
    for name in (f.name for f in fields(CostTable) if f.name not in found):
        say(name)
        if name in BLOCKS:
            single = dict(found["product"]) if name in NARROW else None
            found[name] = costs(BLOCKS[name], sizes, clock, single=single)
        elif name in RATIOS:
            over, under = (costs(b, [min(RATIO_SIZE, sizes[-1])], clock) for b in RATIOS[name])
            found[name] = over[0][1] / under[0][1]
    return CostTable(**found)
