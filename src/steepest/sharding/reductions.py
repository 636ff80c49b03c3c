"""Sums and maxima along axes, also of tensors of which each process holds a part.

torch leaves a reduction of a DTensor along a sharded axis in parts: every later use adds them up
again, and `bool` and `float` take a part for the whole. And it has no maximum for a process that
holds no entry. The functions here give on each process what the whole tensor gives, by one
collective for each sharded axis of the mesh, and none for a plain tensor. `together` evaluates
several functions made of them with the collectives of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from steepest._common.numerics import looked_at
from steepest.sharding.layout import is_sharded, sharded_as, sharded_like

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor
else:
    DTensor = Tensor

T = TypeVar("T")
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
    if is_sharded(a) and _REPLAY.get() is not None:
        # A sum travels with other sums; torch's partial norm is of a kind of its own.
        return total(a.abs() ** p, dims, keepdim=True) ** (1 / p)
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
    if not is_sharded(x) or not any(p.is_partial() for p in x.placements):
        return x
    replay = _REPLAY.get()
    return _redistributed(x) if replay is None else replay.reduced(x)


def _redistributed(x: DTensor) -> DTensor:
    """`x` without partial placements, by torch's own collectives."""
    return x.redistribute(placements=_whole_placements(x))


def _whole_placements(x: DTensor) -> list[Any]:
    """The placements of `x`, replicated where they are partial."""
    from torch.distributed.tensor import Replicate

    return [Replicate() if p.is_partial() else p for p in x.placements]


class _UnreducedError(Exception):
    """A function has come to a reduction of which the result is not there yet.

    Args:
        partial: The tensor to reduce.
    """

    def __init__(self, partial: DTensor) -> None:
        super().__init__()
        self.partial = partial


@dataclass(eq=False)
class _Replay:
    """The reductions of a function that is evaluated again: those that are there are not repeated.

    Args:
        known: The results, in order.
    """

    known: Sequence[DTensor]
    place: int = 0

    def reduced(self, partial: DTensor) -> DTensor:
        """The result of the next reduction.

        Raises:
            _UnreducedError: it is not there yet.
        """
        if self.place == len(self.known):
            raise _UnreducedError(partial)
        self.place += 1
        return self.known[self.place - 1]


_REPLAY: ContextVar[_Replay | None] = ContextVar("_REPLAY", default=None)
"""The reductions of the function that `together` is evaluating."""


def together(functions: Sequence[Callable[[], T]]) -> list[T]:
    """The results of functions whose reductions over processes are carried out together.

    Each function runs up to its first reduction, then the reductions of all are carried out in one
    collective for each kind and mesh axis, then each runs again with the result to its second one,
    and so on. So a function may be written as if it were alone, and must give the same whenever it
    is called. That costs a few passes over what a process holds, and saves messages: their number
    is that of one function.

    Args:
        functions: Functions without effects, the same on all processes of their meshes.
    """
    if len(functions) == 1 or torch.compiler.is_compiling():
        return [function() for function in functions]
    results: dict[int, T] = {}
    known: list[list[DTensor]] = [[] for _ in functions]
    while len(results) < len(functions):
        waiting: dict[int, DTensor] = {}
        for i, function in enumerate(functions):
            if i in results:
                continue
            token = _REPLAY.set(_Replay(known[i]))
            try:
                results[i] = function()
            except _UnreducedError as reduction:
                waiting[i] = reduction.partial
            finally:
                _REPLAY.reset(token)
        for i, x in zip(waiting, _all_reduce_partials(list(waiting.values())), strict=True):
            known[i].append(x)
    return [results[i] for i in range(len(functions))]


def _all_reduce_partials(xs: Sequence[DTensor]) -> list[DTensor]:
    """`_redistributed` of each, by one all-reduce for each mesh axis, operation and type."""
    from torch.distributed.tensor import Partial

    kinds = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}
    out, parts = list(xs), dict[int, Tensor]()
    for i, x in enumerate(xs):
        partial = [p for p in x.placements if p.is_partial()]
        # Others, such as torch's partial norms, are no plain reductions.
        if all(type(p) is Partial and p.reduce_op in kinds for p in partial):
            parts[i] = x.to_local()
        else:
            out[i] = _redistributed(x)
    for axis in range(max(x.device_mesh.ndim for x in xs) if xs else 0):
        alike: dict[tuple[Any, ...], list[int]] = {}
        for i in parts:
            mesh, placements = xs[i].device_mesh, xs[i].placements
            if axis < mesh.ndim and placements[axis].is_partial():
                operation = getattr(placements[axis], "reduce_op")  # noqa: B009
                alike.setdefault((mesh, operation, xs[i].dtype), []).append(i)
        for (mesh, operation, _), places in alike.items():
            flat = torch.cat([parts[i].reshape(-1) for i in places])
            dist.all_reduce(flat, op=kinds[operation], group=mesh.get_group(axis))
            split = flat.split([parts[i].numel() for i in places])
            for i, found in zip(places, split, strict=True):
                parts[i] = found.view(parts[i].shape)
    for i, part in parts.items():
        out[i] = sharded_as(part, xs[i], _whole_placements(xs[i]), xs[i].shape)
    return out


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
