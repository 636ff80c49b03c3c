"""Checks that what a file gave is plain data, and that of a trial, before anything is done."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from steepest._common.errors import shape_text
from steepest.sharding import local

# Ours: a checkpoint nests seven deep and has some entries for each parameter. References within a
# small file can make a tree of any size and depth.
DEPTH, ENTRIES = 32, 10**7

COUNTS = {"step", "steps"}
"""Names of the tensors in the state of an optimizer that count steps."""


def mapped(tree: Any, change: Callable[[str, Tensor], Any], place: str = "") -> Any:
    """A tree of dictionaries and sequences with `change(place, tensor)` for each of its tensors.

    Examples:
        >>> mapped({"a": [torch.ones(2), 3]}, lambda place, x: (place, x.numel()))
        {'a': [('a.0', 2), 3]}
    """
    if isinstance(tree, Tensor):
        return change(place, tree)
    if isinstance(tree, Mapping):
        return {k: mapped(v, change, f"{place}.{k}".lstrip(".")) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(mapped(v, change, f"{place}.{i}") for i, v in enumerate(tree))
    return tree


def tensors(tree: Any) -> dict[str, Tensor]:
    """The tensors of a tree by their places."""
    found: dict[str, Tensor] = {}
    mapped(tree, found.__setitem__)
    return found


def check_plain(content: Any, *, empty: bool = False) -> None:
    """Raise unless content is a tree of dictionaries, sequences, numbers, texts and dense tensors.

    Args:
        content: the content of a file.
        empty: whether its tensors have a shape alone, on the meta device.

    Raises:
        ValueError: it is something else, or deeper or larger than any checkpoint.
    """
    waiting, seen = [(content, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if depth > DEPTH or seen > ENTRIES:
            raise ValueError("it is nested deeper, or has more entries, than any checkpoint")
        if isinstance(value, dict):
            if not all(isinstance(key, str | int) for key in value):
                raise ValueError("a key is neither a name nor a number")
            waiting += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list | tuple):
            waiting += [(inner, depth + 1) for inner in value]
        elif isinstance(value, Tensor):
            _check_dense(value, empty=empty)
        elif not (value is None or isinstance(value, str | int | float)):
            raise ValueError(f"{type(value).__name__} does not belong in a checkpoint")


def _check_dense(x: Tensor, *, empty: bool) -> None:
    """Raise for a tensor that is not what it seems: sparse, quantised, or repeating its numbers."""
    if x.layout is not torch.strided or x.is_quantized or type(x) is not Tensor:
        raise ValueError("a tensor is sparse, quantised or of a class of its own")
    if x.is_meta is not empty:
        raise ValueError("a tensor has content, or none")
    if not empty and x.numel() * x.itemsize > x.untyped_storage().nbytes():
        raise ValueError("a tensor is larger than what is stored of it")


def place_of(content: Mapping[str, Any], path: Path, *, steps: int) -> tuple[int, float]:
    """The steps that a checkpoint has taken and the seconds that they took.

    Args:
        content: the content of the checkpoint.
        path: its path, which names the step unless somebody has renamed it.
        steps: the steps of the run.

    Raises:
        ValueError: they are no such numbers, or not those of this checkpoint.
    """
    step, seconds = content["step"], content["seconds"]
    named = re.fullmatch(r"step-([0-9]+)", path.stem)
    if type(step) is not int or not 0 <= step <= steps:
        raise ValueError("its step is none of the run")
    if named and step != int(named[1]):
        raise ValueError("its step is another one than its name says")
    if type(seconds) not in (int, float) or not 0 <= seconds < math.inf:
        raise ValueError("its seconds are no time")
    return step, float(seconds)


def check_scheduler(
    scheduler: LRScheduler, state: Any, *, step: int, rates: Sequence[float]
) -> None:
    """Raise unless a state is that of a scheduler after some steps, and hides no method.

    torch's schedulers take every name in a state as an attribute.

    Args:
        scheduler: the scheduler, before its first step.
        state: the state.
        step: the steps taken.
        rates: the learning rates of the step that comes.

    Raises:
        ValueError: it has not.
    """
    own = scheduler.state_dict()
    if not isinstance(state, dict) or not {"base_lrs", "last_epoch"} <= state.keys():
        raise ValueError("it is no state of a scheduler")
    now = {"last_epoch": step, "_step_count": step + 1, "_last_lr": list(rates)}
    for name, value in state.items():
        if name not in own and hasattr(scheduler, str(name)):
            raise ValueError(f"{name} is no part of the state of a scheduler")
        if name in own and not _is_alike(own[name], value):
            raise ValueError(f"{name} of a scheduler is of another kind")
        if name in own.keys() & {*now, "base_lrs"}:
            check_fits(now.get(name, own[name]), value, step=step, place=name)


def _is_alike(own: Any, given: Any) -> bool:
    """Whether a value is of the kind of one's own, as many of a list."""
    if isinstance(own, list):
        same = isinstance(given, list) and len(own) == len(given)
        return same and all(map(_is_alike, own, given))
    return isinstance(given, int | float if isinstance(own, int | float) else type(own))


