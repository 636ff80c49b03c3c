"""Momentum averages between two steps: as they are, or in 8 bits."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor

from steepest._common.errors import invalid, shape_text
from steepest._common.numerics import widened
from steepest.optim.blockwise import block_count, dequantise, quantise
from steepest.optim.member import Member
from steepest.optim.updates import Flag, replace
from steepest.sharding import is_sharded, local, sharded_as, sharded_like

EIGHT_BITS = torch.int8
"""The `momentum_dtype` that asks for 8 bits."""

BUFFER, CODES, UNITS = "momentum_buffer", "momentum_codes", "momentum_units"
"""Keys of the state: of an average as it is; of its codes in 8 bits, and of their units."""

# That of bitsandbytes and torchao.
SMALLEST = 4096
"""Entries from which a parameter's average is kept in 8 bits; so few bytes are not worth it."""

# Ours: with its unit a row of 32 takes 9/8 bytes per entry, one of 4 as much as in half precision.
SHORTEST = 32
"""Entries of a row from which on it is worth a unit of its own."""


def average_dtype(param: Tensor, asked: torch.dtype | None) -> torch.dtype:
    """The type of a momentum average in a step: as asked for, complex for a complex parameter.

    What is kept in 8 bits is averaged in single precision at least.
    """
    dtype = widened(param.dtype) if asked == EIGHT_BITS else asked or param.dtype
    return dtype.to_complex() if param.is_complex() and not dtype.is_complex else dtype


def in_eight_bits(param: Tensor, asked: torch.dtype | None) -> bool:
    """Whether the average of a parameter is kept in 8 bits; of a sharded one the same everywhere.

    Args:
        param: The parameter.
        asked: The `momentum_dtype` of its group.
    """
    if asked != EIGHT_BITS or param.ndim < 2:
        return False
    return param.numel() >= max(SMALLEST, SHORTEST * param.shape[0])


