"""A parameter that takes part in steps: its view, its shapes and the types it is computed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steepest._common.numerics import real_dtype, widened
from steepest.sharding import is_sharded, local, local_like
from steepest.views import LINEAR, MatrixView

# Measured on two x86-64 cores: a copy to the transpose takes four times as long as a copy for
# 64 × 256, twenty times for 768 × 3072. One stack less is worth that only below this size.
PAIRED_ENTRIES = 2**12
"""Largest matrix in the memory of the host that is stacked with its transposed shape."""


@dataclass(eq=False)
class Member:
    """A parameter that takes part in steps: what does not change from one to the next.

    Args:
        param: The parameter; a DTensor if it is sharded.
        dtype: Type of its momentum.
        view: The view of `like` as matrices; None for a norm that takes the tensor as it is.
        symmetric: Whether the norm does not mind transposed matrices.
        like: A tensor with the shape, memory order and device of what the norm measures: the
            parameter, the part of it that lies on this rank, or a tensor like the whole.
    """

    param: Tensor
    dtype: torch.dtype
    view: MatrixView | None
    symmetric: bool
    like: Tensor

    shapes: list[tuple[int, int, int]] = field(init=False)
    """(batch, rows, columns) of its matrices."""
    sizes: tuple[tuple[int, int], ...] = field(init=False)
    """Rows and columns of its matrices in a stack."""
    is_one_part: bool = field(init=False)
    """Whether the tensor as it is, without a batch, is what the norm measures."""
    transposed: list[bool] = field(init=False)
    """Flags of the matrices that are transposed in a stack: see `_transposed`."""
    stack_dtype: torch.dtype = field(init=False)
    """Type of its averages and directions."""
    sharded: bool = field(init=False)
    """Whether the parameter is a DTensor."""

    def __post_init__(self) -> None:
        self.is_one_part = self.view is None or self.view == LINEAR
        self.shapes = self.view.shapes(self.like.shape) if self.view else []
        self.stack_dtype = widened(self.dtype)
        self.sharded = is_sharded(self.param)
        turn = self.symmetric and self.view is not None
        self.transposed = self._transposed() if turn else [False] * len(self.shapes)
        pairs = zip(self.transposed, self.shapes, strict=True)
        self.sizes = tuple((n, m) if turn else (m, n) for turn, (_, m, n) in pairs)

    def _transposed(self) -> list[bool]:
        """Tall ones where a pair of transposed shapes is worth one stack, else as memory has them.

        Columns that are dense in memory become rows.
        """
        if self.like.device.type != "cpu" or self.like.numel() <= PAIRED_ENTRIES:
            return [m > n for _, m, n in self.shapes]
        return [part.stride(-2) < part.stride(-1) for part in self.split(self.like)]

    @property
    def local(self) -> Tensor:
        """The part of the parameter that lies on this rank: a step changes it alone."""
        return local(self.param)

    @property
    def nbytes(self) -> int:
        """Size of its matrices in a stack, which is in float32 at least."""
        return self.like.numel() * max(4, self.dtype.itemsize)

    @property
    def compute_dtype(self) -> torch.dtype:
        """Real type of the arithmetic: a Python float would take torch's default type."""
        return real_dtype(self.stack_dtype)

    def split(self, x: Tensor) -> list[Tensor]:
        """The parts that the norm measures, of a tensor of the shape of `like`."""
        return [x] if self.view is None or self.is_one_part else self.view.matrices(x)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The tensor of the shape of `like` that has these parts."""
        if self.view is None or self.is_one_part:
            return parts[0]
        return self.view.restore(parts, self.like.shape)


def local_grad(param: Tensor) -> Tensor:
    """This rank's part of a gradient, laid out as the parameter; zero where another rank has one.

    The latter only on accelerators, where ranks do not wait to learn of it.
    """
    if param.grad is None:
        return torch.zeros_like(local(param))
    return local_like(param.grad, param)
