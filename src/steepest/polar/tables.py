"""The costs that ship: measured ones, and for other processors what is derived or assumed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

from steepest.polar.costs import Costs, CostTable, seconds_at

# Zen 3, two cores; see its `source`.
AVX2 = CostTable(
    product=(
        (8, 1.1e-07),
        (32, 8.5e-07),
        (64, 4.2e-06),
        (128, 2.5e-05),
        (256, 0.0002),
        (512, 0.0015),
        (768, 0.0051),
        (1024, 0.012),
    ),
    bfloat16=(
        (8, 1.7e-06),
        (32, 2.5e-05),
        (64, 0.00018),
        (128, 0.0014),
        (256, 0.024),
        (512, 0.21),
        (768, 0.82),
    ),
    float16=(
        (8, 1.5e-06),
        (32, 2.1e-05),
        (64, 0.00015),
        (128, 0.0011),
        (256, 0.024),
        (512, 0.2),
        (768, 0.77),
    ),
    inverse=(
        (8, 1.5e-06),
        (32, 1.3e-05),
        (64, 4.4e-05),
        (128, 0.00017),
        (256, 0.00082),
        (512, 0.0039),
        (768, 0.0095),
        (1024, 0.02),
    ),
    eigh=(
        (8, 5.5e-06),
        (32, 8.5e-05),
        (64, 0.00025),
        (128, 0.001),
        (256, 0.0049),
        (512, 0.027),
        (768, 0.07),
        (1024, 0.16),
    ),
    svd=(
        (8, 1e-05),
        (32, 0.00012),
        (64, 0.00041),
        (128, 0.0015),
        (256, 0.007),
        (512, 0.037),
        (768, 0.093),
        (1024, 0.25),
    ),
    wide=2.6,
    source="measured by `steepest bench --calibrate --threads 2` "
    "on AMD EPYC (Zen 3), torch 2.13.0+cpu, 2026-11-29, the least of two runs",
)

# The same processor; see its `source`.
AVX2_ONE = CostTable(
    product=(
        (8, 1.5e-07),
        (32, 1e-06),
        (64, 6.5e-06),
        (128, 4.7e-05),
        (256, 0.00036),
        (512, 0.0029),
        (768, 0.0098),
        (1024, 0.025),
    ),
    bfloat16=(
        (8, 3.3e-06),
        (32, 3.8e-05),
        (64, 0.00025),
        (128, 0.0022),
        (256, 0.025),
        (512, 0.2),
        (768, 0.84),
    ),
    float16=(
        (8, 1.5e-06),
        (32, 2.1e-05),
        (64, 0.00015),
        (128, 0.0012),
        (256, 0.025),
        (512, 0.21),
        (768, 0.81),
    ),
    inverse=(
        (8, 2.3e-06),
        (32, 2.6e-05),
        (64, 5.3e-05),
        (128, 0.00022),
        (256, 0.0012),
        (512, 0.0061),
        (768, 0.016),
        (1024, 0.033),
    ),
    eigh=(
        (8, 5.5e-06),
        (32, 8.3e-05),
        (64, 0.00033),
        (128, 0.0014),
        (256, 0.0075),
        (512, 0.046),
        (768, 0.13),
        (1024, 0.29),
    ),
    svd=(
        (8, 1.1e-05),
        (32, 0.00012),
        (64, 0.00042),
        (128, 0.0017),
        (256, 0.008),
        (512, 0.052),
        (768, 0.15),
        (1024, 0.44),
    ),
    wide=2.2,
    source="measured by `steepest bench --calibrate --threads 1` "
    "on AMD EPYC (Zen 3), torch 2.13.0+cpu, 2026-11-29, the least of three runs",
)

# Intel, two cores; see its `source`.
AVX512 = CostTable(
    product=(
        (8, 1.2e-07),
        (32, 6.7e-07),
        (64, 3.7e-06),
        (128, 2.7e-05),
        (256, 0.00017),
        (512, 0.0015),
        (768, 0.0048),
        (1024, 0.011),
    ),
    inverse=(
        (8, 1.7e-06),
        (32, 1.3e-05),
        (64, 5.5e-05),
        (128, 0.00016),
        (256, 0.00075),
        (512, 0.0038),
        (768, 0.0113),
        (1024, 0.024),
    ),
    eigh=(
        (8, 1e-05),
        (32, 0.00012),
        (64, 0.00036),
        (128, 0.0014),
        (256, 0.0056),
        (512, 0.034),
        (768, 0.077),
        (1024, 0.19),
    ),
    svd=(
        (8, 2e-05),
        (32, 0.0002),
        (64, 0.00062),
        (128, 0.0022),
        (256, 0.0098),
        (512, 0.05),
        (768, 0.13),
        (1024, 0.3),
    ),
    wide=1.8,
    source="measured by `steepest bench --calibrate` on two x86-64 cores with AVX-512, "
    "torch 2.13, 2026-11-22",
)

# Sizes up to which a bfloat16 product takes as long as a float32 one where processors have both,
# and from which on the whole gain of large products is there. On Zen 5 fifteen bfloat16 products
# against the float32 method of the time were measured in stacks of 64, 128 and 256 rows: gains of
# 2.4, 3.7 and 4.2. For AMX the same shape is assumed.
NO_GAIN, WHOLE_GAIN = 16, 144

# How many times faster than in float32 large products are in bfloat16. AMX: two cores, torch 2.13,
# November 2026. Zen 5: 1.05 to 4.2 ms for 768 × 768, as below.
AMX_GAIN, ZEN_GAIN = 5.0, 4.0

# Zen 5, two threads, torch 2.13, 2026-11-28: seconds of a product, an inverse and an `eigh` of
# 768 × 768 matrices in float32, and the speed of float32 to that of float64 products. That the
# `eigh` was in float32 is assumed.
ZEN_SIZE, ZEN_PRODUCT, ZEN_INVERSE, ZEN_EIGH, ZEN_WIDE = 768, 4.2e-3, 7.5e-3, 27e-3, 217 / 122

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


def _zen() -> CostTable:
    """The shape of `AVX2`, which is that of an AMD processor, through the figures of Zen 5."""

    def through(costs: Costs, seconds: float) -> Costs:
        return _times(costs, seconds / seconds_at(costs, ZEN_SIZE))

    # In a table `eigh` is that of float64.
    eigh = ZEN_WIDE * ZEN_EIGH
    product = through(AVX2.product, ZEN_PRODUCT)
    return CostTable(
        product=product,
        bfloat16=_faster(product, ZEN_GAIN),
        inverse=through(AVX2.inverse, ZEN_INVERSE),
        eigh=through(AVX2.eigh, eigh),
        svd=_times(AVX2.svd, eigh / seconds_at(AVX2.eigh, ZEN_SIZE)),
        wide=ZEN_WIDE,
        source="measured at 768 × 768 on AMD EPYC (Zen 5), 2 threads, torch 2.13, 2026-11-28; "
        "other sizes, and svd, in proportion to class avx2; bfloat16 below 144 inferred",
    )


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
    "zen-bf16": _zen,
    "zen-avx512": lambda: _like(_zen(), _zen().source.partition("; bfloat16")[0]),
    "avx512": lambda: AVX512,
    "avx2": lambda: AVX2,
    "x86": lambda: _like(AVX2, ASSUMED + "the costs of class avx2"),
    # bfloat16 on Arm was not measured, so no method computes in it.
    "arm-bf16": lambda: _like(AVX2, ASSUMED + "the costs of class avx2, and none in bfloat16"),
    "arm": lambda: _like(AVX2, ASSUMED + "the costs of class avx2"),
    "unknown": lambda: _like(AVX2, ASSUMED + "the costs of class avx2"),
}
"""Classes of CPU, with their costs on two threads.

x86 with AMX; AMD with AVX-512, with fast bfloat16 and without; others with AVX-512, without fast
bfloat16; with AVX2 at most; with less. Arm with bfloat16 and without. Anything else.
"""


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
    return AVX2_ONE if processor == "avx2" else _on_one_thread(SEVERAL[processor]())
