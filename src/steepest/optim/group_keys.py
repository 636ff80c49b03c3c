"""Keys of groups that others have written: translated, refused or named."""

from __future__ import annotations

from collections.abc import Mapping, Set
from difflib import get_close_matches
from typing import Any

from torch import Tensor

from steepest._common.errors import invalid
from steepest.optim.notices import Notices
from steepest.optim.options import RENAMED, Group


def unwritten(
    groups: list[Any], defaults: Mapping[str, Any], adamw: Mapping[str, Any], notices: Notices
) -> list[Any]:
    """The groups without what an optimizer around this one has written into all of them.

    ZeroRedundancyOptimizer, SAM and their like put their own defaults, which are the constructor's,
    into every group before this optimizer sees them. AdamW's are others.
    """
    kinds: dict[bool, list[Any]] = {True: [], False: []}
    for group in groups:
        kinds[bool(group.get("adamw"))].append(group)
    if not all(kinds.values()):
        return groups
    written = {
        key
        for key, value in adamw.items()
        if key in defaults
        and not isinstance(value, Tensor)
        and not isinstance(defaults[key], Tensor)
        and value != defaults[key]
        and all(key in g and g[key] == defaults[key] for g in kinds[False])
    }
    found = []
    for group in groups:
        drop = {key for key in written if group.get("adamw") and group.get(key) == defaults[key]}
        if drop:
            notices.written({key: (defaults[key], adamw[key]) for key in sorted(drop)})
        found.append({key: value for key, value in group.items() if key not in drop})
    return found


RECORDS = frozenset(
    (
        *("initial_lr", "max_lr", "min_lr", "base_lr", "swa_lr", "max_momentum", "base_momentum"),
        *("lr_scale", "fallback_lr_scale", "lr_mult", "wd_mult", "decay_mult"),
        *("layer_id", "name", "group_name", "tag", "step"),
    )
)
"""Keys in which schedulers and frameworks keep their own records of a group."""


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


def check_keys(group: Mapping[str, Any], own: Set[str], notices: Notices) -> None:
    """Refuse keys that mean something to an optimizer and nothing to this one; name the others.

    Args:
        group: A group that is added.
        own: The keys of the optimizer.
        notices: The warnings of the optimizer.

    Raises:
        ValueError: a key of another optimizer, of an older release, or one that is misspelt.
    """
    known = {*own, "params", "param_names", "views", "adamw", "betas", "momentum", "nesterov"}
    for key, value in group.items():
        if key in RENAMED:
            raise invalid(key, value, f"this key of a group is called {RENAMED[key]} now")
        if key in known or key in RECORDS or value is None or value is False:
            continue
        near = get_close_matches(key, known, n=1, cutoff=0.8)
        if key in Group.__optional_keys__ or near:
            meant = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(own))}"
            raise invalid(key, value, f"this optimizer has no such value of a group: {meant}")
        notices.unknown(key, value)
