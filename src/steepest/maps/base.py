"""The contract of a convex map and its laws, and the maps that add up over a basis."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Inexact
from torch import Tensor

from steepest._common.checks import is_positive, positive
from steepest._common.errors import invalid
from steepest._common.numerics import in_double, real_dtype, widened
from steepest.maps.bases import Basis, Columns, Entries, Rows, Singular
from steepest.maps.scalars import Clip, Dead, Modulus, Root, Scalar, Square
from steepest.maps.weighted import Weighted
from steepest.norms import Coupling, Geometry, MatrixShape, Norm, Scaled, ShapeFactor
from steepest.polar import PolarMethod
from steepest.polar._rounding import product_rounding

# Margin over the rounding of a product of orthogonal factors; a test holds large gradients to it.
TOLERANCE = 4.0


class ConvexMap(Geometry):
    """An even convex function K of a tensor, smallest at 0, with its gradient and its conjugate.

    Laws, for tensors x, y and z of one shape, ⟨y, x⟩ = Re Σ conj(y)·x and 0 ≤ t ≤ 1:

        K.value(t·x + (1 − t)·z) <= t·K.value(x) + (1 − t)·K.value(z);  K.value(-x) == K.value(x)
        K.value(z) >= K.value(x) + ⟨K.grad(x), z − x⟩;  K.grad(0) == 0
        K.conjugate(y) == max of ⟨y, x⟩ − K.value(x) over x
        K.value(x) + K.conjugate(y) >= ⟨y, x⟩, with equality for y == K.grad(x)
        K.conjugate(y) < inf  if and only if  K.domain is None or K.domain(y) <= 1
        K.domain(K.grad(x)) <= 1

    An optimizer that moves by ∇K with decoupled weight decay λ minimises F(x) + K*(λx)/λ, so the
    unit ball of `domain`, shrunk by λ, is where the weights end.

    Values, gradients and conjugates have the device of the input; half precision is computed in
    float32. No result shares the memory of the input. A map of matrices acts on the last two axes
    and batches over the others, a map of entries on the whole tensor or on its `dims`. Every method
    checks the shape. It also looks for NaN, inf and so waits for an accelerator, unless told
    `check=False`.

    `c * K` for c > 0 is a map, and so is `K + L` for two that add up over the same basis: both over
    the entries, the rows, the columns or the singular values. Half the square belongs to each.
    Multiples of one norm add up to another. No other sum has a conjugate in closed form. A map
    prints as an expression that makes it; the argument of `FromNorm` is one of norms.

    A subclass is a frozen dataclass and writes `value`, `grad`, `conjugate`, `domain`,
    `geometry_norm`, `gradient_bound`, `with_polar` and `c * K`.
    """

    _for_vectors = "a map of entries such as maps.L1Map()"

    @property
    @abstractmethod
    def domain(self) -> Norm | None:
        """The norm whose unit ball is where K* is finite; None if that is everywhere."""

    @property
    @abstractmethod
    def geometry_norm(self) -> Norm:
        """A norm with the geometry of the map: it batches tensors and couples entries alike."""

    @abstractmethod
    def value(self, x: Inexact[Tensor, ...], *, check: bool = True) -> Tensor:
        """K(x): one real number for each member of the batch, differentiable.

        Raises:
            ValueError: too few axes for this map, an empty tensor, integers, NaN or inf.
        """

    @abstractmethod
    def grad(self, x: Inexact[Tensor, ...], *, check: bool = True) -> Tensor:
        """∇K(x), the shape of `x`; where there are several subgradients, one of them.

        Raises:
            ValueError: as for the value.
        """

    def grad_all(self, xs: Sequence[Tensor], *, check: bool = True) -> list[Tensor]:
        """`grad` of several tensors, whose shapes may differ; a map may share work.

        With `check=False` a map may trust the shapes as well.
        """
        return [self.grad(x, check=check) for x in xs]

    @abstractmethod
    def conjugate(
        self, y: Inexact[Tensor, ...], *, tolerance: float | None = None, check: bool = True
    ) -> Tensor:
        """K*(y) = max ⟨y, x⟩ − K(x): one number for each member of the batch, computed in float64.

        Args:
            y: a tensor, or a batch of them.
            tolerance: how far outside the domain, relatively, `y` counts as on its boundary;
                beyond it the value is inf. None stands for the rounding of an exact gradient,
                16·√max(m, n)·eps of float32 or float64 and 8·eps of half precision.
            check: whether to look for NaN and inf.

        Raises:
            ValueError: as for the value, or a negative tolerance.
        """

    @abstractmethod
    def gradient_bound(self, m: int, n: int, dtype: torch.dtype) -> float:
        """The largest domain(grad(x)) for m × n matrices: 1, or more by an inexact polar method.

        With weight decay λ the weights end in the ball of this radius over λ; inf without a domain.
        """

    @abstractmethod
    def with_polar(self, polar: PolarMethod | None) -> ConvexMap:
        """The same map with gradients by this polar method; None is an SVD.

        A map that has no use for it is returned as it is.
        """

    @abstractmethod
    def __rmul__(self, factor: float) -> ConvexMap:
        """`factor` times the map; positive."""

    def __mul__(self, factor: float) -> ConvexMap:
        """`factor` times the map."""
        return self.__rmul__(factor)

    def __radd__(self, other: object) -> ConvexMap:
        """The map itself for 0, with which `sum` begins."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __add__(self, other: ConvexMap) -> ConvexMap:
        """The sum, of two maps that add up over the same basis or are multiples of one norm."""
        if not isinstance(other, ConvexMap):
            return NotImplemented
        if isinstance(self, Separable) and isinstance(other, Separable):
            return self.plus(other)
        raise invalid(
            "K",
            other if isinstance(self, Separable) else self,
            "it does not add up over entries, rows, columns or singular values, so a sum with "
            "another map has no conjugate in closed form: use each map by itself",
        )

    def violation(self, x: Inexact[Tensor, ...], weight_decay: float | Tensor) -> Tensor:
        """max(domain(x) − 1/λ, 0): how far `x` is outside the ball of radius 1/λ; 0 without one.

        Args:
            x: a tensor, or a batch of them.
            weight_decay: λ > 0, a number or a tensor of one.

        Raises:
            ValueError: as for the value, or λ ≤ 0.
        """
        if isinstance(weight_decay, Tensor) and weight_decay.numel() == 1:
            weight_decay = weight_decay.item()
        if not is_positive(weight_decay):
            raise invalid(
                "weight_decay",
                weight_decay,
                "the ball has radius 1/weight_decay: give one number > 0",
            )
        if self.domain is None:
            self.validate(x, True)
            return torch.zeros_like(self.geometry_norm(x, check=False))
        return (self.domain(x) - 1 / weight_decay).clamp(min=0)

    @property
    def couples(self) -> Coupling:
        """The entries that one entry of the gradient depends on."""
        return self.geometry_norm.couples

    @property
    def axes(self) -> int | None:
        """How many trailing axes it acts on; None for a map of entries."""
        return self.geometry_norm.axes

    @property
    def symmetric(self) -> bool:
        """Whether K(xᵀ) = K(x) and the gradient commutes with transposition."""
        return self.geometry_norm.symmetric

    @property
    def polar(self) -> PolarMethod | None:
        """How gradients are computed; None is an SVD, or no need of one."""
        return self.geometry_norm.polar

    def matrix_shape(self, x: Tensor) -> MatrixShape:
        """Rows and columns of one member of the batch; a vector is one column."""
        return self.geometry_norm.matrix_shape(x)

    def broadcast(self, value: Tensor, x: Tensor) -> Tensor:
        """One number for each member of the batch `x`, shaped so that it multiplies `x`."""
        return self.geometry_norm.broadcast(value, x)

    def inner(self, g: Inexact[Tensor, ...], x: Inexact[Tensor, ...]) -> Tensor:
        """⟨g, x⟩ = Re Σ conj(g)·x: one real number for each member of the batch."""
        return self.geometry_norm.inner(g, x)

    def validate(self, x: Tensor, check: bool, argument: str = "x") -> None:
        """Raise unless `x` is something this map can take."""
        super().validate(x, check, argument)
        self.geometry_norm.validate(x, False, argument)

    def _slack(self, y: Tensor, tolerance: float | None) -> float:
        """The tolerance of `conjugate`."""
        if tolerance is None:
            rows, cols, _ = self.matrix_shape(y)
            return TOLERANCE * product_rounding(rows, cols, y.dtype)
        if tolerance != 0 and not is_positive(tolerance):
            raise invalid("tolerance", tolerance, "give a number >= 0, or None")
        return float(tolerance)


