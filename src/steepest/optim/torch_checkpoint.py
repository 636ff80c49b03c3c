"""Distributed checkpoints of torch's optimizers, read by the names of parameters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import STORAGE_TYPES, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    OptimizerStateType,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.storage import StorageReader

from steepest._common.errors import invalid
from steepest.optim.optimizer import SteepestOptimizer
from steepest.optim.torch_form import restored, without_adamws

Values = dict[str, Any]


def restore(
    model: nn.Module,
    optimizer: SteepestOptimizer,
    source: str | PathLike[str] | StorageReader,
    keys: Sequence[str],
) -> None:
    """Carry out `steepest.load_torch_checkpoint`.

    Args:
        model: The model.
        optimizer: The optimizer, which is changed.
        source: The folder of the checkpoint, or its reader.
        keys: The keys under which states were saved.

    Raises:
        ValueError: as there.
    """
    # torch takes a step that moves nothing to ask an optimizer without a state for its names.
    unstepped = not optimizer.state
    try:
        _restore(model, optimizer, source, keys)
    except BaseException:
        if unstepped:
            optimizer.state.clear()
        raise


def _restore(
    model: nn.Module,
    optimizer: SteepestOptimizer,
    source: str | PathLike[str] | StorageReader,
    keys: Sequence[str],
) -> None:
    told = cast(list[Values], get_optimizer_state_dict(model, optimizer)["param_groups"])
    names = [list(group["params"]) for group in told]
    held = cast(list[Values], optimizer.param_groups)
    params: dict[str, Tensor] = {}
    for group, own in zip(names, held, strict=True):
        params |= zip(group, own["params"], strict=True)
    reader = source if isinstance(source, StorageReader) else FileSystemReader(source)
    saved = _read(reader, keys, params)
    if saved.values.keys().isdisjoint(params):
        there = ", ".join(sorted(saved.values)[:3]) or "no state of an optimizer"
        raise invalid(
            "key",
            ", ".join(keys),
            f"the checkpoint has nothing of {next(iter(params), 'no parameter')} and the others "
            f"there, but {there}: name the key that the state was saved with",
        )
    _check_kinds(saved, names, held)
    groups, kept = [], []
    for place, (group, own) in enumerate(zip(names, held, strict=True)):
        values = _values(place, [name for name in group if name in saved.values], saved)
        kept.append([] if values else restored(own))
        groups.append({**(values or {k: own[k] for k in kept[-1]}), "params": group})
    state = {"state": dict(saved.states), "param_groups": groups}
    set_optimizer_state_dict(model, optimizer, cast(OptimizerStateType, state))
    fresh = [n for n, p in params.items() if p.requires_grad and not saved.states[n]]
    optimizer._notices.in_part(kept, fresh, "The checkpoint has nothing of them")


@dataclass(frozen=True)
class _Saved:
    """The content of a checkpoint, by the names of parameters.

    Args:
        values: The values of the group that a parameter was in.
        states: The state of each parameter of the optimizer, empty if there is none.
    """

    values: Mapping[str, Values]
    states: Mapping[str, Values]


def _read(reader: StorageReader, keys: Sequence[str], params: Mapping[str, Tensor]) -> _Saved:
    """Read the groups that were saved under some keys, and the states of parameters."""
    table = reader.read_metadata().state_dict_metadata
    wanted: dict[str, Any] = {}
    groups: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    states: dict[str, dict[str, str]] = {name: {} for name in params}
    for key in keys:
        start = f"{key}." if key else ""
        for path in (path for path in table if path.startswith(start)):
            part, _, rest = path.removeprefix(start).partition(".")
            where, _, item = rest.rpartition(".")
            if part == "param_groups":
                groups[key, where][item] = path
                wanted[path] = _room(table[path], None)
            elif part == "state" and where in params:
                states[where][item] = path
                wanted[path] = _room(table[path], params[where] if item != "step" else None)
    state_dict_loader.load(wanted, storage_reader=reader)
    values: dict[str, Values] = {}
    for (_, where), paths in groups.items():
        group = {item: wanted[path] for item, path in paths.items()}
        # In the flattened form every parameter has values of its own.
        names = group.pop("params", [where])
        values |= {name: without_adamws(group) for name in names}
    found = {name: {k: wanted[path] for k, path in own.items()} for name, own in states.items()}
    return _Saved(values, found)


def _room(entry: STORAGE_TYPES, like: Tensor | None) -> Tensor | None:
    """Room for an entry: a tensor, laid out like another one; None for other content."""
    if not isinstance(entry, TensorStorageMetadata):
        return None
    dtype = entry.properties.dtype
    if like is None:
        return torch.empty(entry.size, dtype=dtype)
    return torch.empty_like(like, dtype=dtype, requires_grad=False)


def _check_kinds(saved: _Saved, names: Sequence[Sequence[str]], held: Sequence[Values]) -> None:
    """Raise if parameters were stepped by another kind of optimizer than they are here.

    Raises:
        ValueError: they were, or the checkpoint is one of this library.
    """
    for group, own in zip(names, held, strict=True):
        known = {name: saved.values[name] for name in group if name in saved.values}
        if any("adamw" in values for values in known.values()):
            raise invalid(
                "source",
                "a checkpoint of this library",
                "load it with torch.distributed.checkpoint.load and set_optimizer_state_dict",
            )
        needed = "betas" if own["adamw"] else "momentum"
        if wrong := [name for name, values in known.items() if needed not in values]:
            more = f" and {len(wrong) - 3} more" if wrong[3:] else ""
            raise invalid(
                "optimizer",
                f"{', '.join(wrong[:3])}{more}",
                "AdamW's here, and matrices with momentum in the checkpoint: make them matrices by "
                "`overrides`, or by groups"
                if own["adamw"]
                else "matrices here, and the checkpoint has no momentum of them, but the averages "
                "of an optimizer such as AdamW: begin with a new optimizer and the weights of the "
                'checkpoint, or leave them to AdamW by overrides={name: "adamw"}',
            )


def _values(place: int, names: Sequence[str], saved: _Saved) -> Values:
    """The values that the parameters of a group had; none if the checkpoint has none of them.

    Raises:
        ValueError: they had different ones.
    """
    first = saved.values[names[0]] if names else {}
    for name in names[1:]:
        other = saved.values[name]
        for key in sorted(first.keys() | other.keys()):
            a, b = first.get(key), other.get(key)
            if a != b:
                raise invalid(
                    f"param_groups[{place}][{key!r}]",
                    f"{a} of {names[0]}, {b} of {name}",
                    "saved in two groups, and in one here: give them groups of their own, as "
                    "embedding_lr, head_lr and vector_lr do for kinds of parameters",
                )
    return dict(first)
