"""The update rules as functions of tensors: no state, no groups, no names.

The foreach functions of torch (`torch._foreach_*`) are documented but in beta; this is the only
file that calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from steepest._types import real_dtype
from steepest.polar.base import widened

ShapeRule = Literal["original", "match_rms_adamw"] | None


def shape_factor(m: int, n: int, rule: ShapeRule) -> float:
    """The factor of the learning rate for an m × n matrix, m outputs and n inputs.

        "original", None:   √max(1, m/n)
        "match_rms_adamw":  0.2·√max(m, n)

    With the second, a full-rank update has entries of root mean square 0.2, as AdamW's have.

    Example:
        >>> shape_factor(512, 128, "original"), shape_factor(100, 64, "match_rms_adamw")
        (2.0, 2.0)

    Sources:
        torch.optim.Muon, `adjust_lr_fn`; Liu et al., arXiv 2502.16982, section 2.2.
    """
    if rule == "match_rms_adamw":
        return float(0.2 * max(m, n) ** 0.5)
    return float(max(1.0, m / n) ** 0.5)


def finite(grads: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> Tensor:
    """Whether each gradient is finite in the type its average is kept in: a boolean vector.

    A gradient of 1e5 is finite in float32 and would poison a float16 average for ever.
    """
    # The two extremes show NaN and inf in one fast pass; a sum could overflow by itself.
    real = [torch.view_as_real(g.resolve_conj()) if g.is_complex() else g for g in grads]
    pairs = [torch.stack(torch.aminmax(g)) for g in real]
    kept = [p.to(real_dtype(t)) for p, t in zip(pairs, dtypes, strict=True)]
    return torch.stack([torch.isfinite(p).all() for p in kept])


def accumulate(
    grads: Sequence[Tensor],
    buffers: Sequence[Tensor],
    ok: Sequence[Tensor],
    *,
    momentum: float,
    nesterov: bool,
    maximize: bool,
    past: float | None = None,
) -> list[Tensor]:
    """Update the momentum buffers in place and return the directions u to follow.

        u = past·buffer + (1 − past)·grad  with the buffer before this step, if `past` is given
        buffer ← momentum·buffer + (1 − momentum)·grad
        u = momentum·buffer + (1 − momentum)·grad  if nesterov, else buffer

    with −grad for grad under `maximize`. Nesterov's u is that of past = momentum². Where `ok` is
    false the buffer keeps its values and u is the buffer. No gradient is written to. The result is
    new memory, but for the buffers themselves where u is the buffer.
    """
    if maximize:
        grads = torch._foreach_neg(list(grads))
    # A gradient equal to its buffer leaves the average as it is, whatever the weight.
    safe = [
        torch.where(good, g.to(b.dtype), b) for good, g, b in zip(ok, grads, buffers, strict=True)
    ]
    if past is not None:
        ahead = list(torch._foreach_lerp(safe, list(buffers), past))
        torch._foreach_lerp_(list(buffers), safe, 1 - momentum)
        return ahead
    torch._foreach_lerp_(list(buffers), safe, 1 - momentum)
    if not nesterov:
        return list(buffers)
    torch._foreach_lerp_(safe, list(buffers), momentum)
    return safe


def averages_of_one(
    grads: Sequence[Tensor], ok: Sequence[Tensor], dtypes: Sequence[torch.dtype], *, maximize: bool
) -> list[Tensor]:
    """The directions without momentum: the gradients, or zero where `ok` is false; new memory."""
    safe = [
        torch.where(good, g, 0).to(dtype) for good, g, dtype in zip(ok, grads, dtypes, strict=True)
    ]
    return list(torch._foreach_neg(safe)) if maximize else safe


def dualize_stacked(
    matrices: Sequence[Tensor], dualize: Callable[[Tensor], Tensor], *, symmetric: bool = True
) -> Iterator[Tensor]:
    """Apply a duality map to matrices of one shape in one call.

    Args:
        matrices: tensors (batch, m, n), or also (batch, n, m) for a symmetric map; batches may
            differ.
        dualize: maps (batch, m, n) to the same shape.
        symmetric: whether the map commutes with transposition.

    Yields:
        For each input its result, in float32 at least; new memory.
    """
    turned = [symmetric and x.shape[-2] > x.shape[-1] for x in matrices]
    wide = [x.mT if turn else x for turn, x in zip(turned, matrices, strict=True)]
    dtype = widened(wide[0].dtype)
    stack = torch.cat(wide) if len(wide) > 1 else wide[0]
    out = dualize(stack.to(dtype)).split([x.shape[0] for x in wide])
    for turn, y in zip(turned, out, strict=True):
        yield y.mT if turn else y


def descend(param: Tensor, update: Tensor, *, rate: Tensor, weight_decay: float) -> None:
    """W ← (1 − rate·weight_decay)·W − update, in place, rounded once for half precision."""
    # The decay factor of a half-precision weight is not a half-precision number.
    if param.dtype == widened(param.dtype):
        param.mul_(1 - rate * weight_decay).sub_(update)
    else:
        param.copy_(param.to(update.dtype).mul_(1 - rate * weight_decay).sub_(update))


def adamw_update(
    param: Tensor,
    grad: Tensor,
    ok: Tensor,
    *,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    lr: float | Tensor,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    maximize: bool,
) -> None:
    """One AdamW update by torch's functional AdamW; where `ok` is false nothing changes.

    The fused kernel is the one that can skip on the device: it takes the flag as `found_inf`. It
    walks memory without looking at strides, so it gets tensors of one dense layout, and copies
    where they are not.
    """
    tensors = [param, grad, exp_avg, exp_avg_sq]
    if param.is_complex():
        tensors = [torch.view_as_real(t.resolve_conj()) for t in tensors]
    p, g, m, v = tensors if _one_layout(tensors) else [t.contiguous() for t in tensors]
    adamw(
        [p],
        [g],
        [m],
        [v],
        [],
        [step],
        fused=True,
        found_inf=torch.logical_not(ok).to(torch.float32),
        amsgrad=False,
        beta1=betas[0],
        beta2=betas[1],
        lr=lr,
        weight_decay=weight_decay,
        eps=eps,
        maximize=maximize,
    )
    for tensor, updated in zip((tensors[0], *tensors[2:]), (p, m, v), strict=True):
        if updated is not tensor:
            tensor.copy_(updated)


def _one_layout(tensors: Sequence[Tensor]) -> bool:
    """Whether all are contiguous, or all channels-last: the same memory order without gaps."""
    if all(t.is_contiguous() for t in tensors):
        return True
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    memory = formats.get(tensors[0].ndim)
    return memory is not None and all(t.is_contiguous(memory_format=memory) for t in tensors)