def units_shape(x: Tensor) -> tuple[int, ...]:
    """The shape of the units of a tensor, or of a tensor laid out like it: (rows, cuts, blocks).

    A row is a slice of the first axis, and its blocks follow its memory. Every rank makes the
    blocks of what it holds: so each other axis has an entry for each rank that it is cut up for,
    which is 1 where a rank has whole rows. Then units are placed on the ranks as their tensor is.
    """
    cuts = [1] * x.ndim
    if is_sharded(x):
        for ranks, placement in zip(x.device_mesh.shape, x.placements, strict=True):
            axis = getattr(placement, "dim", 0)  # a replica has none, and the first is not cut
            cuts[axis] *= ranks if axis else 1
    length = math.prod([-(-n // cut) for n, cut in zip(x.shape[1:], cuts[1:], strict=True)])
    return (x.shape[0], *cuts[1:], block_count(length))


def average_of(state: Mapping[str, Any]) -> Tensor | None:
    """The momentum average in the state of a parameter, to be read; None where there is none."""
    codes: Tensor | None = state.get(CODES)
    if codes is None:
        return state.get(BUFFER)
    return sharded_like(_read(codes, state[UNITS]), codes)


def new_average(member: Member, own: dict[str, Any], asked: torch.dtype | None) -> Tensor:
    """The average of a parameter whose state has no buffer; zero where it has no codes either.

    Kept in 8 bits it is memory for this step alone, which `keep` takes. Otherwise it is a new
    buffer.

    Args:
        member: The parameter.
        own: Its state.
        asked: The `momentum_dtype` of its group.
    """
    param, coded = member.param, in_eight_bits(member.param, asked)
    if CODES in own:
        if coded:
            return _read(own[CODES], own[UNITS])
        # The group has got another type of momentum since.
        own.update(_decoded(own.pop(CODES), own.pop(UNITS), member.dtype))
        buffer: Tensor = own[BUFFER]
        return buffer
    zeros = torch.zeros_like(param, dtype=member.dtype, memory_format=torch.preserve_format)
    if not coded:
        own[BUFFER] = zeros
    return zeros


def keep(
    members: Sequence[Member],
    averages: Sequence[Tensor],
    grads: Sequence[Tensor],
    finite: Sequence[Flag],
    zeros: Set[Tensor],
    state: MutableMapping[Tensor, dict[str, Any]],
) -> None:
    """Put the averages after a step away in 8 bits; where a flag is false the codes stay.

    Args:
        members: The parameters.
        averages: This rank's part of their averages.
        grads: This rank's part of their gradients.
        finite: Whether each gradient is finite.
        zeros: Parameters of whose gradients an entry may be zero.
        state: The state of the optimizer.
    """
    old: list[Tensor] = []
    new: list[Tensor] = []
    flags: list[Flag] = []
    for member, average, grad, ok in zip(members, averages, grads, finite, strict=True):
        param = member.param
        if not in_eight_bits(param, EIGHT_BITS):
            continue
        own = state[param]
        if CODES not in own:
            own.pop(BUFFER, None)
            own[CODES], own[UNITS] = _empty(param, member.dtype)
            ok = True  # an average that is not finite has not been updated
        codes, units = local(own[CODES]), local(own[UNITS])
        shrinking = grad == 0 if param in zeros else None
        new_codes, new_units = quantise(average, units.shape[-1], shrinking)
        old += [codes, units]
        new += [new_codes, new_units.view_as(units)]
        flags += [ok, ok]
    if old:
        replace(old, new, flags)


def loaded(
    key: Any, values: dict[str, Any], param: Tensor, asked: torch.dtype | None
) -> dict[str, Any]:
    """The saved state of a parameter with its average as the group here keeps it.

    Args:
        key: The key of the state.
        values: The state.
        param: The parameter.
        asked: The `momentum_dtype` of its group.

    Raises:
        ValueError: codes without their units, or with those of a tensor that was cut otherwise.
    """
    coded, codes = in_eight_bits(param, asked), values.get(CODES)
    if codes is not None:
        units = values.get(UNITS)
        if units is None or tuple(units.shape) != units_shape(codes):
            raise invalid(
                f"state[{key!r}][{UNITS!r}]",
                None if units is None else shape_text(units.shape),
                f"the codes have units of shape {shape_text(units_shape(codes))} here, since each "
                "rank makes the blocks of its part of a row: load them where rows are cut as they "
                "were when they were saved",
            )
    if coded == (codes is not None) or not {BUFFER, CODES} & values.keys():
        return values
    rest = {k: v for k, v in values.items() if k not in (BUFFER, CODES, UNITS)}
    if codes is not None:
        return {**rest, **_decoded(codes, values[UNITS], values[UNITS].dtype)}
    buffer = values[BUFFER]
    average = local(buffer).to(average_dtype(param, asked))
    codes, units = _empty(buffer, average.dtype)
    found = quantise(average, units.shape[-1])
    for place, part in zip((codes, units), found, strict=True):
        local(place).copy_(part.view(local(place).shape))
    return {**rest, CODES: codes, UNITS: units}


def _read(codes: Tensor, units: Tensor) -> Tensor:
    """This rank's part of an average."""
    part = local(units)
    return dequantise(local(codes), part.reshape(part.shape[0], part.shape[-1]))


def _decoded(codes: Tensor, units: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """An average that was kept in 8 bits as it is, in memory of its own."""
    return {BUFFER: sharded_like(_read(codes, units).to(dtype, copy=True), codes)}


def _empty(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Codes and units of zeros, laid out as a tensor."""
    codes = torch.zeros_like(x, dtype=torch.int8, memory_format=torch.preserve_format)
    shape = units_shape(x)
    if not is_sharded(x):
        return codes, torch.zeros(shape, dtype=dtype, device=x.device)
    here = local(x)
    part = (here.shape[0], *[1] * (len(shape) - 2), shape[-1])
    units = torch.zeros(part, dtype=dtype, device=here.device)
    return codes, sharded_as(units, x, x.placements, shape)
