"""The update rules as functions of tensors: no state, no groups, no names.

The foreach functions of torch (`torch._foreach_*`) are documented but in beta; this file and
`steepest._common.lists` are the only ones that call them.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate as accumulated
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from steepest._common.errors import invalid
from steepest._common.numerics import HALF, empty, empty_like, host_value, is_known, real_dtype
from steepest.optim.choices import DECAYS, Decay

# Measured on two x86-64 cores, for 128 gradients of width 64 and 48 of width 768: milliseconds of
# the Euclidean norms 1.0 and 39, of the extremes 1.4 and 26, of the largest entries 7 and 180.
ONE_THREAD = 2**15
"""Entries up to which torch loops on one thread; there the Euclidean norm is faster to have."""

# Measured on two x86-64 cores with 1 MiB of cache each.
RATIOS = 2**21
"""Bytes of gradients that are divided by themselves at a time."""

EXACT_ONES = 2**24
"""Ones whose sum is exact in single precision, in any order."""

# Ours. Adam's eps = 1e-8 stands beside averages of the same gradients; this is far below it.
FORGOTTEN = 1e-12
"""Size at which an average is forgotten where the gradient is exactly zero."""

ONE_PASS: dict[str, Any] = {"momentum": 0.0, "dampening": 0.0, "nesterov": False, "maximize": False}
"""Arguments of torch's functional SGD, fused, for one pass over the weights."""

Flag = Tensor | bool
"""Whether a gradient is finite: on its device, or as a boolean where that is known."""


def check_decay(lr: float | Tensor, weight_decay: float | Tensor, decay: Decay) -> None:
    """Raise if a step would decay weights past zero, unless to know it waits for a device.

    Raises:
        ValueError: `lr·weight_decay` is above 1, and the decay not implicit; or another kind of
            decay.
    """
    if decay not in DECAYS:
        raise invalid("decay", decay, 'give "explicit", "implicit" or "cautious"')
    rate = lr if isinstance(lr, float) else host_value(lr)
    shrink = weight_decay if isinstance(weight_decay, float) else host_value(weight_decay)
    if decay != "implicit" and rate * shrink > 1:
        raise invalid(
            "weight_decay",
            shrink,
            f"with lr={rate:g} a step would decay weights past zero: keep lr·weight_decay at most "
            '1, or take decay="implicit", which never does',
        )


def finite_flags(grads: Sequence[Tensor], dtype: torch.dtype) -> list[Flag]:
    """Whether each gradient is finite in the type that its average is kept in.

    A gradient of 1e5 is finite in float32 and would poison a float16 average for ever. Flags are
    booleans where looking costs nothing, in the memory of the host, else tensors of the device.
    """
    real = [torch.view_as_real(g.resolve_conj()) if g.is_complex() else g for g in grads]
    if not is_known(real[0]):
        largest = torch._foreach_norm(real, float("inf"))
        return list(torch.isfinite(torch.stack(largest).to(dtype)).unbind())
    good: list[Flag] = [False] * len(real)
    # No entry exceeds the Euclidean norm; its squares may overflow where no entry does.
    if short := [i for i, g in enumerate(real) if g.numel() <= ONE_THREAD]:
        norms = torch.stack(torch._foreach_norm([real[i] for i in short])).to(dtype)
        for i, fine in zip(short, torch.isfinite(norms).tolist(), strict=True):
            good[i] = fine
    for i, fine in enumerate(good):
        if not fine:
            good[i] = bool(torch.isfinite(torch.stack(torch.aminmax(real[i])).to(dtype)).all())
    return good


