"""Floating-point operations of the polar factor of one matrix."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from steepest.polar import Auto, CostTable

# Only that float16 products are the faster ones counts, as on most accelerators.
_ACCELERATED = CostTable(
    product=((1, 2.0), (2, 16.0)),
    float16=((1, 1.0), (2, 8.0)),
    source="2·m³ flops, half in float16",
)
_DEFAULT = Auto(error=0.05, table=_ACCELERATED)


@lru_cache(maxsize=1024)
def polar_flops(m: int, n: int) -> float:
    """Flops of the polar factor of an m × n matrix by the default method on an accelerator.

    They are those of its products, counted by torch; Hermitian ones are done by blocks.

    Examples:
        >>> polar_flops(768, 768) / (2 * 768**3)  # in products of 768 × 768 matrices
        11.25
    """
    method = _DEFAULT.choose(m, n, torch.float32, torch.device("meta"))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        method(torch.empty(1, m, n, device="meta"))
    return float(counter.get_total_flops())
