"""A parameter as a batch of matrices, and back.

An optimizer in a matrix norm needs to know which matrix a parameter *is*. A Linear weight says it
by its shape; a convolution kernel, a fused query-key-value projection or a stack of experts does
not. A `MatrixView` is that knowledge as data, and the only place where axes are moved.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, cat

from steepest._common.errors import invalid, shape_text


@dataclass(frozen=True, kw_only=True)
class MatrixView:
    """A parameter read as matrices: which axes are rows (outputs), columns (inputs) and batch.

    `matrices(x)` cuts axis `split_dim` into blocks, then moves the axes of each block to
    (batch, rows, cols) and merges each of the three. `restore` is its inverse:
    `view.restore(view.matrices(x), x.shape)` equals `x`.

    Args:
        rows: axes that together index the outputs, most significant first.
        cols: axes that together index the inputs.
        batch: axes over separate matrices, such as experts. Every axis occurs in exactly one of
            `rows`, `cols` and `batch`.
        split: how `split_dim` is cut into separate matrices: a number of equal blocks, or the
            size of each block (grouped-query attention has a large Q and small K and V).
        split_dim: the axis that is cut; a fused projection cuts its outputs, `rows[0]`.

    Raises:
        ValueError: an axis is named twice or is missing, or `split` is not positive.

    Examples:
        >>> import torch
        >>> qkv = torch.randn(3 * 8, 8)
        >>> [tuple(m.shape) for m in MatrixView(split=3).matrices(qkv)]
        [(3, 8, 8)]
        >>> [tuple(m.shape) for m in MatrixView(split=(16, 4, 4)).matrices(qkv)]
        [(1, 16, 8), (1, 4, 8), (1, 4, 8)]
    """

    rows: tuple[int, ...] = (0,)
    cols: tuple[int, ...] = (1,)
    batch: tuple[int, ...] = ()
    split: int | tuple[int, ...] = 1
    split_dim: int = 0

    def __post_init__(self) -> None:
        axes = sorted(self.rows + self.cols + self.batch)
        if axes != list(range(len(axes))) or not self.rows or not self.cols:
            raise invalid(
                "axes",
                (self.rows, self.cols, self.batch),
                "rows, cols and batch together must name every axis 0, 1, … once, "
                "with at least one row axis and one column axis",
            )
        sizes = (self.split,) if isinstance(self.split, int) else self.split
        if not sizes or any(s < 1 for s in sizes):
            raise invalid("split", self.split, "give a positive number of blocks or their sizes")
        if self.split_dim not in axes:
            raise invalid("split_dim", self.split_dim, f"give an axis in 0…{len(axes) - 1}")

    @property
    def ndim(self) -> int:
        """Number of axes of the parameters this view fits."""
        return len(self.rows) + len(self.cols) + len(self.batch)

    def _blocks(self, shape: Sequence[int]) -> list[int]:
        """Sizes of the blocks along `split_dim`; raises if the view does not fit `shape`."""
        if len(shape) != self.ndim:
            raise invalid(
                "shape", shape_text(shape), f"this view needs {self.ndim} axes, got {len(shape)}"
            )
        size = shape[self.split_dim]
        if isinstance(self.split, int):
            if size % self.split:
                raise invalid(
                    "split",
                    self.split,
                    f"axis {self.split_dim} of length {size} does not divide into equal blocks",
                )
            return [size // self.split] * self.split
        if sum(self.split) != size:
            raise invalid(
                "split",
                self.split,
                f"the sizes must add up to {size}, the length of axis {self.split_dim}",
            )
        return list(self.split)

    def _pieces(self, shape: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """(number of merged blocks, shape of one block): equal blocks share one piece."""
        blocks = self._blocks(shape)
        merged = isinstance(self.split, int)
        for size in blocks[:1] if merged else blocks:
            block = list(shape)
            block[self.split_dim] = size
            yield (len(blocks) if merged else 1), block

    def shapes(self, shape: Sequence[int]) -> list[tuple[int, int, int]]:
        """(batch, rows, cols) of each tensor that `matrices` returns for this shape.

        Raises:
            ValueError: the view does not fit the shape.
        """
        return [self._shape(count, block) for count, block in self._pieces(shape)]

    def _shape(self, count: int, block: Sequence[int]) -> tuple[int, int, int]:
        """(batch, rows, cols) of a piece."""
        batch, rows, cols = (
            math.prod([block[a] for a in axes]) for axes in (self.batch, self.rows, self.cols)
        )
        return count * batch, rows, cols

    def _order(self) -> list[int]:
        """Axes of an unflattened block in the order (block, batch, rows, cols)."""
        after = [a + (a >= self.split_dim) for a in range(self.ndim)]
        return [self.split_dim, *(after[a] for a in self.batch + self.rows + self.cols)]

    def matrices(self, x: Tensor) -> list[Tensor]:
        """The matrices of a parameter-shaped tensor, each of shape (batch, rows, cols).

        Equal blocks come as one tensor, unequal ones as one tensor each. The results share memory
        with `x` wherever its strides allow it.
        """
        pieces = list(self._pieces(x.shape))
        parts = x.split(self._blocks(x.shape), self.split_dim) if len(pieces) > 1 else (x,)
        out = []
        for part, (count, block) in zip(parts, pieces, strict=True):
            cut = part.unflatten(self.split_dim, (count, block[self.split_dim]))
            cut = cut.permute(self._order())
            # With one axis for rows and one for columns it is (blocks, rows, cols) already.
            out.append(cut if self.ndim == 2 else cut.reshape(self._shape(count, block)))
        return out

    def restore(self, matrices: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
        """The parameter-shaped tensor whose `matrices` these are; the inverse of `matrices`."""
        order = self._order()
        inverse = [order.index(a) for a in range(len(order))]
        parts = []
        for matrix, (count, block) in zip(matrices, self._pieces(shape), strict=True):
            axes = [count, *(block[a] for a in self.batch + self.rows + self.cols)]
            cut = matrix.reshape(axes).permute(inverse)
            parts.append(cut.flatten(self.split_dim, self.split_dim + 1))
        if len(parts) == 1:
            return parts[0]
        return cat(parts, self.split_dim)


class ParameterViews(tuple[MatrixView, ...]):
    """The views of some parameters, one each in their order, which can be asked by parameter.

    Code that divides a group of parameters, as ZeroRedundancyOptimizer does among the ranks, copies
    what else is in the group: so each part has the views of all.
    """

    params: Sequence[Tensor]

    def __new__(cls, views: Iterable[MatrixView], params: Sequence[Tensor]) -> ParameterViews:
        """Keep the parameters beside the views."""
        made = super().__new__(cls, views)
        made.params = params
        return made

    def of(self, params: Iterable[Tensor]) -> list[MatrixView | None]:
        """The view of each of some of the parameters; None for one that is not among them."""
        known = dict(zip(self.params, self, strict=True))
        return [known.get(p) for p in params]

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is a tuple: its parameters are others."""
        return tuple, (list(self),)


