"""How data flows through a module: what follows what, what is added, what is skipped."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from steepest._common.checks import positive
from steepest._common.errors import invalid
from steepest.norms import Norm


@dataclass(frozen=True, kw_only=True)
class ParameterUse:
    """One place where a parameter enters the computation.

    Args:
        name: the parameter's name at this place.
        norm: how its change is measured there: the output moves by at most this, if nothing
            follows.
        mass: its share of the change.
        factor: the product of the sensitivities of what follows.
    """

    name: str
    norm: Norm
    mass: float
    factor: float = 1.0


@dataclass(frozen=True)
class Segment:
    """A part of the network as the theory sees it: its sensitivity and what moves inside.

    Args:
        sensitivity: how much it amplifies a change of its input, at most.
        uses: the places of its parameters, each with the factor from there to the part's output.
    """

    sensitivity: float = 1.0
    uses: tuple[ParameterUse, ...] = ()

    def before(self, factor: float) -> Iterable[ParameterUse]:
        """The uses, seen from behind something of this sensitivity."""
        return (replace(use, factor=use.factor * factor) for use in self.uses)


@dataclass(frozen=True)
class Atom:
    """A parameter with its norm: a part of a flow for what has no norm by its type.

    It is the way to describe a module of your own down to its parameters, or to measure a known
    one differently: `flow={"head": Atom("weight", norms.Operator(1, math.inf))}`.

    Args:
        name: the name of the parameter, from the module of the flow.
        norm: a norm n for which a change Δ of the parameter moves the output by at most n(Δ).
        sensitivity: how much the part amplifies a change of its input, if it has one.

    Raises:
        ValueError: no norm, or a sensitivity that is not positive.

    Examples:
        >>> from steepest import norms
        >>> Chain(Atom("weight", norms.Operator("rms", "rms")), Atom("bias", norms.RMS())).parts[1]
        Atom(name='bias', norm=RMS(), sensitivity=1.0)
    """

    name: str
    norm: Norm
    sensitivity: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.norm, Norm):
            raise invalid("norm", self.norm, "give a norm object such as norms.RMS()")
        positive("sensitivity", self.sensitivity)


class Flow(ABC):
    """A statement of how the parts of a module are connected.

    A part is the name of a child, where `*` stands for any one name between dots (`"blocks.*"` is
    every member of `blocks`, in order); another flow; an `Atom`; or a number, the sensitivity of
    some function that is not a module.
    """

    parts: tuple[FlowPart, ...]

    @abstractmethod
    def combine(self, segments: Sequence[Segment]) -> Segment:
        """The segment that these make together: one for each part, or more for a pattern."""


FlowPart: TypeAlias = str | float | Flow | Atom
"""A part of a flow: the name of a child or a pattern of names, another flow, an `Atom`, or the
sensitivity of a function that is not a module."""


@dataclass(frozen=True, init=False, repr=False)
class Chain(Flow):
    """One part after the other: the output of each is the input of the next.

        sensitivity: the product;  a parameter counts times the sensitivities of all later parts

    Args:
        parts: the parts, as in `Flow`, from the input to the output.

    Raises:
        ValueError: no part, or something that is none.

    Examples:
        >>> Chain("fc", 1.129, "proj")  # proj(gelu(fc(x)))
        Chain('fc', 1.129, 'proj')
    """

    parts: tuple[FlowPart, ...]

    def __init__(self, *parts: FlowPart) -> None:
        object.__setattr__(self, "parts", checked(parts))

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.parts))})"

    def combine(self, segments: Sequence[Segment]) -> Segment:
        """Composition."""
        return composed(segments)


@dataclass(frozen=True, init=False, repr=False)
class Parallel(Flow):
    """Parts that read the same input and whose outputs are added.

        sensitivity: the sum;  a parameter counts as it does in its part

    For outputs that are concatenated it is an upper bound, since the RMS of a whole is at most the
    largest RMS of a part. A mean of k outputs is `Chain(Parallel(…), 1/k)`.

    Args:
        parts: the parts, as in `Flow`.

    Raises:
        ValueError: no part, or something that is none.
    """

    parts: tuple[FlowPart, ...]

    def __init__(self, *parts: FlowPart) -> None:
        object.__setattr__(self, "parts", checked(parts))

    def __repr__(self) -> str:
        return f"Parallel({', '.join(map(repr, self.parts))})"

    def combine(self, segments: Sequence[Segment]) -> Segment:
        """The sum of the outputs."""
        uses = tuple(use for segment in segments for use in segment.uses)
        return Segment(math.fsum(segment.sensitivity for segment in segments), uses)


@dataclass(frozen=True, init=False, repr=False)
class Residual(Flow):
    """skip·x + branch·part(x).

        sensitivity: |skip| + |branch|·s;  a parameter of the part counts times |branch|

    With skip = branch = 1 every block can double what comes in, so L blocks give a factor 2^L to
    whatever precedes them. With skip = 1 − 1/L and branch = 1/L a block of sensitivity 1 keeps it.

    Args:
        part: one part, as in `Flow`; several that follow one another are a `Chain`.
        skip: the number before x.
        branch: the number before the part, not 0.

    Raises:
        ValueError: a number that is not finite, or a branch of 0.

    Examples:
        >>> Residual(Chain("norm", "mlp"), skip=0.75, branch=0.25)
        Residual(Chain('norm', 'mlp'), skip=0.75, branch=0.25)

    Sources:
        Large et al., arXiv 2405.14813, for 1 − 1/L and 1/L.
    """

    parts: tuple[FlowPart, ...]
    skip: float
    branch: float

    def __init__(self, part: FlowPart, *, skip: float = 1.0, branch: float = 1.0) -> None:
        if not math.isfinite(skip):
            raise invalid("skip", skip, "give a finite number: that before x")
        if not math.isfinite(branch) or branch == 0:
            raise invalid("branch", branch, "give a finite number other than 0: that before f(x)")
        object.__setattr__(self, "parts", checked((part,)))
        object.__setattr__(self, "skip", skip)
        object.__setattr__(self, "branch", branch)

    def __repr__(self) -> str:
        return f"Residual({self.parts[0]!r}, skip={self.skip:g}, branch={self.branch:g})"

    def combine(self, segments: Sequence[Segment]) -> Segment:
        """The sum of the two paths; a pattern that names several children chains them."""
        inner, branch = composed(segments), abs(self.branch)
        sensitivity = abs(self.skip) + branch * inner.sensitivity
        return Segment(sensitivity, tuple(inner.before(branch)))


def composed(segments: Sequence[Segment]) -> Segment:
    """The segments one after the other."""
    sensitivity, uses = 1.0, list[ParameterUse]()
    for segment in reversed(segments):
        uses = [*segment.before(sensitivity), *uses]
        sensitivity *= segment.sensitivity
    return Segment(sensitivity, tuple(uses))


def checked(parts: tuple[FlowPart, ...]) -> tuple[FlowPart, ...]:
    """The parts, if each of them is one."""
    if not parts:
        raise invalid("parts", parts, "name at least one child, or give a number")
    for part in parts:
        if isinstance(part, int | float):
            positive("parts", part)
        elif not isinstance(part, str | Flow | Atom):
            raise invalid(
                "parts", part, "give names of children, Chain, Parallel, Residual, Atom or numbers"
            )
    return parts
