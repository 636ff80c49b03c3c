"""The groups that AdamW has: parameters that are no matrices, in the same optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from steepest.optim.batching import local_grad
from steepest.optim.groups import Group
from steepest.optim.updates import Flag, adamw_update
from steepest.sharding import local


def step_adamw(
    group: Group, ok: Mapping[Tensor, Flag], states: Mapping[Tensor, dict[str, Any]]
) -> None:
    """Take AdamW's step for a group.

    Args:
        group: with `adamw=True`.
        ok: of each parameter that takes part whether its gradient is finite.
        states: of the optimizer, which makes an empty one for a parameter that has none.
    """
    params = [p for p in group["params"] if ok.get(p, False) is not False]
    for p in params:
        state = states[p]
        if "exp_avg" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = torch.zeros_like(p, memory_format=torch.preserve_format)
    # An empty shard has its state, and nothing to do.
    params = [p for p in params if local(p).numel()]
    if not params:
        return
    own = [states[p] for p in params]
    adamw_update(
        [local(p) for p in params],
        [local_grad(p) for p in params],
        [ok[p] for p in params],
        exp_avgs=[local(state["exp_avg"]) for state in own],
        exp_avg_sqs=[local(state["exp_avg_sq"]) for state in own],
        steps=[state["step"] for state in own],
        lr=group["lr"],
        betas=group["betas"],
        eps=group["eps"],
        weight_decay=group["weight_decay"],
        maximize=group["maximize"],
    )
