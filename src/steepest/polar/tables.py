"""The costs that ship: measured ones, and for other processors what is derived or assumed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

from steepest.polar._measured import AVX2, AVX2_ONE, AVX512
from steepest.polar._measured_zen import ZEN4, ZEN4_ONE, ZEN5, ZEN5_ONE
from steepest.polar.costs import Costs, CostTable, seconds_at

# AMX: sizes up to which a bfloat16 product takes as long as a float32 one, and from which on the
# whole gain of large products is there; between them a power. Large ones were measured with two
# cores and torch 2.13 in November 2026; the sizes are assumed.
NO_GAIN, WHOLE_GAIN, AMX_GAIN = 16, 144, 5.0

# How many times faster than in float32 accelerators multiply in half precision, from data sheets:
# NVIDIA A100 312 to 19.5 teraflops, H100 989 to 67, V100 125 to 15.7: the least of them, while
# GeForce has 2 to 4. AMD MI250X 383 to 47.9, Radeon RX 7900 XTX 123 to 61; Intel Data Center Max
# 832 to 52, integrated graphics without matrix units 2: the least of them.
NVIDIA_GAIN, OTHER_GAIN = 8.0, 2.0

# Not measured. Nothing but products is listed, so only their ratios count.
ACCELERATED: Costs = ((64, 1e-5), (1024, 4e-5))


# What the `source` of a table begins with of which no figure was measured.
ASSUMED = "not measured: "


def _times(costs: Costs, factor: float) -> Costs:
    return tuple((m, factor * seconds) for m, seconds in costs)


def _faster(costs: Costs, gain: float) -> Costs:
    """Costs in bfloat16: no gain up to `NO_GAIN`, all of it from `WHOLE_GAIN`, a power between."""
    sizes = sorted({NO_GAIN, WHOLE_GAIN, *(m for m, _ in costs)})
    exponents = ((m, math.log(m / NO_GAIN, WHOLE_GAIN / NO_GAIN)) for m in sizes)
    gains = ((m, gain ** min(1.0, max(0.0, exponent))) for m, exponent in exponents)
    return tuple((m, seconds_at(costs, m) / g) for m, g in gains)


def _like(model: CostTable, source: str) -> CostTable:
    """The costs of another class, without what was measured of emulated types."""
    return replace(model, bfloat16=(), float16=(), source=source)


def _without_bfloat16(table: CostTable) -> CostTable:
    return _like(table, f"{table.source}, where bfloat16 is switched off")


def _on_one_thread(table: CostTable) -> CostTable:
    """Costs of one thread: those of several in the ratio of `AVX2_ONE` to `AVX2`."""

    def slower(costs: Costs, several: Costs, one: Costs) -> Costs:
        return tuple((m, s * seconds_at(one, m) / seconds_at(several, m)) for m, s in costs)

    return CostTable(
        product=slower(table.product, AVX2.product, AVX2_ONE.product),
        bfloat16=slower(table.bfloat16, AVX2.product, AVX2_ONE.product),
        inverse=slower(table.inverse, AVX2.inverse, AVX2_ONE.inverse),
        eigh=slower(table.eigh, AVX2.eigh, AVX2_ONE.eigh),
        svd=slower(table.svd, AVX2.svd, AVX2_ONE.svd),
        wide=table.wide,
        source="not measured: from two threads to one as in class avx2; two: "
        + table.source.removeprefix(ASSUMED),
    )


SEVERAL: Mapping[str, Callable[[], CostTable]] = {
    "amx": lambda: replace(
        AVX512,
        bfloat16=_faster(AVX512.product, AMX_GAIN),
        source=f"{AVX512.source}, which has AMX; bfloat16 5 times as fast there at large sizes, "
        "below 144 assumed",
    ),
    "zen5-bf16": lambda: ZEN5,
    "zen5-avx512": lambda: _without_bfloat16(ZEN5),
    "zen4-bf16": lambda: ZEN4,
    "zen4-avx512": lambda: _without_bfloat16(ZEN4),
    "avx512": lambda: AVX512,
    "avx2": lambda: AVX2,
    "x86": lambda: _like(AVX2, ASSUMED + "the costs of class avx2"),
    # bfloat16 on Arm was not measured, so no method computes in it.
    "arm-bf16": lambda: _like(AVX2, ASSUMED + "the costs of class avx2, and none in bfloat16"),
    "arm": lambda: _like(AVX2, ASSUMED + "the costs of class avx2"),
    "unknown": lambda: _like(AVX2, ASSUMED + "the costs of class avx2"),
}
"""Classes of CPU, with their costs on two threads.

x86 with AMX; AMD with AVX-512, Zen 5 and Zen 4, with fast bfloat16 and without; others with
AVX-512, without fast bfloat16; with AVX2 at most; with less. Arm with bfloat16 and without.
Anything else.
"""

ALONE: Mapping[str, CostTable] = {
    "avx2": AVX2_ONE,
    "zen5-bf16": ZEN5_ONE,
    "zen5-avx512": _without_bfloat16(ZEN5_ONE),
    "zen4-bf16": ZEN4_ONE,
    "zen4-avx512": _without_bfloat16(ZEN4_ONE),
}
"""Costs on one thread, where they were measured."""


def _products(words: str, *, bfloat16: float = 0.0, float16: float = 0.0) -> CostTable:
    """The costs of an accelerator: no decomposition, since each waits for the host.

    Args:
        words: the origin of the gains.
        bfloat16: speed over that of float32; zero where no method may compute in it.
        float16: the same.
    """
    half, brain = (_times(ACCELERATED, 1 / g) if g else () for g in (float16, bfloat16))
    return CostTable(product=ACCELERATED, bfloat16=brain, float16=half, source=ASSUMED + words)


ACCELERATORS: Mapping[str, CostTable] = {
    "cuda-bf16": _products(
        "half precision 8 times as fast, by data sheets", bfloat16=NVIDIA_GAIN, float16=NVIDIA_GAIN
    ),
    "cuda-fp16": _products("float16 8 times as fast, by data sheets", float16=NVIDIA_GAIN),
    "cuda": _products("float32 only, without matrix units for half precision"),
    "rocm": _products(
        "half precision twice as fast, by data sheets", bfloat16=OTHER_GAIN, float16=OTHER_GAIN
    ),
    "mps": _products("float32 only, than which half precision is hardly faster"),
    "xpu": _products(
        "half precision twice as fast, by data sheets", bfloat16=OTHER_GAIN, float16=OTHER_GAIN
    ),
    "accelerator": _products("as if float16 were 8 times as fast", float16=NVIDIA_GAIN),
}
"""Classes of accelerator: NVIDIA with matrix units for bfloat16 and float16, for float16, without;
AMD; Apple; Intel; any other, or one that is not there."""


@cache
def table_of(processor: str, *, several: bool) -> CostTable:
    """The costs that ship for a class of processor.

    Args:
        processor: a name in `SEVERAL` or `ACCELERATORS`.
        several: whether more than one thread of a CPU computes.

    Raises:
        KeyError: there is no such class.
    """
    if processor in ACCELERATORS:
        return ACCELERATORS[processor]
    if several:
        return SEVERAL[processor]()
    return ALONE.get(processor) or _on_one_thread(SEVERAL[processor]())
