"""Keys of groups that others have written: translated, refused or named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from steepest._common.callers import callers, owner_of
from steepest._common.errors import invalid
from steepest.optim.choices import SLOTS
from steepest.optim.notices import Notices
from steepest.optim.options import RENAMED, Group, StepOptions


def inside_another(optimizer: torch.optim.Optimizer) -> bool:
    """Whether another optimizer is making this one, and has written into its groups before."""
    owners = (owner_of(frame) for frame in callers())
    return any(isinstance(o, torch.optim.Optimizer) and o is not optimizer for o in owners)


def unwritten(
    groups: list[Any], defaults: Mapping[str, Any], adamw: Mapping[str, Any], notices: Notices
) -> list[Any]:
    """The groups without what an optimizer around this one has written into all of them.

    ZeroRedundancyOptimizer, SAM and their like put their own defaults, which are the constructor's,
    into every group before this optimizer sees them. AdamW's are others.
    """
    keys = [key for key in adamw if key in defaults and not _equal(adamw[key], defaults[key])]
    found = []
    for group in groups:
        written = [
            key
            for key in keys
            if group.get("adamw") and key in group and _equal(group[key], defaults[key])
        ]
        if written:
            notices.written({key: (defaults[key], adamw[key]) for key in written})
        found.append({key: value for key, value in group.items() if key not in written})
    return found


def _equal(a: Any, b: Any) -> bool:
    """Whether two values are the same, without looking at a tensor."""
    return a is b if isinstance(a, Tensor) or isinstance(b, Tensor) else a == b


RECORDS = frozenset(
    (
        *("initial_lr", "max_lr", "min_lr", "base_lr", "swa_lr", "max_momentum", "base_momentum"),
        *("lr_scale", "fallback_lr_scale", "lr_mult", "wd_mult", "decay_mult"),
        *("layer_id", "name", "group_name", "tag", "step"),
    )
)
"""Keys in which schedulers and frameworks keep their own records of a group."""


OPTIONS = StepOptions.__optional_keys__
"""Options of a constructor, which an optimizer around this one writes into every group."""


def translate(group: dict[str, Any]) -> None:
    """Say in this library's keys what groups of other Muons say in theirs."""
    if "use_muon" in group:
        # KellerJordan's Muon has groups for Adam by this key.
        group.setdefault("adamw", not group.pop("use_muon"))
    if "algorithm" in group:
        # Dion's groups name their optimizer.
        name = group.pop("algorithm")
        if name not in ("muon", "adamw"):
            raise invalid("algorithm", name, 'a group is stepped by "muon" or by "adamw" here')
        group.setdefault("adamw", name == "adamw")


def check_keys(group: Mapping[str, Any], own: Set[str], notices: Notices | None) -> None:
    """Refuse keys that mean something to an optimizer and nothing to this one; name the others.

    Args:
        group: A group that is added.
        own: The keys of the optimizer.
        notices: The warnings of the optimizer; None where another one has written keys of its own.

    Raises:
        ValueError: a key of another optimizer, of an older release, or one that is misspelt.
    """
    known = {*own, "params", "param_names", "views", "adamw", "betas", "momentum"}
    known |= {"nesterov", "first_lr", *SLOTS}
    for key, value in group.items():
        if key in RENAMED:
            raise invalid(key, value, f"this key of a group is called {RENAMED[key]} now")
        if key in known or key in RECORDS or key in OPTIONS or value is None or value is False:
            continue
        near = [k for k in get_close_matches(key, known, cutoff=0.8) if abs(len(k) - len(key)) < 3]
        if key in Group.__optional_keys__ or near:
            meant = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(own))}"
            raise invalid(key, value, f"this optimizer has no such value of a group: {meant}")
        if notices is not None:
            notices.unknown(key, value)


def known_keys(groups: Sequence[Mapping[str, Any]]) -> set[str]:
    """The keys that a saved group may have for an optimizer with these groups."""
    return {*Group.__optional_keys__, *RECORDS, *RENAMED, "views", *(k for g in groups for k in g)}
