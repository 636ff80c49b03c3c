"""A norm times a number, which may depend on the shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from jaxtyping import Inexact
from torch import Tensor

from steepest._common.checks import positive
from steepest._common.errors import invalid
from steepest._common.numerics import widened
from steepest.norms.norm import Coupling, MatrixShape, Norm, ball_radius
from steepest.polar import PolarMethod


@dataclass(frozen=True, kw_only=True, repr=False)
class ShapeFactor:
    """numerator/denominator · rows^a · cols^b · taps^c: a factor that may depend on the shape.

    A vector is one column: `rows` is its length. `taps` are the points of a convolution kernel.

    Args:
        numerator: positive.
        denominator: positive; kept apart so that the inverse of the inverse is the factor.
        rows: exponent a.
        cols: exponent b.
        taps: exponent c.

    Examples:
        >>> ShapeFactor(rows=-0.5, cols=0.5).at(MatrixShape(16, 64))  # RMS → RMS
        2.0
    """

    numerator: float = 1.0
    denominator: float = 1.0
    rows: float = 0.0
    cols: float = 0.0
    taps: float = 0.0

    def __post_init__(self) -> None:
        for name in ("numerator", "denominator"):
            positive(name, getattr(self, name))

    def __repr__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        shown = [f"{f.name}={given[f.name]:g}" for f in fields(self) if given[f.name] != f.default]
        return f"ShapeFactor({', '.join(shown)})"

    def at(self, shape: MatrixShape) -> float:
        """The number for one shape."""
        powers = shape.rows**self.rows * shape.cols**self.cols * shape.taps**self.taps
        return float(self.numerator / self.denominator * powers)

    @property
    def inverse(self) -> ShapeFactor:
        """One over it."""
        return ShapeFactor(
            numerator=self.denominator,
            denominator=self.numerator,
            rows=-self.rows,
            cols=-self.cols,
            taps=-self.taps,
        )


@dataclass(frozen=True, repr=False)
class Scaled(Norm):
    """`factor` times a norm.

        n(x) = c·norm(x);  n.dual(g) = norm.dual(g)/c;  n.dualize(g) = norm.dualize(g)/c

    Args:
        norm: any norm of tensors.
        factor: a positive number c, or a `ShapeFactor` that depends on the shape.
        name: the text to print, for a norm that has a name of its own.

    Raises:
        ValueError: a factor that is not positive.

    Examples:
        >>> import torch
        >>> from steepest import norms
        >>> rms = Scaled(norms.L2(), ShapeFactor(rows=-0.5))
        >>> float(rms(torch.full((4,), 2.0))), rms == norms.RMS()
        (2.0, True)
    """

    norm: Norm
    factor: ShapeFactor
    name: str = field(default="", compare=False)

    def __init__(self, norm: Norm, factor: float | ShapeFactor, *, name: str = "") -> None:
        if not isinstance(norm, Norm):
            raise invalid("norm", norm, "give a norm object such as norms.Spectral()")
        object.__setattr__(self, "norm", norm)
        object.__setattr__(self, "name", name)
        if not isinstance(factor, ShapeFactor):
            remedy = "give a positive number or a norms.ShapeFactor"
            factor = ShapeFactor(numerator=positive("factor", factor, remedy))
        object.__setattr__(self, "factor", factor)

    def __repr__(self) -> str:
        if not self.name:
            return f"Scaled({self.norm}, {self.factor})"
        return self.name if self.polar is None else f"{self.name} by {self.polar}"

    @property
    def dual(self) -> Scaled:
        """The dual norm, divided by the factor."""
        return Scaled(self.norm.dual, self.factor.inverse)

    @property
    def couples(self) -> Coupling:
        """The coupling of the norm that is scaled."""
        return self.norm.couples

    @property
    def axes(self) -> int | None:
        """The number of axes of the norm that is scaled."""
        return self.norm.axes

    @property
    def symmetric(self) -> bool:
        """Whether the factor treats rows and columns alike, as the norm does."""
        # A symmetric norm of entries takes the whole tensor, which has no columns.
        alike = self.norm.axes is None or self.factor.rows == self.factor.cols
        return self.norm.symmetric and alike

    def matrix_shape(self, x: Tensor) -> MatrixShape:
        """The sizes that the norm that is scaled says of `x`."""
        return self.norm.matrix_shape(x)

    @property
    def polar(self) -> PolarMethod | None:
        """The polar method of the norm that is scaled."""
        return self.norm.polar

    def with_polar(self, polar: PolarMethod | None) -> Scaled:
        """The same norm by this method."""
        norm = self.norm.with_polar(polar)
        return self if norm == self.norm else Scaled(norm, self.factor, name=self.name)

    def validate(self, x: Tensor, check: bool, argument: str = "x") -> None:
        """Raise as the norm that is scaled does."""
        self.norm.validate(x, check, argument)

    def inner(self, g: Inexact[Tensor, ...], x: Inexact[Tensor, ...]) -> Tensor:
        """The inner product of the norm that is scaled."""
        return self.norm.inner(g, x)

    def broadcast(self, value: Tensor, x: Tensor) -> Tensor:
        """Shape `value` as the norm that is scaled does."""
        return self.norm.broadcast(value, x)

    def __call__(self, x: Inexact[Tensor, ...], *, check: bool = True) -> Tensor:
        """Factor times norm: one real number for each member of the batch."""
        value = self.norm(x, check=check)
        return value * self.factor.at(self.norm.matrix_shape(x))

    def dualize(self, g: Inexact[Tensor, ...], *, check: bool = True) -> Tensor:
        """The duality map of the norm over the factor."""
        self.validate(g, check, "g")
        unit = self.norm.dualize(g.to(widened(g.dtype)), check=False)
        return (unit / self.factor.at(self.norm.matrix_shape(g))).to(g.dtype)

    def dualize_all(self, gs: Sequence[Tensor], *, check: bool = True) -> list[Tensor]:
        """`dualize` of each, together."""
        units = self.norm.dualize_all(gs, check=check)
        return [
            u / self.factor.at(self.norm.matrix_shape(g)) for u, g in zip(units, gs, strict=True)
        ]

    def sharp(self, g: Inexact[Tensor, ...], *, check: bool = True) -> Tensor:
        """The sharp operator of the norm over the square of the factor."""
        self.validate(g, check, "g")
        sharp = self.norm.sharp(g.to(widened(g.dtype)), check=False)
        return (sharp / self.factor.at(self.norm.matrix_shape(g)) ** 2).to(g.dtype)

    def project(
        self, x: Inexact[Tensor, ...], radius: float | Tensor = 1.0, *, check: bool = True
    ) -> Tensor:
        """The nearest point of the ball of the norm itself with radius/factor."""
        self.validate(x, check)
        r = ball_radius(radius, x)
        return self.norm.project(x, r / self.factor.at(self.norm.matrix_shape(x)), check=False)
