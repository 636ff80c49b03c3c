"""What an optimizer saves, as plain data, and how it is loaded back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steepest._types import invalid
from steepest.optim._groups import Group, momentum_dtype, text_of

if TYPE_CHECKING:
    from steepest.optim.steepest import SteepestOptimizer


def as_text(state: dict[str, Any], objects: tuple[str, ...]) -> dict[str, Any]:
    """A state with the objects of its groups as their text."""
    for group in state["param_groups"]:
        for key in objects:
            if key in group:
                group[key] = text_of(group[key])
    return state


def loadable(optimizer: SteepestOptimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """A saved state with the objects of the optimizer, for torch to load; checked, and a copy.

    Raises:
        ValueError: it was saved with other objects, or holds what no group may hold.
    """
    merged = []
    for i, group in enumerate(saved["param_groups"]):
        own = optimizer.param_groups[i] if i < len(optimizer.param_groups) else {}
        for key in (*optimizer.objects, "rest", "param_names"):
            mine = text_of(own[key]) if key in optimizer.objects and key in own else own.get(key)
            if key in group and key in own and group[key] != mine:
                raise invalid(
                    f"param_groups[{i}][{key!r}]",
                    group[key],
                    f"saved with this, but the optimizer has {mine}: build it with the saved "
                    f"one, or delete {key!r} from the saved group to change it",
                )
        objects = {key: own[key] for key in optimizer.objects if key in own}
        kept = {k: v for k, v in own.items() if k not in ("params", "param_names")}
        merged.append({**kept, **group, **objects})
        if own:
            optimizer._check_group({**merged[-1], "params": own["params"]})
            if not own["rest"]:
                optimizer._check_shapes({**merged[-1], "params": own["params"]})
    # torch would go on to write into the tensors of the checkpoint.
    state = {
        key: {k: v.clone() if isinstance(v, Tensor) else v for k, v in values.items()}
        for key, values in saved["state"].items()
    }
    return {"state": state, "param_groups": merged}


def restore_dtypes(optimizer: SteepestOptimizer, saved: dict[str, Any]) -> None:
    """Put back what torch casts or leaves: a wider momentum, AdamW's step on the host."""
    groups: list[Group] = saved["param_groups"]
    for own, group in zip(optimizer.param_groups, groups, strict=True):
        for p, key in zip(own["params"], group["params"], strict=True):
            buffer = saved["state"].get(key, {}).get("momentum_buffer")
            if buffer is not None:
                dtype = momentum_dtype(own, p)
                optimizer.state[p]["momentum_buffer"] = buffer.to(p.device, dtype, copy=True)
            if own["rest"] and "step" in optimizer.state[p]:
                step = torch.as_tensor(optimizer.state[p]["step"], dtype=torch.float32)
                optimizer.state[p]["step"] = step.to(p.device)
