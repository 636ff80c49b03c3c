"""The form of a state in which it has the keys of torch's optimizers, and no others.

`torch.distributed.checkpoint` loads the keys that the state of the new optimizer has, and refuses
if one of them was not saved. A checkpoint of torch.optim.Muon goes into `Muon` where that has no
more keys than torch's: so it is for an optimizer that is given what torch's are given, tensors
without names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from functools import cache
from typing import Any

import torch

from steepest._common.callers import callers, module_of
from steepest.optim.choices import SLOTS

ADAMW_ONLY = frozenset(
    ("amsgrad", "foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay")
)
"""Keys of torch.optim.AdamW that say how it computes; a group of this library has none of them."""

MAKES, LOADS = "_get_optim_state_dict", "_load_optim_state_dict"
"""Functions of torch.distributed.checkpoint.state_dict, which ask an optimizer for its state."""


def torch_form(
    groups: Sequence[dict[str, Any]], own: Set[str], keys: Sequence[str]
) -> list[dict[str, Any]]:
    """The groups of a state, as torch's distributed checkpoints are given them.

    Args:
        groups: The groups with all of their keys.
        own: The keys that this library gives to groups.
        keys: The keys of the optimizer of torch that this one stands in for; none if for none.
    """
    as_torchs = keys and not any({"param_names", *SLOTS} & group.keys() for group in groups)
    if not as_torchs or not _asked_for():
        return list(groups)
    return [_reduced(group, own, keys) for group in groups]


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


def _asked_for() -> bool:
    """Whether the caller will refuse keys that were not saved.

    That is torch's `get_optimizer_state_dict`. A full state is passed on from rank to rank key by
    key, as far as the state here has it, and in a flattened one every key of a group is looked up:
    then nothing is left out. If a later torch has other names, a state has all of its keys.
    """
    home = "torch.distributed.checkpoint.state_dict"
    frames = {f.f_code.co_name: f for f in callers() if module_of(f) == home}
    if MAKES not in frames or LOADS in frames:
        return False
    asked = frames[MAKES].f_locals.get("info")
    full, flat = (
        getattr(asked, name, True) for name in ("full_state_dict", "flatten_optimizer_state_dict")
    )
    return not (full or flat)
