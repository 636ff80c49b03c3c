"""Norms of a tensor cut into blocks of one shape: the largest norm of a block, or their sum."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Inexact
from torch import Tensor

from steepest._common.errors import invalid
from steepest._common.numerics import in_double
from steepest.norms._vectors import falling_root
from steepest.norms.lp import Lp
from steepest.norms.norm import Coupling, MatrixShape, Norm, ball_radius
from steepest.polar import PolarMethod
from steepest.sharding.reductions import largest, total


@dataclass(frozen=True, repr=False)
class BlockLayout:
    """How a tensor is cut into blocks, and how it is put together again.

        blocks: (*batch, m, n, *taps) to (*batch, blocks, *block)

    Args:
        name: "rows", "columns" or "taps".
        spatial: how many trailing axes are the taps of a convolution kernel.
    """

    name: str
    spatial: int = 0

    def __post_init__(self) -> None:
        if self.name not in ("rows", "columns", "taps"):
            raise invalid("name", self.name, 'give "rows", "columns" or "taps"')

    def __repr__(self) -> str:
        return f"BlockLayout({self.name!r}{f', {self.spatial}' if self.spatial else ''})"

    @property
    def axes(self) -> int:
        """How many trailing axes are cut."""
        return 2 + self.spatial

    def blocks(self, x: Tensor) -> Tensor:
        """The blocks along one new axis; a view."""
        if self.name == "taps":
            flat = x.flatten(x.ndim - self.spatial) if self.spatial > 1 else x
            return flat.movedim(-1, -3)
        return x if self.name == "rows" else x.mT

    def restore(self, blocks: Tensor, like: Tensor) -> Tensor:
        """The inverse of `blocks`."""
        if self.name == "taps":
            return blocks.movedim(-3, -1).reshape(like.shape)
        return blocks if self.name == "rows" else blocks.mT


class _Blocks(Norm):
    """A norm of the blocks that a layout makes of a tensor: the base of the largest and the sum."""

    norm: Norm
    layout: BlockLayout

    def __init__(self, norm: Norm, layout: BlockLayout) -> None:
        if not isinstance(norm, Norm):
            raise invalid("norm", norm, "give a norm object such as norms.Spectral()")
        if not isinstance(layout, BlockLayout):
            raise invalid(
                "layout", layout, 'give a norms.BlockLayout such as norms.BlockLayout("rows")'
            )
        object.__setattr__(self, "norm", norm)
        object.__setattr__(self, "layout", layout)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.norm}, {self.layout})"

    @property
    def axes(self) -> int:
        """Two, and the taps of a convolution kernel."""
        return self.layout.axes

    @property
    def symmetric(self) -> bool:
        """False, although blocks of single entries would be."""
        return False

    def matrix_shape(self, x: Tensor) -> MatrixShape:
        """Rows, columns and taps of the uncut tensor."""
        rows, cols, *taps = x.shape[x.ndim - self.axes :]
        return MatrixShape(rows, cols, math.prod(taps))

    @property
    def polar(self) -> PolarMethod | None:
        """The polar method of the norm of a block."""
        return self.norm.polar

    def with_polar(self, polar: PolarMethod | None) -> Norm:
        """The same norm by this method."""
        return type(self)(self.norm.with_polar(polar), self.layout)

    def validate(self, x: Tensor, check: bool, argument: str = "x") -> None:
        """Raise unless `x` can be cut into blocks that the norm can measure."""
        super().validate(x, check, argument)
        self.norm.validate(self.layout.blocks(x), False, argument)

    def _each(self, x: Tensor) -> Tensor:
        """The norm of each block, along the last axis."""
        return self.norm(self.layout.blocks(x), check=False)


@dataclass(frozen=True, repr=False, init=False)
class MaxOver(_Blocks):
    """The largest norm of a block.

        dual: `SumOver` of the dual norm
        dualize and project: those of each block

    `RowNorm`, `ColumnNorm` and `Conv` make it.

    Attributes:
        norm: the norm of a block.
        layout: how a tensor is cut into blocks.
    """

    norm: Norm
    layout: BlockLayout

    def __repr__(self) -> str:
        names = {"rows": "RowNorm", "columns": "ColumnNorm"}
        if isinstance(self.norm, Lp) and self.layout.name in names:
            return f"{names[self.layout.name]}({'' if self.norm.p == 2 else f'{self.norm.p:g}'})"
        return super().__repr__()

    @property
    def dual(self) -> SumOver:
        """The sum of the dual norms of the blocks."""
        return SumOver(self.norm.dual, self.layout)

    @property
    def couples(self) -> Coupling:
        """Each block by itself."""
        alone = {"rows": Coupling.ROWS, "columns": Coupling.COLUMNS, "taps": self.norm.couples}
        return (
            Coupling.ENTRIES if self.norm.couples is Coupling.ENTRIES else alone[self.layout.name]
        )

    def __call__(self, x: Inexact[Tensor, ...], *, check: bool = True) -> Tensor:
        """The largest norm of a block."""
        self.validate(x, check)
        return largest(self._each(x), -1).squeeze(-1)

    def dualize(self, g: Inexact[Tensor, ...], *, check: bool = True) -> Tensor:
        """The duality map of each block, the shape of `g`."""
        self.validate(g, check, "g")
        return self.layout.restore(self.norm.dualize(self.layout.blocks(g), check=False), g)

    def project(
        self, x: Inexact[Tensor, ...], radius: float | Tensor = 1.0, *, check: bool = True
    ) -> Tensor:
        """Each block projected on the ball of its norm."""
        self.validate(x, check)
        r = ball_radius(radius, x, x.shape[: x.ndim - self.axes]).unsqueeze(-1)
        return self.layout.restore(self.norm.project(self.layout.blocks(x), r, check=False), x)


@dataclass(frozen=True, repr=False, init=False)
class SumOver(_Blocks):
    """The sum of the norms of the blocks.

        dual: `MaxOver` of the dual norm
        dualize(g): the duality map of the block with the largest dual norm, zero elsewhere

    Attributes:
        norm: the norm of a block.
        layout: how a tensor is cut into blocks.
    """

    norm: Norm
    layout: BlockLayout

    @property
    def dual(self) -> MaxOver:
        """The largest dual norm of a block."""
        return MaxOver(self.norm.dual, self.layout)

    @property
    def couples(self) -> Coupling:
        """Everything: the largest block has to be found."""
        return Coupling.MATRIX

    def __call__(self, x: Inexact[Tensor, ...], *, check: bool = True) -> Tensor:
        """The sum of the norms of the blocks."""
        self.validate(x, check)
        return total(self._each(x), -1)

    def dualize(self, g: Inexact[Tensor, ...], *, check: bool = True) -> Tensor:
        """The duality map of the largest block; blocks that tie share the weight."""
        self.validate(g, check, "g")
        blocks = self.layout.blocks(g)
        size = self.dual._each(g)
        largest = (size == size.amax(dim=-1, keepdim=True)).to(size.dtype)
        weight = largest / largest.sum(dim=-1, keepdim=True)
        out = self.norm.dualize(blocks, check=False) * self.norm.broadcast(weight, blocks)
        return self.layout.restore(out.to(g.dtype), g)

    def project(
        self, x: Inexact[Tensor, ...], radius: float | Tensor = 1.0, *, check: bool = True
    ) -> Tensor:
        """The nearest point of the ball: every block loses its projection on one dual ball."""
        self.validate(x, check)
        r = ball_radius(radius, x, x.shape[: x.ndim - self.axes])
        blocks = in_double(self.layout.blocks(x))
        dual = self.norm.dual
        size = dual(blocks, check=False)

        # Moreau: x − P has the same dual norm μ in every block that is not emptied.
        def rest(mu: Tensor) -> Tensor:
            return blocks - dual.project(blocks, mu.unsqueeze(-1), check=False)

        def excess(mu: Tensor) -> Tensor:
            return self.norm(rest(mu), check=False).sum(dim=-1) - r

        outside = excess(torch.zeros_like(r)) > 0
        mu = falling_root(excess, torch.zeros_like(r), size.amax(dim=-1))
        mu = torch.where(outside, mu, 0.0)
        return self.layout.restore(rest(mu), x).to(x.dtype)


def RowNorm(p: float = 2) -> MaxOver:
    """The largest ℓp norm of a row; its duality map normalises every row.

    Examples:
        >>> import torch
        >>> x = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
        >>> float(RowNorm()(x)), float(RowNorm().dual(x))
        (5.0, 6.0)
    """
    return MaxOver(Lp(p, dims=-1), BlockLayout("rows"))


def ColumnNorm(p: float = 2) -> MaxOver:
    """The largest ℓp norm of a column; its duality map normalises every column."""
    return MaxOver(Lp(p, dims=-1), BlockLayout("columns"))


def taps(norm: Norm, spatial: int) -> MaxOver:
    """The largest norm of a tap of a convolution kernel out × in × k₁ × …, each a matrix."""
    if norm.axes != 2:
        raise invalid("norm", norm, "each tap is a matrix: give a norm of matrices")
    if spatial not in range(1, 10):
        raise invalid("spatial", spatial, "give the number of spatial axes: 1, 2 or 3")
    return MaxOver(norm, BlockLayout("taps", spatial))
