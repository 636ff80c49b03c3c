"""The update rules as functions of tensors: no state, no groups, no names.

The foreach functions of torch (`torch._foreach_*`) are documented but in beta; this is the only
file that calls them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from steepest._common.numerics import is_known, real_dtype, widened

ShapeRule = Literal["original", "match_rms_adamw", "spectral_unclamped"] | None
SHAPE_RULES: tuple[ShapeRule, ...] = ("original", "match_rms_adamw", "spectral_unclamped", None)
Decay = Literal["explicit", "implicit", "cautious"]

# Measured on two x86-64 cores, for 128 gradients of width 64 and 48 of width 768: milliseconds of
# the Euclidean norms 1.0 and 39, of the extremes 1.4 and 26, of the largest entries 7 and 180.
ONE_THREAD = 2**15
"""Entries up to which torch loops on one thread; there the Euclidean norm is faster to have."""

# Ours. Adam's eps = 1e-8 stands beside averages of the same gradients; this is far below it.
FORGOTTEN = 1e-12
"""Size at which an average is forgotten where the gradient is exactly zero."""

Flag = Tensor | bool
"""Whether a gradient is finite: on its device, or as a boolean where that is known."""


def shape_factor(m: int, n: int, rule: ShapeRule) -> float:
    """The factor of the learning rate for an m × n matrix, m outputs and n inputs.

        "original", None:      √max(1, m/n)
        "match_rms_adamw":     0.2·√max(m, n)
        "spectral_unclamped":  √(m/n)

    With the second, a full-rank update has entries of root mean square 0.2, as AdamW's have. With
    the third its RMS → RMS norm is 1: the factor of `norms.Operator("rms", "rms")`.

    Examples:
        >>> shape_factor(512, 128, "original"), shape_factor(100, 64, "match_rms_adamw")
        (2.0, 2.0)

    Sources:
        torch.optim.Muon, `adjust_lr_fn` (the third since torch 2.14); Liu et al., arXiv 2502.16982,
        section 2.2; Bernstein & Newhouse, arXiv 2410.21265.
    """
    if rule == "match_rms_adamw":
        return float(0.2 * max(m, n) ** 0.5)
    return float((m / n if rule == "spectral_unclamped" else max(1.0, m / n)) ** 0.5)


def finite(grads: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> Tensor:
    """Whether each gradient is finite in the type its average is kept in: a boolean vector.

    A gradient of 1e5 is finite in float32 and would poison a float16 average for ever.
    """
    real = [torch.view_as_real(g.resolve_conj()) if g.is_complex() else g for g in grads]
    kept = [real_dtype(dtype) for dtype in dtypes]
    if not is_known(real[0]):
        return _representable(torch._foreach_norm(real, float("inf")), kept)
    good = torch.zeros(len(real), dtype=torch.bool)
    # No entry exceeds the Euclidean norm; its squares may overflow where no entry does.
    if short := [i for i, g in enumerate(real) if g.numel() <= ONE_THREAD]:
        norms = torch._foreach_norm([real[i] for i in short])
        good[short] = _representable(norms, [kept[i] for i in short])
    if unseen := [i for i, fine in enumerate(good.tolist()) if not fine]:
        extremes = [torch.stack(torch.aminmax(real[i])) for i in unseen]
        good[unseen] = _representable(extremes, [kept[i] for i in unseen]).all(1)
    return good


def _representable(values: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> Tensor:
    """Whether each value, or vector of them, is finite in its type."""
    every = torch.stack(list(values))
    good = {dtype: torch.isfinite(every.to(dtype)) for dtype in dict.fromkeys(dtypes)}
    if len(good) == 1:
        return good[dtypes[0]]
    return torch.stack([good[dtype][i] for i, dtype in enumerate(dtypes)])


def looked_at(flags: Tensor) -> list[Flag]:
    """Flags as booleans where looking costs nothing, in the memory of the host, else as tensors."""
    return flags.tolist() if is_known(flags) else list(flags.unbind())


class Splits(Protocol):
    """What reads a tensor as the tensors that a norm measures."""

    def cut(self, x: Tensor) -> list[Tensor]:
        """The parts of a tensor; views of its memory where its layout allows it."""


def _parts(tensors: Sequence[Tensor], views: Sequence[Splits] | None) -> list[Tensor]:
    """The parts of all tensors, one after the other; the tensors themselves without views."""
    if views is None:
        return list(tensors)
    return [part for view, x in zip(views, tensors, strict=True) for part in view.cut(x)]


def accumulate(
    grads: Sequence[Tensor],
    buffers: Sequence[Tensor],
    ok: Sequence[Flag],
    out: Sequence[Tensor],
    *,
    views: Sequence[Splits] | None,
    stacks: Sequence[Tensor],
    momentum: float,
    nesterov: bool,
    maximize: bool,
    past: float | None = None,
) -> None:
    """Update the momentum buffers in place and write the directions u to follow.

        u = past·buffer + (1 − past)·grad  with the buffer before this step, if `past` is given
        buffer ← momentum·buffer + (1 − momentum)·grad
        u = momentum·buffer + (1 − momentum)·grad  if nesterov, else buffer

        u = 0  in an entry where grad is exactly 0 and |u| ≤ 1e-12

    with −grad for grad under `maximize`. Nesterov's u is that of past = momentum². Where `ok` is
    false the buffer keeps its values and u is the buffer. No gradient is written to.

    The last line, which lets a parameter come to rest whose gradient has become zero for good, is
    about entries, so that it does not matter which rank holds them.

    Args:
        grads: gradients.
        buffers: the averages, each of the shape of its gradient.
        ok: whether each gradient is finite.
        out: tensors for u, each of the shape of a part of it; empty if no one asks for u.
        views: the view of each gradient, which cuts it into parts; None where each is one part.
        stacks: the memory that `out` fills; empty with it.
        momentum: weight of the past.
        nesterov: whether u looks one step ahead.
        maximize: whether to ascend.
        past: weight of the buffer in u.
    """
    if maximize:
        grads = torch._foreach_neg(list(grads))
    # A gradient equal to its buffer leaves the average as it is, whatever the weight.
    safe = [_where(o, _as(g, b.dtype), b) for o, g, b in zip(ok, grads, buffers, strict=True)]

    def mix(weight: float) -> None:
        pairs = zip(_parts(buffers, views), out, strict=True)
        torch._foreach_lerp_(list(out), [_as(b, u.dtype) for b, u in pairs], weight)

    if out:
        torch._foreach_copy_(list(out), _parts(safe, views))
    zero = [stack == 0 for stack in stacks]
    if past is not None and out:
        mix(past)
    torch._foreach_lerp_(list(buffers), safe, 1 - momentum)
    if past is None and nesterov and out:
        mix(momentum)
    elif past is None and out:
        torch._foreach_copy_(list(out), _parts(buffers, views))
    _forget(stacks, zero, max(FORGOTTEN, torch.finfo(buffers[0].dtype).smallest_normal))


def _forget(averages: Sequence[Tensor], zero: Sequence[Tensor], size: float) -> None:
    """Set entries up to a size to 0 where the gradient is zero, in place."""
    for u, quiet in zip(averages, zero, strict=True):
        # Most gradients have no zero at all; where looking costs nothing, the rest is left out.
        if not is_known(quiet) or bool(quiet.any()):
            u.masked_fill_(quiet.logical_and_(u.abs() <= size), 0)


def averages_of_one(
    grads: Sequence[Tensor],
    ok: Sequence[Flag],
    out: Sequence[Tensor],
    *,
    views: Sequence[Splits] | None,
    maximize: bool,
) -> None:
    """Write the directions without momentum: the gradients, or zero where `ok` is false."""
    if not out:
        return
    safe = [_where(o, g, 0) for o, g in zip(ok, grads, strict=True)]
    torch._foreach_copy_(list(out), _parts(safe, views))
    if maximize:
        torch._foreach_neg_(list(out))


def _as(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in a type; the call that changes nothing would be the dearest part of many a step."""
    return x if x.dtype == dtype else x.to(dtype)


