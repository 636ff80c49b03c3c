"""Sums and maxima along axes, also of tensors of which each process holds a part.

torch leaves a reduction of a DTensor along a sharded axis in parts: every later use adds them up
again, and `bool` and `float` take a part for the whole. And it has no maximum for a process that
holds no entry. The functions here give on each process what the whole tensor gives, by one
collective for each sharded axis of the mesh, and none for a plain tensor.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from steepest._common.numerics import looked_at
from steepest.sharding.layout import is_sharded, sharded_like

Dims = int | tuple[int, ...]


def largest(a: Tensor, dims: Dims) -> Tensor:
    """The largest of magnitudes a ≥ 0 along axes, which stay with length 1; differentiable.

    Examples:
        >>> largest(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), -1)
        tensor([[4.],
                [1.]])
    """
    return reduce_partials(_filled(a, dims).amax(dim=dims, keepdim=True))


def length(a: Tensor, p: float, dims: Dims) -> Tensor:
    """(Σ|a_i|^p)^(1/p) for p < ∞ along axes, which stay with length 1; it may overflow."""
    return reduce_partials(torch.linalg.vector_norm(a, ord=p, dim=dims, keepdim=True))


def total(a: Tensor, dims: Dims | None, *, keepdim: bool = False) -> Tensor:
    """Σ a_i along axes; None stands for all."""
    return reduce_partials(a.sum(dim=dims, keepdim=keepdim))


def all_true(a: Tensor) -> bool | None:
    """Whether every entry is True; it waits for an accelerator.

    None under `torch.func.vmap`, where no value can be looked at.
    """
    return looked_at(reduce_partials(a.all()))


def reduce_partials(x: Tensor) -> Tensor:
    """`x`; where processes hold parts of its entries' sum or maximum, all of it on each."""
    if not is_sharded(x):
        return x
    from torch.distributed.tensor import Replicate

    return x.redistribute(placements=[Replicate() if p.is_partial() else p for p in x.placements])


def redistribute_like(x: Tensor, like: Tensor) -> Tensor:
    """`x`, each process with the part that it has of `like`, a tensor of the same shape."""
    # Where one entry is broadcast, torch keeps an axis of length 1 whole on each process.
    if not (is_sharded(x) and is_sharded(like)):
        return x
    return x.redistribute(placements=like.placements)


def squeezed(x: Tensor, dims: Dims) -> Tensor:
    """`x` without the axes `dims`, which have length 1."""
    # One after the other: torch 2.10 has no rule for a DTensor that loses several.
    for d in sorted(
        {d % x.ndim for d in ((dims,) if isinstance(dims, int) else dims)}, reverse=True
    ):
        x = x.squeeze(d)
    return x


def _filled(a: Tensor, dims: Dims) -> Tensor:
    """`a`, with one 0 on each axis of `dims` along which this process holds nothing."""
    if not is_sharded(a):
        return a
    local = a.to_local()
    axes: Iterable[int] = (dims,) if isinstance(dims, int) else dims
    empty = {d % a.ndim for d in axes if not local.shape[d]}
    if not empty:
        return a
    pad = [side for d in reversed(range(a.ndim)) for side in (0, int(d in empty))]
    return sharded_like(torch.nn.functional.pad(local, pad), a)
