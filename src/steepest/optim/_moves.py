"""The way of a gradient through the step: momentum, matrices, duality map, update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest._types import real_dtype
from steepest.norms import Norm
from steepest.optim.rule import descend, dualize_stacked
from steepest.polar.base import widened
from steepest.views import MatrixView


@dataclass(frozen=True, eq=False)
class Item:
    """A parameter that takes part in this step.

    Args:
        param: the parameter.
        grad: its gradient.
        ok: whether the gradient is finite, on the device.
        dtype: type of its momentum.
        view: the parameter as matrices; None for a norm that takes the tensor as it is.
    """

    param: Tensor
    grad: Tensor
    ok: Tensor
    dtype: torch.dtype
    view: MatrixView | None

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """(batch, rows, columns) of its matrices."""
        return self.view.shapes(self.param.shape) if self.view else []

    @property
    def nbytes(self) -> int:
        """Size of its matrices in a stack, which is in float32 at least."""
        return self.param.numel() * max(4, self.dtype.itemsize)

    @property
    def work(self) -> torch.dtype:
        """Real type of the arithmetic: a Python float would take torch's default type."""
        return real_dtype(widened(self.dtype))

    def cut(self, x: Tensor) -> list[Tensor]:
        """A tensor of the parameter's shape as the tensors that the norm measures."""
        return self.view.matrices(x) if self.view else [x]


@dataclass(frozen=True, eq=False)
class Move:
    """What one parameter does in this step, before the length of the step is known.

    Args:
        item: the parameter.
        norm: in which it moves.
        u: the momentum average, cut into what the norm measures.
        direction: of each part of `u` the duality map, or the sharp operator.
    """

    item: Item
    norm: Norm
    u: list[Tensor]
    direction: list[Tensor]

    def duals(self) -> list[Tensor]:
        """‖u‖† of each part, one number for each member of its batch: ⟨u, dualize(u)⟩.

        Only where the direction is the duality map.
        """
        return [
            self.norm.inner(u.to(d.dtype), d) for u, d in zip(self.u, self.direction, strict=True)
        ]

    def update(self, lengths: Sequence[Tensor | float]) -> Tensor:
        """The direction in the parameter's shape, each part times its length; destroys the move."""
        for part, length in zip(self.direction, lengths, strict=True):
            part.mul_(length)
        if self.item.view is None:
            return self.direction[0]
        return self.item.view.restore(self.direction, self.item.param.shape)

    def take(
        self, lengths: Sequence[Tensor | float], *, lr: float | Tensor, weight_decay: float
    ) -> None:
        """W ← (1 − lr·weight_decay)·W − lr·length·direction, unless the gradient was not finite."""
        item = self.item
        rate = item.ok.to(item.work) * scalar(lr)
        update = self.update([rate * length for length in lengths])
        descend(item.param, update, rate=rate, weight_decay=weight_decay)


def scalar(lr: float | Tensor) -> float | Tensor:
    """A learning rate without axes: a tensor may hold its one number in shape (1,)."""
    return lr.reshape(()) if isinstance(lr, Tensor) else lr


def batches(items: Iterable[Item], symmetric: bool, limit: int) -> Iterator[list[Item]]:
    """Items that can be stacked, in order, as many as fit into `limit` bytes but at least one."""
    keyed: dict[tuple[object, ...], list[Item]] = {}
    for item in items:
        sizes = [tuple(sorted(s[1:])) if symmetric else s[1:] for s in item.shapes]
        alone = None if item.view else item.param
        keyed.setdefault(
            (*sizes, item.param.dtype, item.dtype, item.param.device, alone), []
        ).append(item)
    for same in keyed.values():
        batch: list[Item] = []
        for item in same:
            if batch and sum(i.nbytes for i in batch) + item.nbytes > limit:
                yield batch
                batch = []
            batch.append(item)
        yield batch


def moves(
    batch: Sequence[Item], directions: Sequence[Tensor], norm: Norm, *, sharp: bool
) -> Iterator[Move]:
    """Where every parameter of a batch goes, matrices of one shape in one call.

    Args:
        batch: parameters that can be stacked.
        directions: their momentum averages u.
        norm: of the steps.
        sharp: whether to go along norm.sharp(u), or norm.dualize(u).
    """

    def dualize(x: Tensor) -> Tensor:
        return norm.sharp(x, check=False) if sharp else norm.dualize(x, check=False)

    cut = [item.cut(u) for item, u in zip(batch, directions, strict=True)]
    if batch[0].view is None:
        for item, parts in zip(batch, cut, strict=True):
            wide = parts[0].to(widened(parts[0].dtype))
            yield Move(item, norm, parts, [dualize(wide)])
        return
    # One stack for each matrix of a parameter: unequal blocks have different shapes.
    stacks = [
        dualize_stacked(stack, dualize, symmetric=norm.symmetric)
        for stack in zip(*cut, strict=True)
    ]
    for item, u, *parts in zip(batch, cut, *stacks, strict=True):
        yield Move(item, norm, u, parts)
