"""The update rules as functions of tensors: no state, no groups, no names.

The foreach functions of torch (`torch._foreach_*`) are documented but in beta; this is the only
file that calls them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from steepest._common.errors import invalid
from steepest._common.numerics import HALF, host_value, is_known, real_dtype

ShapeRule = Literal["original", "match_rms_adamw", "spectral_unclamped"] | None
SHAPE_RULES: tuple[ShapeRule, ...] = ("original", "match_rms_adamw", "spectral_unclamped", None)
Decay = Literal["explicit", "implicit", "cautious"]
DECAYS: tuple[Decay, ...] = ("explicit", "implicit", "cautious")

# Measured on two x86-64 cores, for 128 gradients of width 64 and 48 of width 768: milliseconds of
# the Euclidean norms 1.0 and 39, of the extremes 1.4 and 26, of the largest entries 7 and 180.
ONE_THREAD = 2**15
"""Entries up to which torch loops on one thread; there the Euclidean norm is faster to have."""

# Ours. Adam's eps = 1e-8 stands beside averages of the same gradients; this is far below it.
FORGOTTEN = 1e-12
"""Size at which an average is forgotten where the gradient is exactly zero."""

FUSED: dict[str, Any] = {
    "fused": True,
    "momentum": 0.0,
    "dampening": 0.0,
    "nesterov": False,
    "maximize": False,
}
"""Arguments of torch's functional SGD for one pass of its fused kernel."""

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


def average_dtype(param: Tensor, asked: torch.dtype | None) -> torch.dtype:
    """The type of a momentum buffer: as asked for, complex for a complex parameter."""
    dtype = asked or param.dtype
    return dtype.to_complex() if param.is_complex() and not dtype.is_complex else dtype


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


def check_average(group: Mapping[str, Any]) -> None:
    """Raise if a group that has `betas` has another momentum, which would be ignored.

    Raises:
        ValueError: it has.
    """
    for key in ("momentum", "nesterov"):
        if group.get(key):
            raise invalid(
                key,
                group[key],
                f"betas={group['betas']} are the weights of this average: change them instead, and "
                "give a scheduler cycle_momentum=False",
            )


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
    out: Sequence[Tensor],
    *,
    views: Sequence[Splits] | None,
    stacks: Sequence[Tensor],
    momentum: float,
    nesterov: bool,
    maximize: bool,
    betas: tuple[float, float] | None = None,
) -> None:
    """Update the momentum buffers in place and write the averages u to follow.

        buffer ← momentum·buffer + (1 − momentum)·grad
        u = momentum·buffer + (1 − momentum)·grad  if nesterov, else buffer
        u = 0  in an entry where grad is exactly 0 and |u| ≤ 1e-12

    With betas = (β₁, β₂), u = β₁·buffer + (1 − β₁)·grad is made from the buffer before the step,
    and β₂ is its momentum; Nesterov's u is that of β₁ = momentum². Under `maximize`, −grad stands
    for grad. Where a flag is false the buffer stays and is u. Gradients are never written to. The
    last line is about entries, so that it does not matter which rank holds them.

    Args:
        grads: The gradients.
        buffers: The averages, each of the shape of its gradient.
        finite: Whether each gradient is finite.
        out: Tensors for u, one for each part of each gradient; empty if u is not needed.
        views: The view that splits each gradient into parts; None where each is one part.
        stacks: The memory that `out` fills; empty with it.
        momentum: Weight of the buffer in its next value, if there are no `betas`.
        nesterov: Whether u looks one step ahead.
        maximize: Whether to ascend.
        betas: Weights of the buffer in u and in its next value; None for `momentum`.
    """
    if maximize:
        grads = torch._foreach_neg(list(grads))
    # A call that changes no type costs a dispatch, dear where models are small.
    safe = [g if g.dtype == b.dtype else g.to(b.dtype) for g, b in zip(grads, buffers, strict=True)]
    # A gradient equal to its buffer leaves the average as it is, whatever the weight.
    triples = zip(finite, safe, buffers, strict=True)
    safe = [torch.where(ok, g, b) if isinstance(ok, Tensor) else g for ok, g, b in triples]
    if out:
        torch._foreach_copy_(list(out), _parts(safe, views) if views else safe)
    zero = [stack == 0 for stack in stacks]
    if betas is not None:
        ahead, momentum = betas
        _mix(out, buffers, views, ahead)
    torch._foreach_lerp_(list(buffers), safe, 1 - momentum)
    if betas is None and nesterov:
        _mix(out, buffers, views, momentum)
    elif betas is None and out:
        torch._foreach_copy_(list(out), _parts(buffers, views) if views else list(buffers))
    forgotten = max(FORGOTTEN, torch.finfo(buffers[0].dtype).smallest_normal)
    for u, quiet in zip(stacks, zero, strict=True):
        # Most gradients have no zero at all; where looking costs nothing, those are left out.
        if not is_known(quiet) or bool(quiet.any()):
            u.masked_fill_(quiet.logical_and_(u.abs() <= forgotten), 0)


def _mix(
    out: Sequence[Tensor],
    buffers: Sequence[Tensor],
    views: Sequence[Splits] | None,
    weight: float,
) -> None:
    """out ← (1 − weight)·out + weight·buffer, in place."""
    if out:
        pairs = zip(_parts(buffers, views) if views else buffers, out, strict=True)
        ends = [b if b.dtype == u.dtype else b.to(u.dtype) for b, u in pairs]
        torch._foreach_lerp_(list(out), ends, weight)


def without_momentum(
    grads: Sequence[Tensor],
    finite: Sequence[Flag],
    out: Sequence[Tensor],
    *,
    views: Sequence[Splits] | None,
    maximize: bool,
) -> None:
    """Write the averages of one gradient each: the gradients, or zero where a flag is false."""
    if not out:
        return
    pairs = zip(finite, grads, strict=True)
    safe = [torch.where(ok, g, 0) if isinstance(ok, Tensor) else g for ok, g in pairs]
    torch._foreach_copy_(list(out), _parts(safe, views) if views else safe)
    if maximize:
        torch._foreach_neg_(list(out))


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
    wide = [p.float() if p.dtype in HALF else p for p in params]
    if not isinstance(rates, float) or decay != "explicit":
        _descend_one_by_one(wide, updates, rates, lengths, weight_decay, decay)
    else:
        for length in dict.fromkeys(lengths):
            mine = [i for i, other in enumerate(lengths) if other == length]
            targets, moves = [wide[i] for i in mine], [updates[i] for i in mine]
            rate, number = rates * float(length), not isinstance(weight_decay, Tensor)
            types = {x.dtype for x in (*targets, *moves)}
            real = len(types) == 1 and not targets[0].is_complex()
            fusible = real and all(x.is_contiguous() for x in (*targets, *moves))
            if number and length > 0 and fusible:
                # In one pass: SGD decays by lr·λ·W, which is decoupled for λ = weight_decay/length.
                share = float(weight_decay) / float(length)
                sgd(targets, moves, [None] * len(mine), lr=rate, weight_decay=share, **FUSED)
                continue
            if not number or weight_decay != 0:
                torch._foreach_mul_(targets, 1 - rates * weight_decay)
            torch._foreach_add_(targets, moves, alpha=-rate)
    if half := [i for i, p in enumerate(params) if wide[i] is not p]:
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
