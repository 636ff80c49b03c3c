"""The form of a state that `torch.distributed.checkpoint` saves, and loads into.

`torch.distributed.checkpoint` loads the keys that the state of the new optimizer has, and refuses
if one of them was not saved. A checkpoint of torch.optim.Muon goes into `Muon` where that has no
more keys than torch's: so it is for an optimizer that is given what torch's are given, tensors
without names. Into any other it loads in part, if it is told to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from functools import cache
from operator import is_
from types import FrameType
from typing import Any

import torch

from steepest._common.callers import callers, module_of
from steepest.optim.choices import SLOTS
from steepest.optim.skips import KEY

ADAMW_ONLY = frozenset(
    ("amsgrad", "foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay")
)
"""Keys of torch.optim.AdamW that say how it computes; a group of this library has none of them."""

MARKED = float, tuple, list
"""Types of values that are known again by their objects."""

MAKES, LOADS = "_get_optim_state_dict", "_load_optim_state_dict"
"""Functions of torch.distributed.checkpoint.state_dict, which ask an optimizer for its state."""


class Template:
    """The values that a state held when torch's distributed checkpoint was given it to load into.

    It puts what it reads into their place and leaves the others: an object that comes back is one
    for which nothing was saved.
    """

    def __init__(self) -> None:
        self._given: list[dict[str, Any]] = []

    def given(self, groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The groups with numbers that are objects of their own, which are known again."""
        self._given = [
            {key: _another(group[key]) for key in (*restored(group), KEY) if key in group}
            for group in groups
        ]
        return [{**a, **b} for a, b in zip(groups, self._given, strict=True)]

    def kept(
        self, saved: Sequence[Mapping[str, Any]], own: Sequence[Mapping[str, Any]]
    ) -> list[list[str]] | None:
        """The keys of each group for which nothing was read; None if no group was read in part.

        A state of which nothing was read has not been in a checkpoint, and None is for that too.

        Args:
            saved: The groups of a state that is to be loaded.
            own: The groups of the optimizer.
        """
        before = self._given if len(self._given) == len(saved) else [{} for _ in saved]
        kept, read, part = [], False, False
        for group, was, mine in zip(saved, before, own, strict=False):
            keys = restored(mine)
            # torch leaves nothing but names where several of our groups were one.
            none = group.keys().isdisjoint(keys)
            same = [k for k in keys if k in group and _is_same(group[k], was.get(k))]
            # Of a whole number, or of a tensor, which is read into, this does not tell anything.
            kept.append(keys if none else [k for k in same if isinstance(group[k], MARKED)])
            read |= none or len(same) < len(group.keys() & keys)
            part |= bool(kept[-1]) or (KEY in was and group.get(KEY) is was[KEY])
        return kept if read and part else None


def restored(group: Mapping[str, Any]) -> list[str]:
    """The keys of a group that the optimizers of torch have too, and that make a run go on."""
    own = ("betas", "eps") if group["adamw"] else ("momentum", "betas")
    return [key for key in ("lr", *own, "weight_decay") if key in group]


def _another(value: Any) -> Any:
    """Another object with the same value, of a number or a pair of them."""
    if type(value) is tuple:
        return tuple(_another(v) for v in value)
    return float.fromhex(value.hex()) if type(value) is float else value


def _is_same(value: Any, given: Any) -> bool:
    """Whether a value is an object that was given; a pair may have been made again of them."""
    if isinstance(value, tuple | list) and isinstance(given, tuple | list):
        return len(value) == len(given) and all(map(is_, value, given))
    return value is given


def torch_form(
    groups: Sequence[dict[str, Any]], own: Set[str], keys: Sequence[str], template: Template
) -> list[dict[str, Any]]:
    """The groups of a state, as torch's distributed checkpoints are given them.

    Args:
        groups: The groups with all of their keys.
        own: The keys that this library gives to groups.
        keys: The keys of the optimizer of torch that this one stands in for; none if for none.
        template: The memory of the groups that were given.
    """
    home = "torch.distributed.checkpoint.state_dict"
    frames = {f.f_code.co_name: f for f in callers() if module_of(f) == home}
    if MAKES not in frames:
        return list(groups)
    told = template.given(groups)
    as_torchs = keys and not any({"param_names", *SLOTS} & group.keys() for group in groups)
    if not as_torchs or LOADS in frames or not _is_strict(frames[MAKES]):
        return told
    return [_reduced(group, own, keys) for group in told]


def _reduced(group: dict[str, Any], own: Set[str], keys: Sequence[str]) -> dict[str, Any]:
    """A group with the keys of torch's, and those that schedulers and users have written."""
    usual = adamw_defaults() if group["adamw"] else {}
    mine = {key: value for key, value in group.items() if key in (usual or keys) or key not in own}
    return {**usual, **mine}


@cache
def adamw_defaults() -> Mapping[str, Any]:
    """The values of a group of torch.optim.AdamW in the installed torch."""
    return torch.optim.AdamW([torch.zeros(())]).defaults


def without_adamws(group: dict[str, Any]) -> dict[str, Any]:
    """A saved group without what torch's AdamW says of its way to compute."""
    return {key: value for key, value in group.items() if key not in ADAMW_ONLY}


def _is_strict(frame: FrameType) -> bool:
    """Whether keys that were not saved will be refused.

    So torch's `get_optimizer_state_dict` is for. A full state is passed on from rank to rank key by
    key, as far as the state here has it, and in a flattened one every key of a group is looked up:
    then nothing is left out. If a later torch has other names, a state has all of its keys.
    """
    asked = frame.f_locals.get("info")
    full, flat = (
        getattr(asked, name, True) for name in ("full_state_dict", "flatten_optimizer_state_dict")
    )
    return not (full or flat)