def check_fits(own: Any, given: Any, *, step: int, place: str = "") -> None:
    """Raise unless a state is made as that of a run like this one is.

    It has the same names, tensors of the same shape and type, and the same numbers. A group may
    have more names: those of a later version. Texts are left to the optimizer, which knows them.

    Args:
        own: the state of the run here, after any number of steps.
        given: the state.
        step: the number of steps that it was saved after, which no count in it exceeds.
        place: its place in the checkpoint.

    Raises:
        ValueError: it is made otherwise.
    """
    if isinstance(own, Tensor):
        _check_tensor(own, given, step, place)
    elif isinstance(own, Mapping):
        in_group = "param_groups" in place.split(".")
        names = given.keys() if isinstance(given, Mapping) else set()
        if lost := [name for name in own if name not in names]:
            raise ValueError(f"{place}.{lost[0]} is missing")
        if more := [name for name in names if name not in own and not in_group]:
            raise ValueError(f"{place} has {str(more[0])[:100]!r} there, which is not known here")
        for name, value in own.items():
            check_fits(value, given[name], step=step, place=f"{place}.{name}".lstrip("."))
    elif isinstance(own, list | tuple):
        if not isinstance(given, list | tuple) or len(own) != len(given):
            raise ValueError(f"{place} is no list of {len(own)}")
        for i, (value, other) in enumerate(zip(own, given, strict=True)):
            check_fits(value, other, step=step, place=f"{place}.{i}")
    elif isinstance(own, int | float):
        if not _is_near(own, given):
            raise ValueError(f"{place} is {str(given)[:100]!r} there, {own} here")
    elif type(given) is not type(own):
        raise ValueError(f"{place} is {type(given).__name__} there, {type(own).__name__} here")


def _check_tensor(own: Tensor, given: Any, step: int, place: str) -> None:
    """Raise unless a tensor is of the shape and type of one's own, and counts possible steps."""
    if not isinstance(given, Tensor):
        raise ValueError(f"{place} is not a tensor")
    here, there = (f"{shape_text(x.shape)} {str(x.dtype)[6:]}" for x in (own, given))
    if here != there:
        raise ValueError(f"{place} is {there} there, {here} here")
    part = local(given)
    if COUNTS & set(place.split(".")) and part.numel():
        least, most = float(part.amin()), float(part.amax())
        if not 0 <= least <= most <= step:
            raise ValueError(f"{place} counts from {least:g} to {most:g} after {step} steps")


def _is_near(own: float, given: Any) -> bool:
    """Whether two numbers are the same, up to what rounding makes of a schedule elsewhere."""
    if isinstance(own, bool) or isinstance(given, bool) or not isinstance(given, int | float):
        return own is given
    return own == given if isinstance(own, int) else math.isclose(own, given, rel_tol=1e-6)
