"""The contract of a norm and its laws, and what every norm derives from four methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import torch
from jaxtyping import Inexact
from torch import Tensor

from steepest._common.errors import invalid, shape_text
from steepest._common.numerics import looked_at, widened
from steepest.polar import PolarMethod
from steepest.sharding.reductions import all_true, redistribute_like, total


class Coupling(Enum):
    """The entries of a tensor that its duality map has to see together."""

    ENTRIES = "entries"
    """Each entry alone: the sign."""
    ROWS = "rows"
    """Each row alone."""
    COLUMNS = "columns"
    """Each column alone."""
    SCALAR = "scalar"
    """Each entry, and a few numbers of the whole tensor, such as its norm."""
    MATRIX = "matrix"
    """Everything."""


class MatrixShape(NamedTuple):
    """The sizes that a factor depending on the shape may use."""

    rows: int
    cols: int
    taps: int = 1


class Geometry(ABC):
    """How a function of tensors sees them: as a batch of what, and which entries together.

    Norms have it, and so have other functions with a direction at each point. It is data, for an
    optimizer to read: what may be stacked, turned over or cut.
    """

    _for_vectors = "a vector norm such as norms.L2()"

    @property
    @abstractmethod
    def couples(self) -> Coupling:
        """The entries that one entry of the direction depends on."""

    @property
    @abstractmethod
    def axes(self) -> int | None:
        """How many trailing axes it acts on; None for entries."""

    @property
    @abstractmethod
    def symmetric(self) -> bool:
        """Whether transposition leaves its values alone, and commutes with its directions."""

    def matrix_shape(self, x: Tensor) -> MatrixShape:
        """Rows and columns of one member of the batch: of the last two axes."""
        return MatrixShape(x.shape[-2], x.shape[-1])

    def broadcast(self, value: Tensor, x: Tensor) -> Tensor:
        """One number for each member of the batch `x`, shaped so that it multiplies `x`."""
        return value.reshape(*value.shape, *[1] * (self.axes or 0))

    def inner(self, g: Inexact[Tensor, ...], x: Inexact[Tensor, ...]) -> Tensor:
        """⟨g, x⟩ = Re Σ conj(g)·x: one real number for each member of the batch."""
        return total(inner(g, x), tuple(range(-(self.axes or 0), 0)))

    @property
    def polar(self) -> PolarMethod | None:
        """How its singular values and vectors are computed; None is an SVD, or no need of them."""
        return None

    def validate(self, x: Tensor, check: bool, argument: str = "x") -> None:
        """Raise unless `x` is something it can measure."""
        if not isinstance(x, Tensor):
            raise invalid(argument, type(x).__name__, "give a tensor")
        if not (x.is_floating_point() or x.is_complex()):
            raise invalid(argument, x.dtype, "give floating-point or complex numbers")
        if x.ndim < (self.axes or 0):
            raise invalid(
                argument,
                f"shape ({', '.join(map(str, x.shape))})",
                f"{self!r} acts on the last {self.axes} axes: give (*batch, m, n"
                + (", *taps)" if self.axes != 2 else f"), or take {self._for_vectors}"),
            )
        if x.numel() == 0:
            raise invalid(argument, shape_text(x.shape), "an empty tensor has no norm: skip it")
        finite = not check or all_true(torch.isfinite(x))
        if finite is None:
            raise invalid(
                "check",
                check,
                "under torch.func.vmap no value can be looked at: pass check=False, or give the "
                "whole batch, which is one call",
            )
        if not finite:
            raise invalid(
                argument, "NaN or inf", "a norm needs finite numbers: find out where they come from"
            )


class Norm(Geometry):
    """A norm n of a tensor, its dual norm and its duality map.

    Laws, for tensors x, y and g of one shape, ⟨g, x⟩ = Re Σ conj(g)·x and any number c:

        n(x) > 0 unless x == 0;  n(c·x) == |c|·n(x);  n(x + y) <= n(x) + n(y)
        n.dual(g) == max of ⟨g, x⟩ over n(x) <= 1
        n(n.dualize(g)) == 1  and  ⟨g, n.dualize(g)⟩ == n.dual(g)  unless g == 0
        n.dualize(0) == 0
        n.dual.dual == n
        ⟨g, n.sharp(g)⟩ == n(n.sharp(g))**2 == n.dual(g)**2
        p == x  if n(x) <= r, else  n(p) == r  and  ⟨x − p, p⟩ == r·n.dual(x − p)

    with p = n.project(x, r).

    The last one says that p is the point of the ball of radius r nearest to x in Frobenius
    distance. Values, results and gradients have the device of the input; half precision is computed
    in float32. No result shares the memory of the input.

    A norm of matrices acts on the last two axes and batches over the others, a norm of entries on
    the whole tensor or on its `dims`. Scale never matters: entries of 1e±30 are fine in float32.

    Every method checks the shape. It also looks for NaN, inf and so waits for an accelerator,
    unless told `check=False`, which then gives whatever arithmetic gives: NaN for the member of a
    batch that holds some, and the right result for the others.

    The laws are those of exact arithmetic, and hold to rounding by an SVD. A norm that is told
    another polar method keeps them to the method's `accuracy`: with Q = polar(G) in the place of
    UVᴴ, singular values between 1 − error and upper, n(n.dualize(G)) lies between these numbers
    where G has no σ below the resolution, and so does n(n.project(x, r))/r.

    A subclass is a frozen dataclass: norms are compared, and a checkpoint holds their text. It
    writes `__call__`, `dualize`, `project` and `dual`, and says with data what it couples, over how
    many axes it acts, and whether transposition leaves it alone. One that acts on other than two
    axes writes `matrix_shape` and `broadcast` too, and one of singular values `polar` and
    `with_polar`.
    """

    @property
    @abstractmethod
    def dual(self) -> Norm:
        """The dual norm."""

    @abstractmethod
    def __call__(self, x: Inexact[Tensor, ...], *, check: bool = True) -> Tensor:
        """The norm of `x`: one real number for each member of the batch, differentiable.

        Raises:
            ValueError: too few axes for this norm, an empty tensor, integers, NaN or inf.
        """

    @abstractmethod
    def dualize(self, g: Inexact[Tensor, ...], *, check: bool = True) -> Tensor:
        """The duality map: the x with n(x) = 1 that maximises ⟨g, x⟩; the shape of `g`.

        Where several x do, one of them, or a mixture that treats them alike.

        Raises:
            ValueError: as for the norm itself.
        """

    def dualize_all(self, gs: Sequence[Tensor], *, check: bool = True) -> list[Tensor]:
        """`dualize` of several tensors, whose shapes may differ; a norm may share work.

        With `check=False` a norm may trust the shapes as well.
        """
        return [self.dualize(g, check=check) for g in gs]

    @abstractmethod
    def project(
        self, x: Inexact[Tensor, ...], radius: float | Tensor = 1.0, *, check: bool = True
    ) -> Tensor:
        """The nearest point, in Frobenius distance, of the ball n ≤ `radius`.

        Args:
            x: a tensor, or a batch of them.
            radius: the radius of the ball, at least 0; a tensor gives each member of the batch its
                own.
            check: whether to look for NaN and inf.

        Raises:
            ValueError: as for the norm itself, or a negative radius.
        """

    def sharp(self, g: Inexact[Tensor, ...], *, check: bool = True) -> Tensor:
        """The sharp operator g^♯ = n.dual(g)·n.dualize(g), the gradient of ½·n.dual²."""
        self.validate(g, check, "g")
        # The dual norm may be too large for a half-precision number, and the product not.
        wide = g.to(widened(g.dtype))
        unit = self.dualize(wide, check=False)
        # ⟨g, dualize(g)⟩ is the dual norm, without another decomposition.
        value = self.inner(wide, unit)
        return redistribute_like((self.broadcast(value, g) * unit).to(g.dtype), g)

    def sharp_all(self, gs: Sequence[Tensor], *, check: bool = True) -> list[Tensor]:
        """`sharp` of several tensors; one that is its own image may come back as it is."""
        return [self.sharp(g, check=check) for g in gs]

    def init(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """A random point of norm 1: the duality map of a Gaussian tensor, drawn in float64.

        Args:
            shape: shape of the result; a batch gives independent members.
            generator: random number generator, for a repeatable draw; None means torch's own.
            dtype: real or complex type, torch's default if None.
            device: the device of the result, torch's default if None.

        Raises:
            ValueError: the shape is empty or has too few axes for this norm.
        """
        wide, dtype = gaussian(shape, generator=generator, dtype=dtype, device=device)
        return self.dualize(wide, check=False).to(dtype)

    def with_polar(self, polar: PolarMethod | None) -> Norm:
        """The same norm, with singular values and vectors by this polar method; None is an SVD.

        A norm that has no use for it is returned as it is.
        """
        return self


def gaussian(
    shape: Sequence[int],
    *,
    generator: torch.Generator | None,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> tuple[Tensor, torch.dtype]:
    """A Gaussian tensor in double precision, and the type that was asked for.

    In float32 four in 1 000 Gaussian matrices of 128 × 128 have a singular value at the level of
    rounding, which a polar factor leaves out.
    """
    dtype = dtype or torch.get_default_dtype()
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(tuple(shape), generator=generator, dtype=wide, device=device), dtype


def inner(g: Tensor, x: Tensor) -> Tensor:
    """Re conj(g)·x, entry by entry."""
    return (g.conj() * x).real if g.is_complex() else g * x


def ball_radius(radius: object, like: Tensor, batch: Sequence[int] | None = None) -> Tensor:
    """The radius of a ball in float64 on the device of `like`, for each member of a batch.

    Raises:
        ValueError: it is negative, no number, or has another shape than the batch.
    """
    try:
        r = torch.as_tensor(radius, dtype=torch.float64, device=like.device)
    except (TypeError, ValueError, RuntimeError):
        raise invalid("radius", radius, "give a number >= 0") from None
    # A number is looked at here, not on an accelerator, which would have to be waited for.
    if (radius >= 0 if isinstance(radius, int | float) else looked_at((r >= 0).all())) is False:
        raise invalid("radius", radius, "give a number >= 0")
    if batch is None:
        return r
    try:
        return r.expand(tuple(batch))
    except RuntimeError:
        raise invalid(
            "radius",
            shape_text(r.shape),
            f"give one number, or one for each member of the batch: {shape_text(batch)}",
        ) from None