def _where(ok: Flag, value: Tensor, other: Tensor | float) -> Tensor:
    """`value` where `ok`; itself where that is known, without a copy."""
    return torch.where(ok, value, other) if isinstance(ok, Tensor) else value


def descend(
    params: Sequence[Tensor],
    updates: Sequence[Tensor],
    *,
    rates: Sequence[Tensor] | float,
    lengths: Sequence[Tensor | float],
    weight_decay: float | Tensor,
    decay: Decay = "explicit",
) -> None:
    """Decay the weights and move them, in place, rounded once.

        explicit:  W ← (1 − rate·weight_decay)·W − rate·length·update
        implicit:  W ← (W − rate·length·update) / (1 + rate·weight_decay)
        cautious:  W ← (1 − rate·weight_decay·[update·W ≥ 0])·W − rate·length·update

    Implicit decay is explicit decay of the weights after the step. Cautious decay leaves the
    entries alone that the update drives away from zero.

    Args:
        params: the W.
        updates: of their shapes, in float32 at least.
        rates: learning rates, a number on the device for each W; or one number and float lengths.
        lengths: of the updates.
        weight_decay: the decay.
        decay: its kind.

    Sources:
        Cautious decay: Chen et al., arXiv 2510.12402.
    """
    # The decay factor of a half-precision weight is not a half-precision number.
    wide = [_as(p, widened(p.dtype)) for p in params]
    if isinstance(rates, float) and decay == "explicit":
        for length in dict.fromkeys(lengths):
            mine = [i for i, other in enumerate(lengths) if other == length]
            targets, moves = [wide[i] for i in mine], [updates[i] for i in mine]
            _descend_alike(targets, moves, rates, float(length), weight_decay)
    else:
        if isinstance(rates, float):
            rates = [u.new_full((), rates, dtype=real_dtype(u.dtype)) for u in updates]
        decays = isinstance(weight_decay, Tensor) or weight_decay != 0
        shrink = torch._foreach_mul(list(rates), weight_decay)
        if decays and decay == "explicit":
            torch._foreach_mul_(wide, [1 - s for s in shrink])
        elif decays and decay == "cautious":
            inward = [_towards_zero(u, w) for u, w in zip(updates, wide, strict=True)]
            torch._foreach_mul_(wide, [1 - s * i for s, i in zip(shrink, inward, strict=True)])
        scales = [-rate * length for rate, length in zip(rates, lengths, strict=True)]
        torch._foreach_addcmul_(wide, list(updates), scales)
        if decays and decay == "implicit":
            torch._foreach_div_(wide, [1 + s for s in shrink])
    if half := [i for i, p in enumerate(params) if wide[i] is not p]:
        torch._foreach_copy_([params[i] for i in half], [wide[i] for i in half])


