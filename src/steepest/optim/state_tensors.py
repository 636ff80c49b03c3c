"""The tensors that a saved state may have of a parameter: their shapes, types and layouts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from steepest._common.errors import invalid, shape_text
from steepest._common.numerics import is_known
from steepest.optim.groups import name_of
from steepest.optim.kept import kept_tensors
from steepest.optim.momentum import BUFFER, CODES, UNITS
from steepest.optim.plan import members_of
from steepest.optim.routed import RoutedOptimizer
from steepest.sharding import is_sharded

LOAD = "load with torch.distributed.checkpoint.state_dict.set_optimizer_state_dict"
BEGIN_ANEW = "load the state of the same model, or delete this from it, to begin anew"

STEP, AVERAGES = "step", ("exp_avg", "exp_avg_sq")
"""Keys of what AdamW keeps of a parameter."""

KINDS = {
    "codes": "codes in 8 bits",
    "real": "real floating-point numbers",
    "complex": "complex floating-point numbers",
}
"""The kinds of the numbers of a tensor, in words."""


@dataclass(frozen=True)
class StateTensor:
    """A tensor that the steps of a parameter keep.

    Args:
        param: The parameter.
        shape: Its shape over all ranks together; None where another check looks at it.
        placements: Its placements on the mesh of the parameter; None where each rank has all of it.
        kind: The kind of its numbers, one of `KINDS`.
    """

    param: Tensor
    shape: Sequence[int] | None
    placements: Sequence[Any] | None
    kind: str

    def check(self, where: str, name: str, value: Any) -> None:
        """Raise unless this is what a state has.

        Args:
            where: The place of the value in the state.
            name: The name of the parameter.
            value: The value.

        Raises:
            ValueError: it is of another shape, its numbers are of another kind, or it lies
                otherwise on the ranks.
        """
        if not isinstance(value, Tensor):
            raise invalid(where, type(value).__name__, f"a tensor belongs here: {BEGIN_ANEW}")
        if self.shape is not None and tuple(value.shape) != tuple(self.shape):
            raise invalid(
                where,
                shape_text(value.shape),
                f"{shape_text(self.shape)} belongs here, since {name} is "
                f"{shape_text(self.param.shape)}: {BEGIN_ANEW}",
            )
        if _kind(value.dtype) != self.kind:
            raise invalid(where, value.dtype, f"{KINDS[self.kind]} belong here: {BEGIN_ANEW}")
        self._check_layout(where, name, value)

    def _check_layout(self, where: str, name: str, value: Tensor) -> None:
        """Raise unless a tensor lies on the ranks as this one does."""
        mine = _layout(self.param, self.placements)
        theirs = _layout(value, value.placements if is_sharded(value) else None)
        if theirs != mine:
            here = f"sharded here, {_text(mine)}" if mine else "whole here"
            raise invalid(where, _text(theirs), f"what is kept of {name} is {here}: {LOAD}")


def _kind(dtype: torch.dtype) -> str:
    """The kind of the numbers of a type; the type itself if it is that of no state."""
    if dtype == torch.int8:
        return "codes"
    if dtype.is_complex:
        return "complex"
    return "real" if dtype.is_floating_point else str(dtype)


def _layout(x: Tensor, placements: Sequence[Any] | None) -> tuple[Any, ...] | None:
    """The mesh and the placements of a tensor; None for a whole one."""
    if placements is None or not is_sharded(x):
        return None
    return x.device_mesh, tuple(placements)


def _text(layout: tuple[Any, ...] | None) -> str:
    """A layout in words."""
    return "a whole tensor" if layout is None else f"{layout[1]} on {layout[0]}"


def check_tensors(
    optimizer: RoutedOptimizer, place: int, state: Mapping[Any, Any], keys: Sequence[Any]
) -> None:
    """Raise if what a saved state has of the parameters of a group is not what its steps keep.

    What is missing begins anew, and what no step keeps is left alone.

    Args:
        optimizer: The optimizer that the state is for.
        place: The place of the group.
        state: The saved state.
        keys: The numbers of the parameters in it.

    Raises:
        ValueError: a tensor of another shape, kind or layout; a count of steps that is none, or
            averages of AdamW without it.
    """
    group = optimizer.param_groups[place]
    if len(keys) != len(group["params"]):
        return  # torch refuses it
    for key, p, slots in zip(keys, group["params"], _expected(optimizer, place), strict=True):
        own, name = state.get(key, {}), name_of(group, p)
        if not isinstance(own, Mapping):
            remedy = "a dictionary belongs here: load what `state_dict` has saved"
            raise invalid(f"state[{key!r}]", type(own).__name__, remedy)
        for slot, value in own.items():
            where = f"state[{key!r}][{slot!r}]"
            if slot in slots and value is not None:
                slots[slot].check(where, name, value)
            elif slot == STEP and group["adamw"]:
                _check_count(where, value)
        lost = [name for name in (STEP, *AVERAGES) if own.get(name) is None]
        if group["adamw"] and 0 < len(lost) < 3:
            remedy = f"AdamW's averages and the number of their steps go together: {BEGIN_ANEW}"
            raise invalid(f"state[{key!r}][{lost[0]!r}]", None, remedy)


def _expected(optimizer: RoutedOptimizer, place: int) -> Iterator[dict[str, StateTensor]]:
    """The tensors that the steps of a group keep of each of its parameters, by their keys."""
    group = optimizer.param_groups[place]
    if group["adamw"]:
        for p in group["params"]:
            yield dict.fromkeys(AVERAGES, _like(p))
        return
    rule = optimizer._rule(place)
    every = [each.state_shapes for each in (rule, rule.retraction) if each is not None]
    for member in members_of(place, group, rule, optimizer._views[place]):
        p, like = member.param, _like(member.param)
        slots = {BUFFER: like, CODES: replace(like, kind="codes")}
        slots[UNITS] = replace(like, shape=None, kind="real")
        for kept in (each for shapes in every for each in kept_tensors(member, shapes)):
            shape, placements = kept.whole_shape(member), kept.placements(member)
            slots[kept.key] = StateTensor(p, shape, placements, "real")
        yield slots


def _like(p: Tensor) -> StateTensor:
    """A tensor that is laid out as a parameter, of numbers of its kind."""
    placements = p.placements if is_sharded(p) else None
    return StateTensor(p, p.shape, placements, "complex" if p.is_complex() else "real")


def _check_count(where: str, value: Any) -> None:
    """Raise for a number of steps, as a number or a tensor, that cannot be."""
    remedy = (
        "one finite number >= 0 belongs here, that of the steps: load the state as it was saved"
    )
    if isinstance(value, Tensor) and (value.numel() != 1 or value.is_complex()):
        raise invalid(where, f"{value.dtype} of {shape_text(value.shape)}", remedy)
    known = is_known(value) if isinstance(value, Tensor) else True
    if known and not (isinstance(value, Tensor | int | float) and 0 <= float(value) < math.inf):
        raise invalid(where, value, remedy)
