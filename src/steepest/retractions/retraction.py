"""Ways in which weights take a step, other than decay and a sum.

Each of them makes the new weights of a·W + b·d, with one number a and one b for every row, or for
the matrix, which follow from inner products of W and the direction d alone. So a sharded matrix
needs no more than the sums of a few numbers for each of its rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, is_dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from steepest._common.text import changed_fields
from steepest.transforms import State, StateShapes
from steepest.transforms.transform import placed


class Products(NamedTuple):
    """Inner products ⟨x, x⟩, ⟨x, y⟩ and ⟨y, y⟩, of each row or each matrix.

    Shape (matrices, rows, 1), or (matrices, 1, 1).
    """

    xx: Tensor
    xy: Tensor
    yy: Tensor


class Combination(NamedTuple):
    """Weights of x and y in a sum, of the shape of their products."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True, kw_only=True)
class StepSize:
    """How far a step goes: W ← (1 − decay)·W − lr·factor·d, if nothing else is done.

    Args:
        lr: The learning rate, a tensor of one number.
        factor: The length of the step over `lr`.
        decay: The decay of one step, lr·weight_decay.
    """

    lr: Tensor
    factor: Tensor | float
    decay: Tensor

    @property
    def length(self) -> Tensor:
        """The factor of the direction, lr·factor."""
        return self.lr * self.factor


class Retraction(ABC):
    """A way in which weights take a step along a direction d: another sum of both.

        W ← a·W + b·d

    with numbers a and b for each row, or each matrix, which depend on W and d by ⟨W, W⟩, ⟨W, d⟩ and
    ⟨d, d⟩ alone. A subclass is a frozen value; what it keeps is one number for each of them.
    """

    rows: bool
    """Whether the products are those of every row; of the whole matrix otherwise."""

    names: ClassVar[tuple[str, ...]] = ()
    """Names of what is kept: a number for each row, or each matrix; zero before the first step."""

    pulls: ClassVar[bool] = False
    """Whether gradients are mapped before they are averaged, by `pull`."""

    def __repr__(self) -> str:
        """The fields that are not at their default: checkpoints know it by this text."""
        own: object = self
        return changed_fields(own) if is_dataclass(own) else f"{type(self).__name__}()"

    def state_shapes(self, rows: int, cols: int) -> StateShapes:
        """The shapes of what is kept of a rows × cols matrix."""
        return placed("retraction", dict.fromkeys(self.names, (rows if self.rows else 1, 1)))

    @abstractmethod
    def move(self, products: Products, size: StepSize, state: State) -> Combination:
        """The weights of W and d in the new W.

        Args:
            products: ⟨W, W⟩, ⟨W, d⟩ and ⟨d, d⟩.
            size: How far the step goes.
            state: The numbers that are kept; new ones are put in their place.
        """

    def pull(self, products: Products, state: State) -> Combination:
        """The weights of W and the gradient G in the gradient that is averaged.

        Args:
            products: ⟨W, W⟩, ⟨W, G⟩ and ⟨G, G⟩.
            state: The numbers that are kept; new ones are put in their place.
        """
        raise NotImplementedError


def above_rounding(square: Tensor) -> Tensor:
    """A mask of the squared lengths of directions that are more than the rounding of others."""
    return square > (10 * torch.finfo(square.dtype).eps) ** 2