def replace(params: Sequence[Tensor], values: Sequence[Tensor], ok: Sequence[Flag]) -> None:
    """W ← value where `ok`, in place, rounded to the type of W."""
    pairs = zip(ok, values, params, strict=True)
    torch._foreach_copy_(list(params), [_where(o, v, p) for o, v, p in pairs])


def _towards_zero(update: Tensor, weight: Tensor) -> Tensor:
    """Where Re conj(update)·weight ≥ 0: descending makes the entry smaller, or it is zero."""
    product = update.conj() * weight
    return (product.real if product.is_complex() else product) >= 0


def _descend_alike(
    params: list[Tensor],
    updates: list[Tensor],
    rate: float,
    length: float,
    weight_decay: float | Tensor,
) -> None:
    """`descend` with one rate and one length, in the type of the parameters.

    In one pass where memory allows it: SGD decays by lr·λ·W with lr = rate·length, so that
    λ = weight_decay/length is decoupled decay.
    """
    number = not isinstance(weight_decay, Tensor)
    if number and length > 0 and all(map(_fusible, params, updates)):
        sgd(
            params,
            updates,
            [None] * len(params),
            fused=True,
            lr=rate * length,
            weight_decay=float(weight_decay) / length,
            momentum=0.0,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        return
    if not number or weight_decay != 0:
        torch._foreach_mul_(params, 1 - rate * weight_decay)
    torch._foreach_add_(params, updates, alpha=-rate * length)


def _fusible(param: Tensor, update: Tensor) -> bool:
    """Whether the fused kernel takes them: real, of one type, in one order of memory."""
    alike = param.dtype == update.dtype and not param.is_complex()
    return alike and param.is_contiguous() and update.is_contiguous()


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
    weight_decay: float,
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
    safe = _where(ok, grad, 0)
    adamw([p], [safe], [m], [v], [], [count], foreach=False, capturable=True, **options)
    for before, after in zip(old, new, strict=True):
        before.copy_(_where(ok, after, before))


def _one_layout(tensors: Sequence[Tensor]) -> bool:
    """Whether all are contiguous, or all channels-last: the same memory order without gaps."""
    if all(t.is_contiguous() for t in tensors):
        return True
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    memory = formats.get(tensors[0].ndim)
    return memory is not None and all(t.is_contiguous(memory_format=memory) for t in tensors)
