"""The rule of a parameter group: where its averages point, how far a step goes, in which ball."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from steepest.maps import ConvexMap, FromNorm, NuclearMap
from steepest.norms import Geometry, Norm
from steepest.optim.updates import ShapeRule, shape_factor

Shapes = Sequence[tuple[int, int, int]]
"""(batch, rows, columns) of each matrix of a parameter; empty for one that is no matrix."""


class UpdateRule(ABC):
    """The facts of a group that the step loop reads; a rule is a value, and never changes."""

    made_of: Sequence[object] = ()
    """The values of a group that the rule was made of."""

    def of(self, values: Sequence[object]) -> Self:
        """The rule itself, with the values that it was made of."""
        object.__setattr__(self, "made_of", values)
        return self

    @property
    @abstractmethod
    def geometry(self) -> Geometry:
        """The norm or the map that decides on the directions."""

    @abstractmethod
    def directions(self, us: Sequence[Tensor]) -> list[Tensor]:
        """The directions of the averages u, in fresh memory; no value is looked at."""

    def lengths(self, shapes: Shapes) -> list[float]:
        """The length of a step over `lr`, for each part of a parameter."""
        return [1.0] * max(1, len(shapes))

    @property
    def ball(self) -> Norm | None:
        """The norm in whose ball decay keeps a parameter; None without one."""
        return self.constraint_map.domain if self.constraint_map else None

    @property
    @abstractmethod
    def constraint_map(self) -> ConvexMap | None:
        """The K whose gradient is the direction: decay λ constrains to λ·W in dom K*.

        None where the length of a step follows the gradient: then decay is a penalty.
        """


@dataclass(frozen=True)
class NormRule(UpdateRule):
    """Steps of norm 1 along the duality map.

    Args:
        norm: The norm.
    """

    norm: Norm

    @property
    def geometry(self) -> Norm:
        """The norm."""
        return self.norm

    def directions(self, us: Sequence[Tensor]) -> list[Tensor]:
        """norm.dualize(u)."""
        return self.norm.dualize_all(us, check=False)

    @property
    def ball(self) -> Norm | None:
        """The norm itself."""
        return self.norm

    @property
    def constraint_map(self) -> ConvexMap | None:
        """The dual norm."""
        return FromNorm(self.norm.dual)


@dataclass(frozen=True)
class ShapedRule(NormRule):
    """Steps along the polar factor, by a factor that depends on the shape of a matrix: Muon.

    Args:
        norm: The spectral norm.
        adjust: The rule for the factor, as in `shape_factor`.
    """

    adjust: ShapeRule

    def lengths(self, shapes: Shapes) -> list[float]:
        """The factor of each matrix."""
        return [shape_factor(m, n, self.adjust) for _, m, n in shapes]

    @property
    def constraint_map(self) -> ConvexMap | None:
        """The nuclear norm."""
        return NuclearMap(polar=self.norm.polar)


@dataclass(frozen=True)
class UnboundedRule(NormRule):
    """Steps along the duality map whose length follows the gradient, so that there is no ball.

    The length is found for all parameters together, outside the rule.

    Args:
        norm: The norm.
    """

    @property
    def ball(self) -> Norm | None:
        """None."""
        return None

    @property
    def constraint_map(self) -> ConvexMap | None:
        """None."""
        return None


@dataclass(frozen=True)
class SharpRule(UnboundedRule):
    """Steps along the sharp operator over the sharpness, each parameter for itself.

    Args:
        norm: The norm.
        sharpness: The smoothness constant λ of the loss in the norm.
    """

    sharpness: float

    def directions(self, us: Sequence[Tensor]) -> list[Tensor]:
        """norm.dual(u)·norm.dualize(u)."""
        return [self.norm.sharp(u, check=False) for u in us]

    def lengths(self, shapes: Shapes) -> list[float]:
        """1/λ."""
        return [1 / self.sharpness] * max(1, len(shapes))


@dataclass(frozen=True)
class MapRule(UpdateRule):
    """Steps along the gradient of a convex map: Lion-K.

    Args:
        K: The map.
    """

    K: ConvexMap

    @property
    def geometry(self) -> ConvexMap:
        """The map."""
        return self.K

    def directions(self, us: Sequence[Tensor]) -> list[Tensor]:
        """K.grad(u)."""
        return self.K.grad_all(us, check=False)

    @property
    def constraint_map(self) -> ConvexMap | None:
        """The map itself."""
        return self.K