LINEAR = MatrixView()
"""A weight of shape out × in, as in `torch.nn.Linear`: one matrix."""

INPUT_FIRST = MatrixView(rows=(1,), cols=(0,))
"""A weight of shape in × out, as in the `Conv1D` of Hugging Face's GPT-2."""

EXPERTS = MatrixView(batch=(0,), rows=(1,), cols=(2,))
"""Stacked weights of shape experts × out × in: one matrix per expert."""


def conv(spatial: int, *, groups: int = 1) -> MatrixView:
    """A kernel out × in/groups × k₁ × … as `groups` matrices (out/groups) × (in/groups·Πk).

    Examples:
        >>> conv(2).shapes((64, 3, 7, 7))
        [(1, 64, 147)]
    """
    return MatrixView(cols=tuple(range(1, spatial + 2)), split=groups)


def conv_transpose(spatial: int, *, groups: int = 1) -> MatrixView:
    """A kernel in × out/groups × k₁ × … as `groups` matrices (out/groups) × (in/groups·Πk).

    Examples:
        >>> conv_transpose(2, groups=2).shapes((32, 8, 3, 3))
        [(2, 8, 144)]
    """
    return MatrixView(rows=(1,), cols=(0, *range(2, spatial + 2)), split=groups, split_dim=0)


def default_view(ndim: int) -> MatrixView | None:
    """The view of a tensor of which only the number of axes is known; None where that tells none.

    Two axes are a matrix out × in, four or five a convolution kernel. Three may be a kernel, a
    stack of experts or something that is added to activations.

    Examples:
        >>> default_view(2) == LINEAR, default_view(3), default_view(4) == conv(2)
        (True, None, True)
    """
    if ndim == 2:
        return LINEAR
    return conv(ndim - 2) if ndim in (4, 5) else None
