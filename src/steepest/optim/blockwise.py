"""Tensors in 8 bits: whole numbers of a unit, which each block of neighbours in a row has."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from steepest._common.numerics import empty, is_known

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

# Ours: an accelerator multiplies by 1/127, which it rounds, instead of dividing by 127.
ROUNDING = 8
"""Addend to the last digits of a unit, so that an error in them does not reach the others."""

# Ours: more than a step's rounding and that of the unit, less than any momentum takes off.
SLACK = 1 + 2.0**-16
"""Factor by which an entry may have shrunk and still keep its code."""


def block_count(length: int) -> int:
    """The number of blocks of a row of some length: as few as there can be, of equal lengths.

    Where their number does not divide that of the entries, the last one is shorter.
    """
    return -(-length // BLOCK)


def quantise(x: Tensor, blocks: int, shrinking: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The nearest whole numbers of a unit, which is 1/127 of the largest entry of a block.

        unit = max|x|/127        without its last seven binary digits, but a normal number
        code = round(x/unit)     half to even
             = trunc(x/unit)     where the average shrinks to zero: it would stop on its way

    So |x − code·unit| ≤ max|x|/253 where it is rounded, and what `dequantise` makes of it has the
    same codes and units again, bit for bit.

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
    units = [_units(block) for block, _ in _blocks(rows)]
    masks = [None, None] if shrinking is None else [m for m, _ in _blocks(shrinking.flatten(1))]
    _, places = _memory(rows, x.dtype)
    _, more = _memory(rows, x.dtype) if shrinking is not None else (None, places)
    codes: list[Tensor] = []
    for (block, _), unit, mask, place, other in zip(
        _blocks(rows), units, masks, places, more, strict=False
    ):
        ratio = torch.div(block, unit, out=place)
        if mask is not None:
            less = torch.mul(ratio, SLACK, out=other).trunc_()
            ratio = torch.where(mask, less, ratio, out=other)
        codes.append(ratio.round_().to(torch.int8).flatten(1))
    found = [unit.squeeze(-1) for unit in units]
    missing = blocks - sum(unit.shape[1] for unit in found)
    found += [rows.new_zeros((rows.shape[0], missing))] * bool(missing)
    return _joined(codes, rows, torch.int8).view(x.shape), _joined(found, rows, x.dtype)


def dequantise(codes: Tensor, units: Tensor) -> Tensor:
    """The numbers code·unit, contiguous and in the type of the units; each product is exact.

    Args:
        codes: The codes, int8, (rows, …).
        units: The unit of each block, (rows, blocks).
    """
    rows = codes.flatten(1)
    out, places = _memory(rows, units.dtype)
    parts: list[Tensor] = []
    for (code, place), memory in zip(_blocks(rows), places, strict=False):
        unit = units.narrow(1, *place).unsqueeze(-1)
        parts.append(code * unit if memory is None else memory.copy_(code).mul_(unit))
    if out is None:
        out = _joined([part.flatten(1) for part in parts], rows, units.dtype)
    return out.view(codes.shape)


def _memory(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor | None, list[Tensor | None]]:
    """Memory for all rows, and for their blocks; None where no function is told where to write."""
    if not is_known(rows):
        return None, [None, None]
    out = empty(tuple(rows.shape), rows, dtype)
    return out, [block for block, _ in _blocks(out)]


def _joined(parts: list[Tensor], rows: Tensor, dtype: torch.dtype) -> Tensor:
    """The parts of all rows side by side."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts, 1) if parts else rows.new_zeros((rows.shape[0], 0), dtype=dtype)


def _blocks(rows: Tensor) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """The blocks of all rows, (rows, blocks, entries): those of one length, and the shorter ones.

    With them come the number of the first block in its row, and their number.
    """
    count, length = rows.shape
    if not length:
        return
    size = -(-length // block_count(length))
    full, rest = divmod(length, size)
    yield rows.narrow(1, 0, full * size).view(count, full, size), (0, full)
    if rest:
        yield rows.narrow(1, full * size, rest).unsqueeze(1), (full, 1)


def _units(block: Tensor) -> Tensor:
    """The unit of each block, (rows, blocks, 1)."""
    # On a CPU far faster than `aminmax`, which gives both.
    largest = torch.maximum(block.amax(-1, keepdim=True), block.amin(-1, keepdim=True).neg_())
    unit = largest.mul_(1 / LARGEST)
    bits = unit.view(torch.int32 if unit.dtype == torch.float32 else torch.int64)
    short: Tensor = ((bits + ROUNDING) & -(2**SPARE_BITS)).view(unit.dtype)
    return short.clamp_min_(torch.finfo(unit.dtype).smallest_normal)
