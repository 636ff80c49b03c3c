"""The rule of a parameter group: where its averages point, how far a step goes, in which ball."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from steepest._common.errors import invalid
from steepest.maps import ConvexMap, FromNorm, NuclearMap
from steepest.norms import Geometry, Norm
from steepest.optim.choices import ShapeRule

Shapes = Sequence[tuple[int, int, int]]
"""(batch, rows, columns) of each matrix of a parameter; empty for one that is not a matrix."""


def shape_factor(m: int, n: int, rule: ShapeRule) -> float:
    """The factor of the learning rate for an m × n matrix, m outputs and n inputs.

        "original", None:      √max(1, m/n)
        "match_rms_adamw":     0.2·√max(m, n)
        "spectral_unclamped":  √(m/n)

    With the second, a full-rank update has entries of root mean square 0.2, as AdamW's have. With
    the third its RMS → RMS norm is 1: the factor of `norms.Operator("rms", "rms")`.

    Examples:
        >>> shape_factor(512, 128, "original"), shape_factor(100, 64, "match_rms_adamw")
        (2.0, 2.0)

    Sources:
        torch.optim.Muon, `adjust_lr_fn` (the third since torch 2.14); Liu et al., arXiv 2502.16982,
        section 2.2; Bernstein & Newhouse, arXiv 2410.21265.
    """
    if rule == "match_rms_adamw":
        return float(0.2 * max(m, n) ** 0.5)
    return float((m / n if rule == "spectral_unclamped" else max(1.0, m / n)) ** 0.5)


def check_average(group: Mapping[str, Any]) -> None:
    """Raise if a group that has `betas` has another momentum, which would be ignored.

    Raises:
        ValueError: it has.
    """
    for key in ("momentum", "nesterov"):
        if group.get(key):
            raise invalid(
                key,
                group[key],
                f"betas={group['betas']} are the weights of this average: change them instead, and "
                "give a scheduler cycle_momentum=False",
            )


class UpdateRule(ABC):
    """The facts of a group that the step loop reads; a rule is a value, and never changes."""

    geometry: Geometry
    """The norm or the map that decides on the directions."""

    @abstractmethod
    def directions(self, us: Sequence[Tensor]) -> list[Tensor]:
        """The directions of the averages u; no value is looked at.

        They may be scaled in place, where a view has split a parameter; an average that is its own
        direction is not split.
        """

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
        geometry: The norm.
    """

    geometry: Norm

    def directions(self, us: Sequence[Tensor]) -> list[Tensor]:
        """norm.dualize(u)."""
        return self.geometry.dualize_all(us, check=False)

    @property
    def ball(self) -> Norm | None:
        """The norm itself."""
        return self.geometry

    @property
    def constraint_map(self) -> ConvexMap | None:
        """The dual norm."""
        return FromNorm(self.geometry.dual)


@dataclass(frozen=True)
class ShapedRule(NormRule):
    """Steps along the polar factor, by a factor that depends on the shape of a matrix: Muon.

    Args:
        geometry: The spectral norm.
        adjust: The rule for the factor, as in `shape_factor`.
    """

    adjust: ShapeRule

    def lengths(self, shapes: Shapes) -> list[float]:
        """The factor of each matrix."""
        return [shape_factor(m, n, self.adjust) for _, m, n in shapes]

    @property
    def constraint_map(self) -> ConvexMap | None:
        """The nuclear norm."""
        return NuclearMap(polar=self.geometry.polar)


@dataclass(frozen=True)
class UnboundedRule(NormRule):
    """Steps along the duality map whose length follows the gradient, so that there is no ball.

    The length is found for all parameters together, outside the rule.

    Args:
        geometry: The norm.
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
        geometry: The norm.
        sharpness: The smoothness constant λ of the loss in the norm.
    """

    sharpness: Any

    def directions(self, us: Sequence[Tensor]) -> list[Tensor]:
        """norm.dual(u)·norm.dualize(u)."""
        return self.geometry.sharp_all(us, check=False)

    def lengths(self, shapes: Shapes) -> list[float]:
        """The inverse sharpness 1/λ."""
        return [1 / self.sharpness] * max(1, len(shapes))


@dataclass(frozen=True)
class MapRule(UpdateRule):
    """Steps along the gradient of a convex map: Lion-K.

    Args:
        geometry: The map.
    """

    geometry: ConvexMap

    def directions(self, us: Sequence[Tensor]) -> list[Tensor]:
        """K.grad(u)."""
        return self.geometry.grad_all(us, check=False)

    @property
    def constraint_map(self) -> ConvexMap | None:
        """The map itself."""
        return self.geometry
