"""The way of a gradient through the step: momentum, matrices, duality map, update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from steepest._common.errors import shape_text
from steepest._common.numerics import is_known, real_dtype, widened
from steepest.norms import Norm
from steepest.optim.updates import Decay, Flag, descend
from steepest.sharding import local, local_like
from steepest.views import LINEAR, MatrixView

T = TypeVar("T")

# Measured on two x86-64 cores: a copy to the transpose takes four times as long as a copy for
# 64 × 256, twenty times for 768 × 3072. One stack less is worth that only below this size.
PAIRED_ENTRIES = 2**12
"""Largest matrix in the memory of the host that is stacked with its transposed shape."""

HOST_STACK, DEVICE_STACK = 2**24, 2**29
"""Default bounds on a stack, in bytes."""


@dataclass(eq=False)
class Item:
    """A parameter that takes part in steps: what does not change from one to the next.

    Args:
        param: the parameter; a DTensor if it is sharded.
        dtype: type of its momentum.
        view: the body as matrices; None for a norm that takes the tensor as it is.
        symmetric: whether the norm does not mind transposed matrices.
        body: what the norm measures, for its shape, its order in memory and its device: the
            parameter, the part of it that lies on this rank, or a tensor like the whole.
    """

    param: Tensor
    dtype: torch.dtype
    view: MatrixView | None
    symmetric: bool
    body: Tensor

    shapes: list[tuple[int, int, int]] = field(init=False)
    """(batch, rows, columns) of its matrices."""
    sizes: tuple[tuple[int, int], ...] = field(init=False)
    """Rows and columns of its matrices in a stack."""
    whole: bool = field(init=False)
    """Whether the body as it is, without a batch, is what the norm measures."""
    turned: list[bool] = field(init=False)
    """Which of its matrices are transposed in a stack: see `_turned`."""

    def __post_init__(self) -> None:
        self.whole = self.view is None or self.view == LINEAR
        self.shapes = self.view.shapes(self.body.shape) if self.view else []
        turn = self.symmetric and self.view is not None
        self.turned = self._turned() if turn else [False] * len(self.shapes)
        pairs = zip(self.turned, self.shapes, strict=True)
        self.sizes = tuple((n, m) if turn else (m, n) for turn, (_, m, n) in pairs)

    def _turned(self) -> list[bool]:
        """Tall ones where a pair of transposed shapes is worth one stack, else as memory has them.

        Columns that are dense in memory become rows.
        """
        if self.body.device.type != "cpu" or self.body.numel() <= PAIRED_ENTRIES:
            return [m > n for _, m, n in self.shapes]
        return [part.stride(-2) < part.stride(-1) for part in self.cut(self.body)]

    @property
    def local(self) -> Tensor:
        """What of the parameter lies on this rank: what a step changes."""
        return local(self.param)

    @property
    def grad(self) -> Tensor:
        """The gradient of `local` in this step."""
        return local_grad(self.param)

    @property
    def parts(self) -> int:
        """How many tensors `cut` makes of it."""
        return len(self.shapes) if self.view else 1

    @property
    def nbytes(self) -> int:
        """Size of its matrices in a stack, which is in float32 at least."""
        return self.body.numel() * max(4, self.dtype.itemsize)

    @property
    def work(self) -> torch.dtype:
        """Real type of the arithmetic: a Python float would take torch's default type."""
        return real_dtype(widened(self.dtype))

    def cut(self, x: Tensor) -> list[Tensor]:
        """A tensor of the body's shape as the tensors that the norm measures."""
        return [x] if self.view is None or self.whole else self.view.matrices(x)

    def restore(self, parts: Sequence[Tensor]) -> Tensor:
        """The tensor of the body's shape that has these parts."""
        if self.view is None or self.whole:
            return parts[0]
        return self.view.restore(parts, self.body.shape)


def local_grad(param: Tensor) -> Tensor:
    """This rank's part of a gradient, laid out as the parameter; zero where another rank has one.

    The latter only on accelerators, where ranks do not wait to learn of it.
    """
    if param.grad is None:
        return torch.zeros_like(local(param))
    return local_like(param.grad, param)


Bundles = list[tuple[list[Item], ...]]
"""Bundles of batches of parameters."""


