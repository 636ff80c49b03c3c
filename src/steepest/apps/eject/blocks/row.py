"""The questions about a row of the table that blocks ask, and an ejected file has answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Direction: TypeAlias = Literal["gradient", "unit", "sign", "polar", "layers"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """The questions of the blocks; the defaults are those of Muon.

    Args:
        direction: The image of an average: itself, itself at length 1, its sign, its polar factor,
            or that which the kind of its layer asks for.
        average: Whether there is momentum.
        dual: Whether the polar factor is as long as the dual norm of the average.
        shaped: Whether the learning rate has a factor for the shape of a matrix.
        adamw: Whether AdamW steps the parameters that are not matrices.
        half: Whether polar factors are computed in bfloat16.
        before: Whether the average is changed before it is mapped to a direction.
        after: Whether the direction is changed.
        states: Whether one of these two keeps anything.
        retraction: Whether weights move in another way than by decay and step.
        pull: Whether this changes the gradient that is averaged.
    """

    direction: Direction = "polar"
    average: bool = True
    dual: bool = False
    shaped: bool = True
    adamw: bool = True
    half: bool = False
    before: bool = False
    after: bool = False
    states: bool = False
    retraction: bool = False
    pull: bool = False


row = Row()
