"""Norms of entries: ℓp of the whole tensor, or over some of its axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Inexact
from torch import Tensor

from steepest._common.errors import invalid
from steepest._common.lists import signs
from steepest._common.numerics import in_double, widened
from steepest.norms._vectors import Exponent, l2_dualize, lp_dualize, lp_norm, lp_project
from steepest.norms.norm import Coupling, MatrixShape, Norm, ball_radius, inner
from steepest.norms.scaled import Scaled, ShapeFactor
from steepest.sharding.reductions import redistribute_like, total

_NAMES = {1.0: "L1", 2.0: "L2", math.inf: "LInf"}


@dataclass(frozen=True, repr=False)
class Lp(Norm):
    """The ℓp norm ‖x‖_p = (Σ|x_i|^p)^(1/p) of all entries, or over `dims`.

        dual: ‖g‖_q with 1/p + 1/q = 1
        dualize(g) = sign(g)·|g|^(q−1) / ‖g‖_q^(q−1)

    p = 2 is gradient descent, p = ∞ sign descent, and p = 1 moves the largest entry alone (all of
    them where several tie). Complex entries have their phase for a sign.

    Args:
        p: the exponent, in [1, inf].
        dims: the axes of one vector; the other axes are a batch. None takes the whole tensor.

    Raises:
        ValueError: p < 1.

    Examples:
        >>> import torch
        >>> g = torch.tensor([3.0, -4.0])
        >>> float(Lp(2)(g)), Lp(2).dualize(g).tolist(), Lp(math.inf).dualize(g).tolist()
        (5.0, [0.6000000238418579, -0.800000011920929], [1.0, -1.0])
        >>> Lp(1).dual == LInf()
        True

    Sources:
        Bernstein & Newhouse, arXiv 2409.20325, section 2.
    """

    exponent: Exponent
    dims: tuple[int, ...] | None = field(default=None)

    def __init__(self, p: float | Exponent, *, dims: int | tuple[int, ...] | None = None) -> None:
        exponent = p if isinstance(p, Exponent) else Exponent.of(p)
        object.__setattr__(self, "exponent", exponent)
        object.__setattr__(self, "dims", _axes(dims))

    def __repr__(self) -> str:
        name = _NAMES.get(self.p)
        given = [] if name else [f"{self.p:g}"]
        given += [f"dims={self.dims}"] if self.dims is not None else []
        return f"{name or 'Lp'}({', '.join(given)})"

    @property
    def p(self) -> float:
        """The exponent."""
        return self.exponent.p

    @property
    def dual(self) -> Lp:
        """ℓq over the same axes."""
        return Lp(self.exponent.conjugate, dims=self.dims)

    @property
    def couples(self) -> Coupling:
        """Nothing for p = ∞, else one number; rows or columns if each is a vector by itself."""
        if self.p == math.inf:
            return Coupling.ENTRIES
        if self.dims is None:
            return Coupling.SCALAR
        alone: dict[tuple[int, ...], Coupling] = {(-1,): Coupling.ROWS, (-2,): Coupling.COLUMNS}
        return alone.get(self.dims, Coupling.MATRIX)

    @property
    def axes(self) -> None:
        """None: it has no rows and columns."""
        return

    @property
    def symmetric(self) -> bool:
        """True for the whole tensor."""
        return self.dims is None

    def _dims(self, x: Tensor) -> tuple[int, ...]:
        """The axes of one vector, counted from the left."""
        if self.dims is None:
            return tuple(range(x.ndim))
        out = tuple(d + x.ndim if d < 0 else d for d in self.dims)
        if not out or not all(0 <= d < x.ndim for d in out) or len(set(out)) < len(out):
            raise invalid("dims", self.dims, f"name different axes of a tensor with {x.ndim} axes")
        return out

    def validate(self, x: Tensor, check: bool, argument: str = "x") -> None:
        """Raise unless `x` has the axes and finite entries."""
        super().validate(x, check, argument)
        self._dims(x)

    def matrix_shape(self, x: Tensor) -> MatrixShape:
        """The length of one vector, as rows."""
        return MatrixShape(math.prod(x.shape[d] for d in self._dims(x)), 1)

    def inner(self, g: Inexact[Tensor, ...], x: Inexact[Tensor, ...]) -> Tensor:
        """⟨g, x⟩ of each vector."""
        return total(inner(g, x), self._dims(x))

    def broadcast(self, value: Tensor, x: Tensor) -> Tensor:
        """`value` with the axes over which the norm runs, each of length 1."""
        dims = self._dims(x)
        return value.reshape([1 if d in dims else n for d, n in enumerate(x.shape)])

    def _vectors(self, x: Tensor) -> Tensor:
        """Vectors along the last axis."""
        dims = self._dims(x)
        rest = [d for d in range(x.ndim) if d not in dims]
        return x.permute([*rest, *dims]).reshape([*(x.shape[d] for d in rest), -1])

    def _restore(self, vectors: Tensor, like: Tensor) -> Tensor:
        dims = self._dims(like)
        rest = [d for d in range(like.ndim) if d not in dims]
        order = [*rest, *dims]
        moved = vectors.reshape([like.shape[d] for d in order])
        return moved.permute([order.index(d) for d in range(like.ndim)])

    def __call__(self, x: Inexact[Tensor, ...], *, check: bool = True) -> Tensor:
        """‖x‖_p: a scalar, or one number for each member of the batch."""
        self.validate(x, check)
        return lp_norm(x.to(widened(x.dtype)), self.p, self._dims(x))

    def dualize(self, g: Inexact[Tensor, ...], *, check: bool = True) -> Tensor:
        """sign(g)·|g|^(q−1)/‖g‖_q^(q−1), the shape of `g`."""
        self.validate(g, check, "g")
        if self.p == math.inf:
            return torch.sgn(g)
        dims, wide = self._dims(g), g.to(widened(g.dtype))
        if self.p == 2:
            unit = l2_dualize(wide, dims)
        else:
            unit = torch.sgn(wide) * lp_dualize(wide.abs(), self.exponent, dims)
        return redistribute_like(unit.to(g.dtype), g)

    def dualize_all(self, gs: Sequence[Tensor], *, check: bool = True) -> list[Tensor]:
        """`dualize` of each; signs of all at once."""
        if check or self.p != math.inf:
            return super().dualize_all(gs, check=check)
        return signs(gs)

    def sharp(self, g: Inexact[Tensor, ...], *, check: bool = True) -> Tensor:
        """‖g‖†·dualize(g); g itself for p = 2."""
        if self.p != 2:
            return super().sharp(g, check=check)
        self.validate(g, check, "g")
        return g.clone()

    def sharp_all(self, gs: Sequence[Tensor], *, check: bool = True) -> list[Tensor]:
        """`sharp` of each; for p = 2 the tensors themselves."""
        return super().sharp_all(gs, check=check) if check or self.p != 2 else list(gs)

    def project(
        self, x: Inexact[Tensor, ...], radius: float | Tensor = 1.0, *, check: bool = True
    ) -> Tensor:
        """The nearest point of the ball; for p other than 1, 2 and ∞ by root finding."""
        self.validate(x, check)
        v = self._vectors(x)
        r = ball_radius(radius, x, v.shape[:-1])
        wide = in_double(v)
        near = torch.sgn(wide) * lp_project(wide.abs(), self.exponent, r)
        outside = lp_norm(wide, self.p) > r
        return self._restore(torch.where(outside.unsqueeze(-1), near.to(x.dtype), v), x)


def _axes(dims: object) -> tuple[int, ...] | None:
    """The axes as a tuple."""
    if dims is None:
        return None
    axes = tuple(dims) if isinstance(dims, tuple | list) else (dims,)
    if not axes or not all(isinstance(d, int) for d in axes):
        raise invalid("dims", dims, "give one axis or a tuple of axes")
    return axes


def L1(*, dims: int | tuple[int, ...] | None = None) -> Lp:
    """Σ|x_i|; its steepest descent moves the largest entry of the gradient alone."""
    return Lp(1, dims=dims)


def L2(*, dims: int | tuple[int, ...] | None = None) -> Lp:
    """The Euclidean norm; its steepest descent is gradient descent."""
    return Lp(2, dims=dims)


def LInf(*, dims: int | tuple[int, ...] | None = None) -> Lp:
    """max|x_i|; its steepest descent is sign descent."""
    return Lp(math.inf, dims=dims)


def RMS(*, dims: int | tuple[int, ...] | None = None) -> Scaled:
    """Root mean square ‖x‖₂/√d of d entries.

    Examples:
        >>> import torch
        >>> float(RMS()(torch.full((7,), 3.0)))
        3.0
    """
    name = "RMS()" if dims is None else f"RMS(dims={dims})"
    return Scaled(L2(dims=dims), ShapeFactor(rows=-0.5), name=name)
