"""The numbers that a separable map adds up over: entries, rows, columns or singular values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steepest._common.numerics import full_precision, power_of_two_scale, widened
from steepest.maps.scalars import Scalar
from steepest.norms import ColumnNorm, LInf, Lp, Norm, RowNorm, Spectral
from steepest.polar import PolarMethod
from steepest.polar._members import svd, svdvals
from steepest.sharding.reductions import redistribute_like, total


class Basis(ABC):
    """A way to write x = Σ t·e with magnitudes t ≥ 0 and directions e of length 1.

    `ball` is the norm max t; the sum of the t is its dual norm.
    """

    @property
    @abstractmethod
    def ball(self) -> Norm:
        """The largest magnitude, as a norm."""

    @abstractmethod
    def magnitudes(self, x: Tensor) -> Tensor:
        """The t, in float32 at least; differentiable."""

    @abstractmethod
    def total(self, values: Tensor) -> Tensor:
        """The sum of one number for each t: one number for each member of the batch."""

    @abstractmethod
    def replaced(self, x: Tensor, scalar: Scalar) -> Tensor:
        """Σ φ'(t)·e, in the shape and type of `x`."""

    def gradient_bound(self, scalar: Scalar, m: int, n: int, dtype: torch.dtype) -> float:
        """The largest magnitude that `replaced` can give, over the limit of φ'."""
        return 1.0

    def with_polar(self, polar: PolarMethod | None) -> Basis:
        """The same basis by this method; only singular values have a use for one."""
        return self


@dataclass(frozen=True, repr=False)
class Entries(Basis):
    """The absolute values of the entries, of the whole tensor or over `dims`.

    Args:
        dims: the axes of one vector; the other axes are a batch. None takes the whole tensor.

    Raises:
        ValueError: no axes.
    """

    dims: tuple[int, ...] | None

    def __init__(self, *, dims: int | tuple[int, ...] | None = None) -> None:
        object.__setattr__(self, "dims", LInf(dims=dims).dims)

    def __repr__(self) -> str:
        return f"Entries({'' if self.dims is None else f'dims={self.dims}'})"

    @property
    def ball(self) -> Lp:
        """The largest absolute value."""
        return LInf(dims=self.dims)

    def magnitudes(self, x: Tensor) -> Tensor:
        """|x|."""
        return x.to(widened(x.dtype)).abs()

    def total(self, values: Tensor) -> Tensor:
        """The sum over all entries, or over `dims`."""
        return total(values, self.dims)

    def replaced(self, x: Tensor, scalar: Scalar) -> Tensor:
        """sgn(x)·φ'(|x|)."""
        return (torch.sgn(x) * scalar.slope(self.magnitudes(x))).to(x.dtype)


@dataclass(frozen=True)
class _Lines(Basis):
    """The Euclidean lengths of the vectors along one axis."""

    @property
    @abstractmethod
    def _line(self) -> Lp:
        """The length of each vector."""

    def magnitudes(self, x: Tensor) -> Tensor:
        """The lengths."""
        return self._line(x, check=False)

    def total(self, values: Tensor) -> Tensor:
        """The sum over the vectors of a matrix."""
        return total(values, -1)

    def replaced(self, x: Tensor, scalar: Scalar) -> Tensor:
        """Every vector with the length φ'(t)."""
        wide, line = x.to(widened(x.dtype)), self._line
        slopes = line.broadcast(scalar.slope(self.magnitudes(wide)), x)
        return redistribute_like((line.dualize(wide, check=False) * slopes).to(x.dtype), x)


@dataclass(frozen=True)
class Rows(_Lines):
    """The Euclidean lengths of the rows."""

    @property
    def ball(self) -> Norm:
        """The longest row."""
        return RowNorm()

    @property
    def _line(self) -> Lp:
        return Lp(2, dims=-1)


@dataclass(frozen=True)
class Columns(_Lines):
    """The Euclidean lengths of the columns."""

    @property
    def ball(self) -> Norm:
        """The longest column."""
        return ColumnNorm()

    @property
    def _line(self) -> Lp:
        return Lp(2, dims=-2)


@dataclass(frozen=True, repr=False)
class Singular(Basis):
    """The singular values.

    Those at the level of rounding, max(m, n)·eps·σ₁, count as zero.

    Args:
        polar: a method of `steepest.polar` for gradients; None means an SVD, exact to the dtype.
    """

    polar: PolarMethod | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _ = self.ball  # which refuses what is not a method

    def __repr__(self) -> str:
        return f"Singular({'' if self.polar is None else f'polar={self.polar}'})"

    @property
    def ball(self) -> Norm:
        """The largest singular value."""
        return Spectral(polar=self.polar)

    def with_polar(self, polar: PolarMethod | None) -> Singular:
        """The same basis by this method."""
        return Singular(polar=polar)

    def magnitudes(self, x: Tensor) -> Tensor:
        """The singular values in falling order, by an SVD."""
        wide = x.to(widened(x.dtype))
        power = power_of_two_scale(wide.detach())
        with full_precision(x.device):
            return svdvals(wide * power) / power[..., 0]

    def total(self, values: Tensor) -> Tensor:
        """The sum over the singular values of a matrix."""
        return values.sum(dim=-1)

    def replaced(self, x: Tensor, scalar: Scalar) -> Tensor:
        """U·φ'(σ)·Vᴴ, by an SVD or by the polar method."""
        wide = x.to(widened(x.dtype))
        if self.polar is None:
            return _by_svd(wide, scalar.slope).to(x.dtype)
        turned = x.shape[-2] > x.shape[-1]
        out = scalar.by_polar(wide.mH if turned else wide, self.polar)
        return (out.mH if turned else out).resolve_conj().to(x.dtype)

    def gradient_bound(self, scalar: Scalar, m: int, n: int, dtype: torch.dtype) -> float:
        """1 for an SVD, else what the formula of φ' makes of the method's promise."""
        if self.polar is None:
            return 1.0
        return scalar.gradient_bound(self.polar, min(m, n), max(m, n), dtype)


def _by_svd(x: Tensor, slope: Callable[[Tensor], Tensor]) -> Tensor:
    """U·slope(σ)·Vᴴ."""
    power = power_of_two_scale(x)
    with full_precision(x.device):
        u, s, vh = svd(x * power)
        cutoff = max(x.shape[-2:]) * torch.finfo(s.dtype).eps * s[..., :1]
        slopes = slope(torch.where(s > cutoff, s, 0.0) / power[..., 0])
        mapped: Tensor = (u * slopes.to(u.dtype).unsqueeze(-2)) @ vh
    return mapped


def basis_of(ball: Norm) -> Basis | None:
    """The basis with this largest magnitude, if there is one."""
    dims = ball.dims if isinstance(ball, Lp) else None
    known: tuple[Basis, ...] = (Rows(), Columns(), Singular(polar=ball.polar), Entries(dims=dims))
    return next((basis for basis in known if basis.ball == ball), None)
