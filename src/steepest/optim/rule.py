"""The rule of a parameter group: where its averages point, how far a step goes, in which ball."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from steepest._common.errors import invalid
from steepest.maps import ConvexMap, FromNorm, NuclearMap
from steepest.norms import Coupling, Geometry, Norm
from steepest.optim.choices import SLOTS, ShapeRule
from steepest.retractions import Retraction
from steepest.transforms import State, StateShapes, Transform
from steepest.transforms.transform import kept_at, placed

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

    keeps_state: bool = False
    """Whether the directions depend on what is kept of the steps before, beside the momentum."""

    observes: bool = False
    """Whether what is kept depends on the gradient of the step, beside its average."""

    retraction: Retraction | None = None
    """The way in which weights take a step; None for decay and a sum."""

    @abstractmethod
    def directions(self, us: Sequence[Tensor], states: Sequence[State] = ()) -> list[Tensor]:
        """The directions of the averages u; no value is looked at.

        They may be scaled in place, where a view has split a parameter; an average that is its own
        direction is not split.

        Args:
            us: The averages.
            states: The state of each, if the rule keeps one; updated in place.
        """

    def state_shapes(self, rows: int, cols: int) -> StateShapes:
        """The shapes of what is kept of a matrix, by name."""
        return {}

    def observe(self, gradients: Sequence[Tensor], states: Sequence[State]) -> None:
        """Look at the gradients of a step, before the directions; only if the rule `observes`."""
        assert not gradients, "this rule keeps nothing"

    @property
    def couples(self) -> Coupling:
        """The entries of an average that one entry of its direction depends on."""
        return self.geometry.couples

    @property
    def symmetric(self) -> bool:
        """Whether the direction of a transposed average is the transposed direction."""
        return self.geometry.symmetric

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

    def directions(self, us: Sequence[Tensor], states: Sequence[State] = ()) -> list[Tensor]:
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

    def directions(self, us: Sequence[Tensor], states: Sequence[State] = ()) -> list[Tensor]:
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

    def directions(self, us: Sequence[Tensor], states: Sequence[State] = ()) -> list[Tensor]:
        """K.grad(u)."""
        return self.geometry.grad_all(us, check=False)

    @property
    def constraint_map(self) -> ConvexMap | None:
        """The map itself."""
        return self.geometry


@dataclass(frozen=True)
class TransformedRule(UpdateRule):
    """The steps of another rule, with maps before and after its own, or another way to take them.

    Args:
        rule: The other rule.
        before: The map of the averages; None for none.
        after: The map of the directions; None for none.
        retraction: The way in which weights take the step; None for decay and a sum.
    """

    rule: UpdateRule
    before: Transform | None = None
    after: Transform | None = None
    retraction: Retraction | None = None

    @property
    def transforms(self) -> dict[str, Transform]:
        """The maps that there are, by their place."""
        slots = {"before": self.before, "after": self.after}
        return {slot: each for slot, each in slots.items() if each is not None}

    @property
    def geometry(self) -> Geometry:  # type: ignore[override]
        """The geometry of the rule."""
        return self.rule.geometry

    @property
    def keeps_state(self) -> bool:  # type: ignore[override]
        """Whether a map keeps one."""
        return any(each.state_shapes(1, 1) for each in self.transforms.values())

    @property
    def observes(self) -> bool:  # type: ignore[override]
        """Whether a map does."""
        return any(each.observes for each in self.transforms.values())

    def state_shapes(self, rows: int, cols: int) -> StateShapes:
        """The shapes of what the maps keep, named after their place."""
        shapes: dict[str, tuple[int, ...]] = {}
        for slot, each in self.transforms.items():
            shapes |= placed(slot, each.state_shapes(rows, cols))
        return shapes

    def observe(self, gradients: Sequence[Tensor], states: Sequence[State]) -> None:
        """Let each map look that does."""
        for slot, each in self.transforms.items():
            if each.observes:
                for gradient, state in zip(gradients, states, strict=True):
                    each.observe(gradient, kept_at(slot, state))

    def directions(self, us: Sequence[Tensor], states: Sequence[State] = ()) -> list[Tensor]:
        """after(dualize(before(u)))."""
        kept = states or [{} for _ in us]
        if self.before is not None:
            pairs = zip(us, kept, strict=True)
            us = [self.before(u, kept_at("before", state)) for u, state in pairs]
        found = self.rule.directions(us)
        if self.after is None:
            return found
        return [self.after(d, kept_at("after", s)) for d, s in zip(found, kept, strict=True)]

    def lengths(self, shapes: Shapes) -> list[float]:
        """Those of the rule."""
        return self.rule.lengths(shapes)

    @property
    def couples(self) -> Coupling:
        """Everything, unless each map takes every entry by itself and keeps nothing."""
        alone = all(each.couples is Coupling.ENTRIES for each in self.transforms.values())
        return self.rule.couples if alone and not self.keeps_state else Coupling.MATRIX

    @property
    def symmetric(self) -> bool:
        """Whether no map tells rows from columns, or keeps anything of them."""
        alike = (Coupling.ENTRIES, Coupling.SCALAR)
        same = all(each.couples in alike for each in self.transforms.values())
        return self.rule.symmetric and same and not self.keeps_state

    @property
    def ball(self) -> Norm | None:
        """The ball of the rule, if its own directions are what the weights are moved along."""
        return None if self.after or self.retraction else self.rule.ball

    @property
    def constraint_map(self) -> ConvexMap | None:
        """None: the direction is no gradient of a map of the average."""
        return None


def with_maps(rule: UpdateRule, group: Mapping[str, Any]) -> UpdateRule:
    """A rule with the maps and the retraction that a group asks for; itself if there are none."""
    asked = {key: group.get(key) for key in SLOTS}
    return TransformedRule(rule, **asked) if any(asked.values()) else rule