@dataclass(eq=False, slots=True)
class Move:
    """What one parameter does in this step, before the length of the step is known.

    Args:
        item: the parameter.
        ok: whether its gradient is finite, on the device; True if that is known.
        u: the momentum average, cut into what the norm measures.
        direction: where each part of `u` points.
    """

    item: Item
    ok: Flag
    u: list[Tensor]
    direction: list[Tensor]

    def update(self, lengths: Sequence[Tensor | float]) -> tuple[Tensor, Tensor | float]:
        """The direction in one piece, and the length that it has yet to get; destroys the move."""
        if len(lengths) == 1:
            return self.item.restore(self.direction), lengths[0]
        for part, length in zip(self.direction, lengths, strict=True):
            part.mul_(length)
        return self.item.restore(self.direction), 1.0


def take(
    moves: Sequence[Move],
    lengths: Sequence[Sequence[Tensor | float]],
    *,
    lr: float | Tensor,
    weight_decay: float | Tensor,
    decay: Decay,
) -> None:
    """Decay the weights and move them by −lr·length·direction, unless a gradient was not finite.

    Args:
        moves: of parameters of one type on one device; used up.
        lengths: of each part of each.
        lr: the learning rate.
        weight_decay: the decay.
        decay: its kind, as in `descend`.
    """
    pairs = [move.update(each) for move, each in zip(moves, lengths, strict=True)]
    updates, common = [update for update, _ in pairs], [length for _, length in pairs]
    sure = not any(isinstance(v, Tensor) for v in (lr, *common, *(m.ok for m in moves)))
    descend(
        [move.item.local for move in moves],
        updates,
        rates=float(lr) if sure else [rate(move, lr) for move in moves],
        lengths=common,
        weight_decay=scalar(weight_decay),
        decay=decay,
    )


def rate(move: Move, lr: float | Tensor) -> Tensor:
    """The learning rate of a parameter on its device, 0 where the gradient is not finite."""
    ok, work = move.ok, move.item.work
    return (ok if isinstance(ok, Tensor) else move.item.body.new_ones((), dtype=work)).to(
        work
    ) * scalar(lr)


def scalar(x: float | Tensor) -> float | Tensor:
    """A hyper-parameter without axes: a tensor may hold its one number in shape (1,)."""
    return x.reshape(()) if isinstance(x, Tensor) else x


def nearest(item: Item, value: Tensor, ball: Norm, radii: Sequence[Tensor | float]) -> Tensor:
    """A parameter with each of its parts projected on its ball.

    Args:
        item: the parameter.
        value: of its body.
        ball: the norm of the balls.
        radii: of each part's ball.

    Raises:
        FloatingPointError: it has NaN or inf entries, in the memory of the host; an accelerator is
            not waited for, and such a part stays without a number.
    """
    value = value.detach()  # a Parameter is not of the type Tensor
    if is_known(value) and not bool(torch.isfinite(value).all()):
        raise FloatingPointError(
            f"a parameter of shape {shape_text(value.shape)} has NaN or inf entries, and no "
            "point of the ball is nearest to it: start again from weights that are finite"
        )
    parts = item.cut(value.to(widened(value.dtype)))
    return item.restore(
        [ball.project(x, r, check=False) for x, r in zip(parts, radii, strict=True)]
    )


def batches(items: Iterable[Item], limit: int | None) -> Iterator[list[Item]]:
    """Items for one stack, in order, as many as fit into `limit` bytes but at least one."""
    keyed: dict[tuple[object, ...], list[Item]] = {}
    for item in items:
        key = (item.sizes, item.param.dtype, item.dtype, item.body.device)
        keyed.setdefault(key, []).append(item)
    for same in keyed.values():
        yield from _filled(same, [item.nbytes for item in same], bound_of(same[0], limit))


def bundles(batches: Iterable[list[Item]], limit: int | None) -> Iterator[tuple[list[Item], ...]]:
    """Batches whose matrices have equal smaller sides, as many as fit into `limit` bytes.

    A norm may share work among them.
    """
    keyed: dict[tuple[object, ...], list[list[Item]]] = {}
    for batch in batches:
        first = batch[0]
        smaller = tuple(min(s[-2:]) for s in first.sizes) if first.view else id(first)
        key = (smaller, first.param.dtype, first.dtype, first.body.device)
        keyed.setdefault(key, []).append(batch)
    for alike in keyed.values():
        sizes = [sum(item.nbytes for item in batch) for batch in alike]
        yield from map(tuple, _filled(alike, sizes, bound_of(alike[0][0], limit)))