def judged(
    grads: Sequence[Tensor], dtype: torch.dtype, limit: int | None
) -> tuple[list[Flag], list[int]]:
    """Whether each gradient is finite, and the places of those of which an entry may be zero.

    Over itself every entry is 1, but for zeros, NaN and inf. That costs less than to look for
    either; only in the memory of the host.

    Args:
        grads: The gradients.
        dtype: The type that their averages are kept in.
        limit: Bytes of gradients that are divided at a time; None for `RATIOS`.
    """
    known = is_known(grads[0]) and not dtype.is_complex
    most = max(1, (limit or RATIOS) // dtype.itemsize)
    # A shard may be empty.
    flags: list[Flag] = [known and g.dtype == dtype and g.numel() > 0 for g in grads]
    flat = [(i, grads[i].reshape(-1)) for i, fits in enumerate(flags) if fits]
    # `len` of a tensor takes ten times as long as `numel`.
    pieces = [(i, p) for i, x in flat for p in (x.split(most) if x.numel() > most else (x,))]
    lengths = [p.numel() for _, p in pieces]
    while pieces:
        count = bisect(list(accumulated(lengths)), most)
        some, pieces = pieces[:count], pieces[count:]
        sizes, lengths = lengths[:count], lengths[count:]
        entries = [p for _, p in some]
        ratios = empty((sum(sizes),), entries[0])
        if len(entries) * ONE_THREAD > sum(sizes):
            torch.cat(entries, out=ratios).div_(ratios)
        else:  # long ones are worth a call each
            for entry, part in zip(entries, ratios.split(sizes), strict=True):
                torch.div(entry, entry, out=part)
        # A sum takes half as long as a maximum, and of so many ones it is exact.
        summed = sum(sizes) <= EXACT_ONES and dtype not in HALF
        if float(ratios.sum()) == sum(sizes) if summed else float(ratios.max()) == 1:
            continue
        tops = torch._foreach_max(ratios.split(sizes))
        for (i, _), top in zip(some, torch.stack(tops).tolist(), strict=True):
            flags[i] = flags[i] and top == 1
    rest = [i for i, good in enumerate(flags) if not good]
    found = finite_flags([grads[i] for i in rest], dtype) if rest else []
    for i, flag in zip(rest, found, strict=True):
        flags[i] = flag
    return flags, rest


class Splits(Protocol):
    """An object that reads a tensor as the tensors that a norm measures."""

    def split(self, x: Tensor) -> list[Tensor]:
        """The parts of a tensor; views of its memory where its layout allows it."""


def _parts(tensors: Sequence[Tensor], views: Sequence[Splits]) -> list[Tensor]:
    """The parts of all tensors, one after the other."""
    return [part for view, x in zip(views, tensors, strict=True) for part in view.split(x)]


def accumulate(
    grads: Sequence[Tensor],
    buffers: Sequence[Tensor],
    finite: Sequence[Flag],
    out: Sequence[Tensor] | None,
    *,
    views: Sequence[Splits] | None,
    stacks: Sequence[Tensor],
    dtype: torch.dtype | None,
    momentum: float,
    nesterov: bool,
    maximize: bool,
    betas: tuple[float, float] | None = None,
    zeros: Sequence[int],
) -> list[Tensor]:
    """Update the momentum buffers in place; write, or make, the averages u to follow.

        buffer ← momentum·buffer + (1 − momentum)·grad
        u = momentum·buffer + (1 − momentum)·grad  if nesterov, else buffer
        u = 0  in an entry where grad is exactly 0 and |u| ≤ 1e-12

    With betas = (β₁, β₂), u = β₁·buffer + (1 − β₁)·grad is made from the buffer before the step,
    whose momentum is β₂; Nesterov's u is that of β₁ = momentum². `maximize` takes −grad for grad.
    Where a flag is false the buffer stays and is u. Gradients are never written to.

    Args:
        grads: The gradients.
        buffers: The averages, each of the shape of its gradient.
        finite: Whether each gradient is finite.
        out: Tensors for u, one for each part of each gradient; empty if u is not needed. None for
            u in memory of its own, only to be read: where u is the buffer, that of the buffer.
        views: The view that splits each gradient into parts; None where each is one part.
        stacks: The memory that `out` fills; empty with it.
        dtype: Type of u in memory of its own; None with `out`.
        momentum: Weight of the buffer in its next value, if there are no `betas`.
        nesterov: Whether u looks one step ahead.
        maximize: Whether to ascend.
        betas: Weights of the buffer in u and in its next value; None for `momentum`.
        zeros: The places of the gradients of which an entry may be zero.
    """
    grads = torch._foreach_neg(list(grads)) if maximize else grads
    safe = [g if g.dtype == b.dtype else g.to(b.dtype) for g, b in zip(grads, buffers, strict=True)]
    safe = _held(safe, buffers, finite) if any(isinstance(k, Tensor) for k in finite) else safe
    us, starts = safe if out is None else list(out), _parts(safe, views) if views else safe
    if out and zeros:
        torch._foreach_copy_(us, starts)
    sizes = [_sizes(stack) for stack in stacks] if zeros else []
    ahead, momentum = betas or (momentum, momentum)
    if betas is not None:
        us = _mixed(us, us if zeros else starts, buffers, views, ahead, dtype)
    torch._foreach_lerp_(list(buffers), safe, 1 - momentum)
    if betas is None and nesterov:
        us = _mixed(us, us if zeros else starts, buffers, views, momentum, dtype)
    elif betas is None and out is None:
        us = [b if b.dtype == dtype else b.to(dtype) for b in buffers]
    elif betas is None and out:
        torch._foreach_copy_(us, _parts(buffers, views) if views else list(buffers))
    if zeros:
        _forget(us, safe, zeros, stacks, sizes, buffers[0].dtype)
    return us


def _held(
    safe: Sequence[Tensor], buffers: Sequence[Tensor], finite: Sequence[Flag]
) -> list[Tensor]:
    """The gradients; the buffer where a flag is false, which leaves it as it is at any weight."""
    triples = zip(finite, safe, buffers, strict=True)
    return [torch.where(ok, g, b) if isinstance(ok, Tensor) else g for ok, g, b in triples]


def _forget(
    us: list[Tensor],
    safe: Sequence[Tensor],
    zeros: Sequence[int],
    stacks: Sequence[Tensor],
    sizes: Sequence[Tensor],
    dtype: torch.dtype,
) -> None:
    """Set the averages to zero that are forgotten: in their stacks, or else one by one."""
    for u, size in zip(stacks, sizes, strict=True):
        if (quiet := _forgotten(u, size, dtype)) is not None:
            u.masked_fill_(quiet, 0)
    for i in () if stacks else zeros:
        if us and (quiet := _forgotten(us[i], safe[i].abs(), dtype)) is not None:
            us[i] = us[i].masked_fill(quiet, 0)


def _sizes(x: Tensor) -> Tensor:
    """The absolute values of the entries."""
    return torch.abs(x, out=empty_like(x)) if is_known(x) and not x.is_complex() else x.abs()


def _forgotten(u: Tensor, size: Tensor, dtype: torch.dtype) -> Tensor | None:
    """A mask of the entries of averages kept in a type that are forgotten; None if there is none.

    Args:
        u: The averages.
        size: The absolute values of the gradients.
        dtype: The type.
    """
    most, own = max(FORGOTTEN, float(torch.finfo(dtype).smallest_normal)), _sizes(u)
    # torch compares numbers ten times as slowly as it finds the smallest one.
    if is_known(u):
        larger = torch.maximum(size, own, out=empty_like(own))
        if not u.numel() or bool(larger.amin() > most):
            return None
    return (size == 0).logical_and_(own <= most)


def _mixed(
    us: list[Tensor],
    starts: Sequence[Tensor],
    buffers: Sequence[Tensor],
    views: Sequence[Splits] | None,
    weight: float,
    dtype: torch.dtype | None,
) -> list[Tensor]:
    """(1 − weight)·start + weight·buffer, into u; or in fresh memory of a type that is said."""
    if not us:
        return us
    pairs = zip(_parts(buffers, views) if views else buffers, us, strict=True)
    ends = [b if b.dtype == (dtype or u.dtype) else b.to(dtype or u.dtype) for b, u in pairs]
    if dtype is not None:
        return list(torch._foreach_lerp([u.to(dtype) for u in us], ends, weight))
    if not all(map(is_known, us)):
        if starts is not us:
            torch._foreach_copy_(us, list(starts))
        torch._foreach_lerp_(us, ends, weight)
        return us
    # torch loops over lists as well on a CPU.
    for u, start, end in zip(us, starts, ends, strict=True):
        torch.lerp(start if start.dtype == u.dtype else start.to(u.dtype), end, weight, out=u)
    return us


def without_momentum(
    grads: Sequence[Tensor],
    finite: Sequence[Flag],
    out: Sequence[Tensor] | None,
    *,
    views: Sequence[Splits] | None,
    dtype: torch.dtype | None,
    maximize: bool,
) -> list[Tensor]:
    """Write, or make, the averages of one gradient each: the gradients, zero where a flag is false.

    The arguments are those of `accumulate`; made, they may be the gradients themselves.
    """
    if out is not None and not out:
        return []
    pairs = zip(finite, grads, strict=True)
    us = [torch.where(ok, g, 0) if isinstance(ok, Tensor) else g for ok, g in pairs]
    if out is None:
        us = [u if u.dtype == dtype else u.to(dtype) for u in us]
        return list(torch._foreach_neg(us)) if maximize else us
    torch._foreach_copy_(list(out), _parts(us, views) if views else us)
    if maximize:
        torch._foreach_neg_(list(out))
    return list(out)


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
        params: The weights W.
        updates: The directions, of the shapes of the weights, in float32 at least.
        rates: Learning rates, a number on the device for each W; or one number for all, and then
            the lengths are numbers as well.
        lengths: Factors of the updates.
        weight_decay: The decay over the learning rate.
        decay: The kind of decay.

    Sources:
        Cautious decay: Chen et al., arXiv 2510.12402.
    """
    # The decay factor of a half-precision weight is not a half-precision number.
    half, wide = [i for i, p in enumerate(params) if p.dtype in HALF], list(params)
    for i in half:
        wide[i] = params[i].float()
    if not isinstance(rates, float) or decay != "explicit":
        _descend_one_by_one(wide, updates, rates, lengths, weight_decay, decay)
    else:
        for length in (kinds := dict.fromkeys(lengths)):
            every = range(len(lengths))
            mine = every if len(kinds) == 1 else [i for i in every if lengths[i] == length]
            targets, moves = [wide[i] for i in mine], [updates[i] for i in mine]
            rate, decays = rates * float(length), isinstance(weight_decay, Tensor) or weight_decay
            if decays and length > 0 and not isinstance(weight_decay, Tensor):
                types = {x.dtype for x in (*targets, *moves)}
                real = len(types) == 1 and not targets[0].is_complex()
                if real and all(x.is_contiguous() for x in (*targets, *moves)):
                    # In one pass: SGD decays by lr·λ·W, decoupled for λ = weight_decay/length.
                    share = float(weight_decay) / float(length)
                    own: dict[str, Any] = {"lr": rate, "weight_decay": share, "fused": True}
                    sgd(targets, moves, [None] * len(mine), **own, **ONE_PASS)
                    continue
            if decays:
                torch._foreach_mul_(targets, 1 - rates * weight_decay)
            torch._foreach_add_(targets, moves, alpha=-rate)
    if half:
        torch._foreach_copy_([params[i] for i in half], [wide[i] for i in half])


def _descend_one_by_one(
    params: list[Tensor],
    updates: Sequence[Tensor],
    rates: Sequence[Tensor] | float,
    lengths: Sequence[Tensor | float],
    weight_decay: float | Tensor,
    decay: Decay,
) -> None:
    """`descend` in the type of the parameters, each with a rate on its device."""
    if isinstance(rates, float):
        rates = [u.new_full((), rates, dtype=real_dtype(u.dtype)) for u in updates]
    decays = isinstance(weight_decay, Tensor) or weight_decay != 0
    shrink = torch._foreach_mul(list(rates), weight_decay)
    if decays and decay == "explicit":
        torch._foreach_mul_(params, [1 - s for s in shrink])
    elif decays and decay == "cautious":
        inward = [_towards_zero(u, w) for u, w in zip(updates, params, strict=True)]
        torch._foreach_mul_(params, [1 - s * i for s, i in zip(shrink, inward, strict=True)])
    scales = [-rate * length for rate, length in zip(rates, lengths, strict=True)]
    torch._foreach_addcmul_(params, list(updates), scales)
    if decays and decay == "implicit":
        torch._foreach_div_(params, [1 + s for s in shrink])


def _towards_zero(update: Tensor, weight: Tensor) -> Tensor:
    """A mask of Re conj(update)·weight ≥ 0: descending makes the entry smaller, or it is zero."""
    product = update.conj() * weight
    return (product.real if product.is_complex() else product) >= 0


def replace(params: Sequence[Tensor], values: Sequence[Tensor], ok: Sequence[Flag]) -> None:
    """W ← value where `ok`, in place, rounded to the type of W."""
    pairs = zip(ok, values, params, strict=True)
    torch._foreach_copy_(
        list(params), [torch.where(o, v, p) if isinstance(o, Tensor) else v for o, v, p in pairs]
    )