def convex_factor(factor: float) -> float:
    """`factor`, if it is a positive finite number.

    Raises:
        ValueError: it is something else.
    """
    return positive("factor", factor, "give a positive number: K stays convex")


# What the functions of `steepest.maps` that make them are called.
NAMES: dict[tuple[type[Scalar], type[Basis]], str] = {
    (Modulus, Entries): "L1Map",
    (Modulus, Rows): "GroupRows",
    (Modulus, Columns): "GroupColumns",
    (Modulus, Singular): "NuclearMap",
    (Root, Entries): "SmoothL1",
    (Root, Singular): "SmoothNuclear",
    (Clip, Entries): "Huber",
    (Clip, Singular): "SpectralHuber",
    (Dead, Entries): "DeadZone",
    (Dead, Singular): "SpectralDeadZone",
}


@dataclass(frozen=True, repr=False)
class Separable(ConvexMap):
    """The sum of one function φ of each magnitude t in a basis, K(x) = Σ φ(t) for x = Σ t·e.

        grad(x) = Σ φ'(t)·e;  conjugate(y) = Σ φ*(s) for y = Σ s·e;  domain: max s/φ'(∞)

    It follows for singular values from von Neumann's inequality: ⟨y, x⟩ is largest where x and y
    have the same singular vectors.

    Args:
        scalar: φ.
        basis: entries, rows, columns or singular values.

    Raises:
        ValueError: something that is not a scalar or not a basis.

    Examples:
        >>> import torch
        >>> K = Separable(Clip(0.5), Rows())
        >>> x = torch.tensor([[3.0, 4.0], [0.0, 0.1]])
        >>> round(float(K.value(x)), 4), K.domain
        (4.76, RowNorm())

    Sources:
        Chen, Liu, Liang & Liu, arXiv 2310.05898; Lewis, The convex analysis of unitarily invariant
        matrix functions, 1995.
    """

    scalar: Scalar
    basis: Basis

    def __post_init__(self) -> None:
        for name, kind in (("scalar", Scalar), ("basis", Basis)):
            if not isinstance(getattr(self, name), kind):
                raise invalid(name, getattr(self, name), f"give a maps.{kind.__name__}")
        # The order and the form of a sum make no difference.
        object.__setattr__(self, "scalar", Weighted.of((1.0, self.scalar)))

    def __repr__(self) -> str:
        terms = self.scalar.terms if isinstance(self.scalar, Weighted) else ((1.0, self.scalar),)
        return " + ".join(
            self._term(scalar) if weight == 1 else f"{weight!r} * {self._term(scalar)}"
            for weight, scalar in terms
        )

    def _term(self, scalar: Scalar) -> str:
        if isinstance(scalar, Square) and (self.basis == Entries() or not self._is_square):
            return "HalfSquare()"
        name = NAMES.get((type(scalar), type(self.basis)))
        if name is None:
            return f"Separable({scalar}, {self.basis})"
        given = [repr(scalar.delta)] if hasattr(scalar, "delta") else []
        inside = repr(self.basis).partition("(")[2].removesuffix(")")
        return f"{name}({', '.join([*given, *([inside] if inside else [])])})"

    @property
    def domain(self) -> Norm | None:
        """The largest magnitude over the limit of the slope."""
        limit = self.scalar.limit
        if math.isinf(limit):
            return None
        return (
            self.basis.ball
            if limit == 1
            else Scaled(self.basis.ball, ShapeFactor(denominator=limit))
        )

    @property
    def geometry_norm(self) -> Norm:
        """The largest magnitude."""
        return self.basis.ball

    def validate(self, x: Tensor, check: bool, argument: str = "x") -> None:
        """Raise unless `x` is something this map can take, in a type that has room for δ."""
        super().validate(x, check, argument)
        self.scalar.fits(widened(x.dtype))

    def value(self, x: Inexact[Tensor, ...], *, check: bool = True) -> Tensor:
        """Σ φ(t)."""
        self.validate(x, check)
        return self.basis.total(self.scalar.value(self.basis.magnitudes(x)))

    def grad(self, x: Inexact[Tensor, ...], *, check: bool = True) -> Tensor:
        """Σ φ'(t)·e; the duality map of the domain's norm where K is a norm."""
        self.validate(x, check)
        return self.grad_all([x], check=False)[0]

    def grad_all(self, xs: Sequence[Tensor], *, check: bool = True) -> list[Tensor]:
        """`grad` of each; polar factors share work."""
        if check:
            for x in xs:
                self.validate(x, check)
        if self.domain is not None and self._is_norm:
            return self.domain.dualize_all(xs, check=False)
        return [self.basis.replaced(x, self.scalar) for x in xs]

    def conjugate(
        self, y: Inexact[Tensor, ...], *, tolerance: float | None = None, check: bool = True
    ) -> Tensor:
        """Σ φ*(s)."""
        self.validate(y, check, "y")
        slack, limit = self._slack(y, tolerance), self.scalar.limit
        s = self.basis.magnitudes(in_double(y))
        inside = self.basis.total((s > limit * (1 + slack)).to(s.dtype)) == 0
        value = self.basis.total(self.scalar.conjugate(s.clamp(max=limit)))
        return torch.where(inside, value, math.inf).to(real_dtype(widened(y.dtype)))

    def gradient_bound(self, m: int, n: int, dtype: torch.dtype) -> float:
        """1, or what φ' by the polar method can give; inf without a domain."""
        if self.domain is None:
            return math.inf
        return self.basis.gradient_bound(self.scalar, m, n, dtype)

    def with_polar(self, polar: PolarMethod | None) -> Separable:
        """The same map by this method."""
        return Separable(self.scalar, self.basis.with_polar(polar))

    def __rmul__(self, factor: float) -> Separable:
        """`factor` times the map."""
        return Separable(Weighted.of((convex_factor(factor), self.scalar)), self.basis)

    def plus(self, other: Separable) -> Separable:
        """The sum of two maps in one basis.

        Raises:
            ValueError: they add up over different things.
        """
        if other._is_square:
            basis = self.basis
        elif self._is_square or self.basis == other.basis:
            basis = other.basis
        else:
            raise invalid(
                "K",
                other,
                f"it adds up over {other.basis}, {self} over {self.basis}; only a sum over one "
                "basis has a conjugate in closed form",
            )
        return Separable(Weighted.of((1.0, self.scalar), (1.0, other.scalar)), basis)

    @property
    def _is_norm(self) -> bool:
        return self._only(Modulus)

    @property
    def _is_square(self) -> bool:
        return self._only(Square)

    def _only(self, kind: type[Scalar]) -> bool:
        scalar = self.scalar
        parts = [p for _, p in scalar.terms] if isinstance(scalar, Weighted) else [scalar]
        return all(isinstance(part, kind) for part in parts)
