"""Floating-point operations of the polar factor of one matrix."""

from __future__ import annotations

from functools import lru_cache

import torch

from steepest.polar import Auto, CostTable, GramNewtonSchulz

# A table of costs whose unit is the flop instead of the second: 2·m³ a product. Half precision must
# cost less to be taken, as on most accelerators; the factor is taken out again.
HALF = 0.5
_FLOPS = Auto(
    error=0.05,
    table=CostTable(
        product=((1, 2.0), (2, 16.0)), float16=((1, 2.0 * HALF), (2, 16.0 * HALF)), source="2·m³"
    ),
)


@lru_cache(maxsize=1024)
def polar_flops(m: int, n: int) -> float:
    """Flops of the polar factor of an m × n matrix by the default method on an accelerator.

    They are what `steepest.polar.Auto` counts when it chooses, in products of float16.

    Examples:
        >>> polar_flops(768, 768) / (2 * 768**3)  # in products of 768 × 768 matrices
        21.0
    """
    best = _FLOPS.explain((m, n), torch.float32, "cuda").predictions[0]
    half = isinstance(best.method, GramNewtonSchulz) and best.method.dtype is not None
    return best.seconds / (HALF if half else 1.0)
