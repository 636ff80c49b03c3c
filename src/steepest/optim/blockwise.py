"""Tensors in 8 bits: whole numbers of a unit, which each block of neighbours in a row has."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from steepest._common.numerics import empty, is_known, safe_divisor

# That of bitsandbytes and torchao: with a number of four bytes for each it adds 1/64 byte per
# entry, where a row is long enough.
BLOCK = 256
"""Entries of a row that share a unit."""

# The last code is not used, so that x and −x have opposite ones: arXiv 2509.23106.
LARGEST = 127
"""Largest absolute value of a code."""

# Ours: as many as a product with LARGEST needs. The unit becomes smaller by at most 2^-16 of it.
SPARE_BITS = 7
"""Last digits of a unit that are zero, so that every product with a code is exact."""

# Ours: more than a step's rounding and that of the unit, less than any momentum takes off.
SLACK = 1 + 2.0**-16
"""Factor by which an entry may have shrunk and still keep its code."""


def block_count(length: int) -> int:
    """The number of blocks of a row; the last one may be short."""
    return -(-length // BLOCK)


def quantise(x: Tensor, blocks: int, shrinking: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The nearest whole numbers of a unit, which is 1/127 of the largest entry of a block.

        unit = max|x|/127        without its last seven binary digits; of each block
        code = round(x/unit)     half to even
             = trunc(x/unit)     where the average shrinks to zero: it would stop on its way

    So |x − code·unit| ≤ max|x|/254 where it is rounded, and what `dequantise` makes of it has the
    same codes and units again, bit for bit. A block whose unit would not be a normal number is
    zero.

    Args:
        x: Real numbers in single or double precision, (rows, …).
        blocks: The number of blocks for which there are units; those that a row lacks have 0.
        shrinking: Flags of the entries to be truncated; None for no entry.

    Returns:
        The codes, int8 in the shape of x, and the units, (rows, blocks), in the type of x.

    Sources:
        Gupta et al., arXiv 2509.23106: blocks, linear codes and the paper's results with them.
    """
    rows = x.flatten(1)
    codes = torch.empty(rows.shape, dtype=torch.int8, device=x.device)
    units = rows.new_zeros((rows.shape[0], blocks))
    masks = [None, None] if shrinking is None else [m for m, _ in _blocks(shrinking.flatten(1))]
    for (block, place), (code, _), mask in zip(_blocks(rows), _blocks(codes), masks, strict=False):
        unit = _units(block)
        units[:, place] = unit.squeeze(-1)
        ratio = torch.div(block, safe_divisor(unit), out=_reused(block))
        if mask is not None:
            less = torch.mul(ratio, SLACK, out=_reused(block)).trunc_()
            ratio = torch.where(mask, less, ratio, out=less if is_known(less) else None)
        code.copy_(ratio.round_())
    return codes.view(x.shape), units


def dequantise(codes: Tensor, units: Tensor) -> Tensor:
    """The numbers code·unit, contiguous and in the type of the units; each product is exact.

    Args:
        codes: The codes, int8, (rows, …).
        units: The unit of each block, (rows, blocks).
    """
    rows = codes.flatten(1)
    out = empty(tuple(rows.shape), units)
    for (code, place), (part, _) in zip(_blocks(rows), _blocks(out), strict=True):
        part.copy_(code).mul_(units[:, place].unsqueeze(-1))
    return out.view(codes.shape)


def _reused(x: Tensor) -> Tensor | None:
    """Memory for a tensor like `x`, where a function may be told to write there."""
    return empty(tuple(x.shape), x) if is_known(x) else None


def _blocks(rows: Tensor) -> Iterator[tuple[Tensor, slice]]:
    """The blocks of all rows, (rows, blocks, entries), with their places; short ones come last."""
    full, rest = divmod(rows.shape[1], BLOCK)
    if full:
        yield rows[:, : full * BLOCK].unflatten(1, (full, BLOCK)), slice(0, full)
    if rest:
        yield rows[:, full * BLOCK :].unsqueeze(1), slice(full, full + 1)


def _units(block: Tensor) -> Tensor:
    """The unit of each block, (rows, blocks, 1)."""
    largest = torch.maximum(block.amax(-1, keepdim=True), -block.amin(-1, keepdim=True))
    unit = largest / LARGEST
    bits = torch.int32 if unit.dtype == torch.float32 else torch.int64
    short = (unit.view(bits) & -(2**SPARE_BITS)).view(unit.dtype)
    return torch.where(short < torch.finfo(unit.dtype).smallest_normal, 0, short)