def _filled(things: Sequence[T], sizes: Sequence[int], bound: int) -> Iterator[list[T]]:
    """The things in order, as many at a time as fit into the bound, but at least one."""
    some: list[T] = []
    total = 0
    for thing, size in zip(things, sizes, strict=True):
        if some and total + size > bound:
            yield some
            some, total = [], 0
        some.append(thing)
        total += size
    yield some


def bound_of(item: Item, limit: int | None) -> int:
    """How many bytes may be stacked with an item."""
    return limit or (HOST_STACK if item.body.device.type == "cpu" else DEVICE_STACK)


class Step(Protocol):
    """What a batch needs to know of the step that a group takes."""

    finite: Mapping[Tensor, Flag]
    """Of each parameter that takes part, whether its gradient is finite."""
    inner: Norm | None
    """The norm in whose inner product ⟨u, direction⟩ is asked for."""

    def average(
        self,
        batch: Sequence[Item],
        out: list[Tensor],
        stacks: Sequence[Tensor],
        *,
        cut: bool = True,
    ) -> None:
        """Update momentum averages and write u: a tensor a part, or a parameter if not `cut`.

        The tensors fill the stacks. Nothing is written if there are none.
        """

    def lengths(self, item: Item) -> Sequence[Tensor | float]:
        """The length of the step over `lr`, for each part of a parameter."""

    def move(self, moves: Sequence[Move]) -> None:
        """Decay and move parameters of one type on one device."""


class StackedBatch:
    """Parameters whose matrices lie in common stacks, in one step.

    Args:
        items: the parameters.
        step: the step of their group.
    """

    def __init__(self, items: Sequence[Item], step: Step) -> None:
        self.items, self.step = items, step
        self.places: list[list[Tensor]] = []

    def averages(self) -> list[Tensor]:
        """Update the momentum and stack the averages u, shape (matrices, rows, columns) each.

        There is a stack for each part of a parameter that an unequal split makes; without a view
        there is one for each parameter, in its shape.
        """
        stacks = self._stacks()
        self.places = self._parts_in(stacks)
        self._fill([place for parts in self.places for place in parts], stacks)
        return stacks

    def apply(self, directions: Sequence[Tensor]) -> None:
        """Move the parameters along stacks of directions, which are used up."""
        pairs = zip(self.items, self.places, self._parts_in(directions), strict=True)
        finite = self.step.finite
        moves = [Move(item, finite[item.param], u, d) for item, u, d in pairs]
        self.places = []  # the memory of the averages goes with the batch
        self._take(moves)

    def _fill(self, places: list[Tensor], stacks: Sequence[Tensor]) -> None:
        """Write the averages, one for each part of each parameter."""
        self.step.average(self.items, places, stacks)

    def _take(self, moves: Sequence[Move]) -> None:
        self.step.move(moves)

    def _stacks(self) -> list[Tensor]:
        """Fresh memory."""
        first = self.items[0]
        dtype = widened(first.dtype)
        if first.view is None:
            return [torch.empty_like(item.body, dtype=dtype) for item in self.items]
        return [
            first.body.new_empty((sum(i.shapes[k][0] for i in self.items), m, n), dtype=dtype)
            for k, (m, n) in enumerate(first.sizes)
        ]

    def _parts_in(self, stacks: Sequence[Tensor]) -> list[list[Tensor]]:
        """Of each parameter its parts in the stacks, as its view has them."""
        if self.items[0].view is None:
            return [[stack] for stack in stacks]
        return _places(self.items, stacks)


def _places(batch: Sequence[Item], stacks: Sequence[Tensor]) -> list[list[Tensor]]:
    """Of each item the places of its parts in the stacks, as its view has them."""
    if all(item.whole for item in batch):
        turned = [item.turned[0] for item in batch]
        whole = zip(stacks[0].unbind(), turned, strict=True)
        return [[place.mT if turn else place] for place, turn in whole]
    places: list[list[Tensor]] = [[] for _ in batch]
    for k, stack in enumerate(stacks):
        slices = stack.split([item.shapes[k][0] for item in batch])
        for parts, item, place in zip(places, batch, slices, strict=True):
            place = place.squeeze(0) if item.whole else place
            parts.append(place.mT if item.turned[k] else place)
    return places
