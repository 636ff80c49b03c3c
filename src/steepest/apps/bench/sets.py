"""The benches, and the sets of matrices that they measure: those of real models, as data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steepest._common.errors import invalid

BENCHES = ("steps", "methods")
DATA = ("spectrum", "gradients")
PATIENCE = 60.0
"""Seconds. Where a processor emulates bfloat16, a step of a large model takes minutes."""

Shape = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Training:
    """A short run that real gradients of a set are taken from.

    Args:
        data: "text" for the character GPT of `steepest train`, "digits" for a transformer over
            16 patches of a digit.
        heads: attention heads in a block.
        context: characters in a window of text.
        batch: windows or digits in a step.
        steps: the number of steps after which the gradients are kept.
    """

    data: str
    heads: int
    context: int = 128
    batch: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class ShapeSet:
    """The hidden matrices of one model.

    Args:
        name: the name on the command line.
        title: the name in pictures and tables.
        block: shapes (out, in) of one block, in the order of the model.
        blocks: the number of times that the block occurs.
        probed: the number of blocks in which the error is measured; the exact factors of large
            matrices take long. The other blocks hold copies of these, so the stacks have their
            usual size.
        rounds: the number of steps of each contender unless `--rounds` says otherwise.
        training: the source of real gradients; None if the set has no model.

    Examples:
        >>> SETS["gpt-128"].count, SETS["gpt-128"].parameters
        (16, 786432)
    """

    name: str
    title: str
    block: tuple[Shape, ...]
    blocks: int
    probed: int
    rounds: int
    training: Training | None = None

    @property
    def shapes(self) -> list[Shape]:
        """Every matrix of the set."""
        return list(self.block) * self.blocks

    @property
    def count(self) -> int:
        """The number of matrices."""
        return len(self.block) * self.blocks

    @property
    def parameters(self) -> int:
        """The number of their entries."""
        return sum(math.prod(shape) for shape in self.shapes)


def transformer_block(width: int) -> tuple[Shape, ...]:
    """Query, key and value in one weight, attention output, and the two layers of the MLP.

    Examples:
        >>> transformer_block(64)
        ((192, 64), (64, 64), (256, 64), (64, 256))
    """
    return ((3 * width, width), (width, width), (4 * width, width), (width, 4 * width))


_ALL = (
    ShapeSet(
        name="gpt-128",
        title="GPT, width 128, 4 blocks",
        block=transformer_block(128),
        blocks=4,
        probed=4,
        rounds=41,
        training=Training(data="text", heads=4, batch=16, steps=60),
    ),
    ShapeSet(
        name="vit-64",
        title="ViT, width 64, 32 blocks",
        block=transformer_block(64),
        blocks=32,
        probed=32,
        rounds=41,
        training=Training(data="digits", heads=4, batch=64, steps=30),
    ),
    ShapeSet(
        name="gpt-256",
        title="GPT, width 256, 6 blocks",
        block=transformer_block(256),
        blocks=6,
        probed=6,
        rounds=31,
        training=Training(data="text", heads=8, batch=16, steps=30),
    ),
    ShapeSet(
        name="gpt2-small",
        title="GPT-2 small: width 768, 12 blocks",
        block=transformer_block(768),
        blocks=12,
        probed=1,
        rounds=11,
        training=Training(data="text", heads=12, batch=4, steps=12),
    ),
    ShapeSet(
        name="square-4096",
        title="one 4096×4096 matrix",
        block=((4096, 4096),),
        blocks=1,
        probed=1,
        rounds=11,
    ),
)
SETS: Mapping[str, ShapeSet] = {s.name: s for s in _ALL}
"""Every set by its name, small ones first."""


def chosen(names: Sequence[str]) -> list[ShapeSet]:
    """The sets of these names in the order of the table; all of them if none is named.

    Raises:
        ValueError: there is no such set.
    """
    for name in names:
        if name not in SETS:
            raise invalid("set", name, f"choose from {', '.join(SETS)}")
    return [s for name, s in SETS.items() if name in names or not names]
