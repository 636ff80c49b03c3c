"""Checks that what a file gave is plain data, before anything is done with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

# Ours: a checkpoint nests seven deep and has some entries for each parameter. References within a
# small file can make a tree of any size and depth.
DEPTH, ENTRIES = 32, 10**7


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


def check_scheduler(scheduler: LRScheduler, state: Any) -> None:
    """Raise unless a state has what a scheduler counts by, each of its kind, and hides no method.

    torch's schedulers take every name in a state as an attribute.

    Raises:
        ValueError: it has not.
    """
    own = scheduler.state_dict()
    if not isinstance(state, dict) or not {"base_lrs", "last_epoch"} <= state.keys():
        raise ValueError("it is no state of a scheduler")
    for name, value in state.items():
        if name not in own and hasattr(scheduler, str(name)):
            raise ValueError(f"{name} is no part of the state of a scheduler")
        if name in own and not _is_alike(own[name], value):
            raise ValueError(f"{name} of a scheduler is of another kind")


def _is_alike(own: Any, given: Any) -> bool:
    """Whether a value is of the kind of one's own, as many of a list."""
    if isinstance(own, list):
        same = isinstance(given, list) and len(own) == len(given)
        return same and all(map(_is_alike, own, given))
    return isinstance(given, int | float if isinstance(own, int | float) else type(own))
