"""AdamW for the parameters that are not matrices, in the same optimizer."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from steepest._common.numerics import host_value
from steepest.optim.member import local_grad
from steepest.optim.momentum import average_dtype
from steepest.optim.options import Group
from steepest.optim.updates import Flag
from steepest.sharding import local


def step_adamw(
    group: Group, finite: Mapping[Tensor, Flag], states: MutableMapping[Tensor, dict[str, Any]]
) -> None:
    """Take AdamW's step for a group.

    Args:
        group: A group with `adamw=True`.
        finite: Whether the gradient of each parameter that takes part is finite.
        states: The state of the optimizer, which makes an empty one for a new parameter.
    """
    params = [p for p in group["params"] if finite.get(p, False) is not False]
    for p in params:
        if "exp_avg" not in states[p]:
            new_state(p, states)
    # Empty shards take part: their ranks count the steps too, and any rank may save the count.
    if not params:
        return
    own = [states[p] for p in params]
    adamw_update(
        [local(p) for p in params],
        [local_grad(p) for p in params],
        [finite[p] for p in params],
        exp_avgs=[local(state["exp_avg"]) for state in own],
        exp_avg_sqs=[local(state["exp_avg_sq"]) for state in own],
        steps=[state["step"] for state in own],
        lr=group["lr"],
        betas=group["betas"],
        eps=group["eps"],
        weight_decay=group["weight_decay"],
        maximize=group["maximize"],
    )


def new_state(param: Tensor, states: MutableMapping[Tensor, dict[str, Any]]) -> None:
    """Give a parameter the state that AdamW keeps of it, if it has none."""
    state = states[param]
    state.setdefault("step", torch.zeros((), dtype=torch.float32, device=param.device))
    for key in ("exp_avg", "exp_avg_sq"):
        zeros = torch.zeros_like(param, memory_format=torch.preserve_format)
        state.setdefault(key, zeros)


def empty_state(
    param: Tensor, group: Group, states: MutableMapping[Tensor, dict[str, Any]]
) -> None:
    """Give a parameter without elements the state that the others of its group have."""
    if group["adamw"]:
        new_state(param, states)
    elif any(host_value(b) != 0 for b in group.get("betas", (group.get("momentum", 0.0),))):
        dtype = average_dtype(param, group["momentum_dtype"])
        states[param].setdefault("momentum_buffer", torch.zeros_like(param, dtype=dtype))


def adamw_update(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    ok: Sequence[Flag],
    *,
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    lr: float | Tensor,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float | Tensor,
    maximize: bool,
) -> None:
    """One AdamW update of each parameter by torch's functional AdamW, by its fused kernel.

    Where `ok` is false nothing changes: the kernel takes that as `found_inf`, one flag for a call.
    So parameters known to be fine share a call, and a flag on the device makes a call of its own.

    The kernel walks memory without looking at strides, so it gets tensors of one dense layout, and
    copies where they are not.
    """
    real = [
        [torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for t in tensors]
        for tensors in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True)
    ]
    rates = {"beta1": betas[0], "beta2": betas[1], "lr": lr, "weight_decay": weight_decay}
    options: dict[str, Any] = {**rates, "eps": eps, "maximize": maximize, "amsgrad": False}
    if torch.compiler.is_compiling():
        for tensors, step, good in zip(real, steps, ok, strict=True):
            _traced_adamw(tensors, step, good, options)
        return
    dense = [ts if _one_layout(ts) else [t.contiguous() for t in ts] for ts in real]
    known = [i for i, good in enumerate(ok) if not isinstance(good, Tensor)]
    for call in [known] * bool(known) + [[i] for i in range(len(ok)) if i not in known]:
        flag = ok[call[0]]
        found = flag.logical_not().to(torch.float32) if isinstance(flag, Tensor) else None
        p, g, m, v = ([dense[i][k] for i in call] for k in range(4))
        count = [steps[i] for i in call]
        adamw(p, g, m, v, [], count, fused=True, found_inf=found, **options)
    for tensors, updated in zip(real, dense, strict=True):
        for k in (0, 2, 3):
            if updated[k] is not tensors[k]:
                tensors[k].copy_(updated[k])


def _traced_adamw(
    tensors: Sequence[Tensor], step: Tensor, ok: Flag, options: dict[str, Any]
) -> None:
    """The same update under torch.compile, which does not trace fused kernels but makes its own."""
    param, grad, exp_avg, exp_avg_sq = tensors
    old = (param, exp_avg, exp_avg_sq, step)
    new = p, m, v, count = [t.clone() for t in old]
    safe = torch.where(ok, grad, 0) if isinstance(ok, Tensor) else grad
    adamw([p], [safe], [m], [v], [], [count], foreach=False, capturable=True, **options)
    for before, after in zip(old, new, strict=True):
        before.copy_(torch.where(ok, after, before) if isinstance(ok, Tensor) else after)


def _one_layout(tensors: Sequence[Tensor]) -> bool:
    """Whether all are contiguous, or all channels-last: the same memory order without gaps."""
    if all(t.is_contiguous() for t in tensors):
        return True
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    memory = formats.get(tensors[0].ndim)
    return memory is not None and all(t.is_contiguous(memory_format=memory) for t in tensors)
