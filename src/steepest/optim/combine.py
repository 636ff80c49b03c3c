"""Sums a·x + b·y whose weights follow from inner products of rows or matrices, on whatever ranks.

What lies on several ranks is not brought together: the products of a row, three numbers, are added
up over the ranks, and every rank makes its own part of the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest._common.numerics import widened
from steepest.optim.member import Member
from steepest.retractions import Combination, Products
from steepest.sharding import Layout, RankGroup, all_reduce_sum, is_sharded, layout_of
from steepest.views import MatrixView


@dataclass(eq=False)
class Pair:
    """Two tensors laid out as a parameter, of which this rank may hold a part.

    Args:
        member: The parameter.
        x: The first.
        y: The second.
    """

    member: Member
    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        self.x, self.y = (t.to(widened(t.dtype)) for t in (self.x, self.y))
        member = self.member
        assert member.view is not None, "rows are those of matrices"
        self.view: MatrixView = member.view
        # A split of the columns needs them: then every entry is a sum of one.
        view = self.view
        summed = view.split == 1 or view.split_dim not in view.cols
        self.axes = view.cols if summed else tuple(a for a in view.cols if a != view.split_dim)
        self.layout: Layout | None = None
        param = member.param
        if is_sharded(param) and param.device_mesh.size() > 1 and member.like.shape == param.shape:
            self.layout, self.ranks = layout_of(param), RankGroup.of_mesh(param.device_mesh)

    @property
    def shape(self) -> list[int]:
        """The shape of the whole parameter, with length 1 along the axes that are summed."""
        return [1 if a in self.axes else n for a, n in enumerate(self.member.like.shape)]

    def sums(self) -> Tensor:
        """This rank's part of ⟨x, x⟩, ⟨x, y⟩ and ⟨y, y⟩ along the axes, shape (3, *shape)."""
        pairs = ((self.x, self.x), (self.x, self.y), (self.y, self.y))
        products = torch.stack([a * b for a, b in pairs])
        # torch takes no axes for all axes.
        axes = tuple(a + 1 for a in self.axes)
        own = products.sum(axes, keepdim=True) if axes else products
        if self.layout is None:
            return own
        whole = own.new_zeros(3, *self.shape)
        for there, here in self._cells(self.layout):
            # Ranks that hold the same rows share their sums.
            copies = self.layout.replicas(self.ranks.rank)
            whole[(slice(None), *there)] = own[(slice(None), *here)] / copies
        return whole

    def _cells(self, layout: Layout) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
        """The place of this rank's rows in all of them, and in its own."""
        if not layout.sizes[self.ranks.rank]:
            return
        one = slice(0, 1)
        for cell in layout.cells(self.ranks.rank):
            there, here = (
                tuple(one if a in self.axes else s for a, s in enumerate(place)) for place in cell
            )
            yield there, here

    def parts(self, sums: Tensor, *, rows: bool) -> list[Products]:
        """The products of each row, or each matrix, of each part of the parameter."""
        found = []
        for part in zip(*(self.view.matrices(s) for s in sums), strict=True):
            each = [p.sum(-1, keepdim=True) for p in part]
            found.append(Products(*(p if rows else p.sum(-2, keepdim=True) for p in each)))
        return found

    def combined(self, weights: Sequence[Combination]) -> Tensor:
        """This rank's part of a·x + b·y, with the weights of each part of the parameter."""
        sizes = self.view.shapes(self.shape)
        a, b = (
            self._own([w[i].expand(size) for w, size in zip(weights, sizes, strict=True)])
            for i in (0, 1)
        )
        return a * self.x + b * self.y

    def _own(self, parts: Sequence[Tensor]) -> Tensor:
        """This rank's part of numbers for all rows, for its part of the parameter."""
        every = self.view.restore(parts, self.shape)
        if self.layout is None:
            return every
        shape = self.layout.shapes[self.ranks.rank]
        own = every.new_zeros([1 if a in self.axes else n for a, n in enumerate(shape)])
        for there, here in self._cells(self.layout):
            own[here] = every[there]
        return own


def combined(
    pairs: Sequence[Pair],
    weights: Callable[[int, int, Products], Combination],
    *,
    rows: bool,
) -> list[Tensor]:
    """a·x + b·y of each pair; on several ranks all of them have to ask for the same ones.

    Args:
        pairs: The tensors.
        weights: A function of the place of a pair, of a part of its parameter, and the products.
        rows: Whether the products are those of every row; of the matrix otherwise.
    """
    sums = [pair.sums() for pair in pairs]
    shared: dict[RankGroup, list[int]] = {}
    for i, pair in enumerate(pairs):
        if pair.layout is not None:
            shared.setdefault(pair.ranks, []).append(i)
    for ranks, places in shared.items():
        flat = all_reduce_sum(torch.cat([sums[i].reshape(-1) for i in places]), ranks)
        for i, each in zip(places, flat.split([sums[i].numel() for i in places]), strict=True):
            sums[i] = each.view_as(sums[i])
    return [
        pair.combined(
            [weights(i, k, each) for k, each in enumerate(pair.parts(sums[i], rows=rows))]
        )
        for i, pair in enumerate(pairs)
    ]
