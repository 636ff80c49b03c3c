"""Maps of stacks of matrices beside the duality map: what they have to say about themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, MutableMapping
from dataclasses import is_dataclass
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from steepest._common.text import changed_fields
from steepest.norms import Coupling

StateShapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""The shape of each tensor that is kept of one matrix, by name."""

State: TypeAlias = MutableMapping[str, Tensor]
"""The state of a stack of matrices, by name: shape (matrices, *shape of one), zero at first."""


class Transform(ABC):
    """A map of stacks of matrices that an optimizer applies before or after the duality map.

        u = momentum average;  d = after(dualize(before(u)))
        W ← (1 − lr·weight_decay)·W − lr·length·d

    Laws, for a stack x of shape (matrices, rows, columns):

        t(x, state) has the shape and the type of x, and x is not written to
        t(x, state)[i] depends on x[i] and on what is kept of it alone
        t(0, state) == 0
        ‖t(x, state)[i]‖_F == ‖x[i]‖_F               if t.keeps_norm
        t(x)[:, rows] == t(x[:, rows])               if t.couples is ROWS or ENTRIES
        t(x)[:, :, columns] == t(x[:, :, columns])   if t.couples is COLUMNS or ENTRIES

    A subclass is a frozen value. What it keeps from one step to the next is in `state`, under the
    names of `state_shapes`: the optimizer makes it, saves it and shards it.
    """

    couples: ClassVar[Coupling] = Coupling.MATRIX
    """The entries of a matrix that one entry of the result depends on."""

    keeps_norm: ClassVar[bool] = False
    """Whether the result has the Frobenius norm of what it was made of."""

    observes: ClassVar[bool] = False
    """Whether it looks at the gradient, beside the average: see `observe`."""

    def __repr__(self) -> str:
        """The fields that are not at their default: checkpoints know it by this text."""
        own: object = self
        return changed_fields(own) if is_dataclass(own) else f"{type(self).__name__}()"

    def state_shapes(self, rows: int, cols: int) -> StateShapes:
        """The shapes of what is kept of a rows × cols matrix; nothing without a state."""
        return {}

    def observe(self, gradient: Tensor, state: State) -> None:
        """Look at the gradient, before the map of the same step; only if `observes`.

        Args:
            gradient: The gradients, shape (matrices, rows, columns).
            state: The state of the matrices, updated in place.
        """
        raise NotImplementedError

    @abstractmethod
    def __call__(self, x: Tensor, state: State) -> Tensor:
        """Map a stack.

        Args:
            x: The matrices, shape (matrices, rows, columns), real, in float32 or float64.
            state: The state of the matrices, updated in place; empty for a map without one.

        Returns:
            A tensor of the shape of `x`.
        """


def placed(place: str, shapes: StateShapes) -> dict[str, tuple[int, ...]]:
    """The shapes of a state, named after the place of what keeps it."""
    return {f"{place}.{name}": shape for name, shape in shapes.items()}


def kept_at(place: str, state: State) -> State:
    """The state of what stands in a place, by the names that it gives."""
    pairs = ((name.partition("."), x) for name, x in state.items())
    return {name: x for (where, _, name), x in pairs if where == place}


def frobenius(x: Tensor) -> Tensor:
    """‖x‖_F of each matrix of a stack, shape (matrices, 1, 1); no square overflows."""
    largest = x.abs().amax((-2, -1), keepdim=True)
    size: Tensor = torch.linalg.vector_norm(over(x, largest), dim=(-2, -1), keepdim=True)
    return largest * size


def bounded(x: Tensor) -> Tensor:
    """x, scaled down where the products of its rows and columns would overflow."""
    limit = torch.finfo(x.dtype).max ** 0.5 / (8 * max(x.shape[-2:]))
    factor: Tensor = (limit / x.abs().amax((-2, -1), keepdim=True)).clamp(max=1)
    return x * factor


def over(x: Tensor, size: Tensor) -> Tensor:
    """x/size; 0 where the size is 0."""
    return torch.where(size > 0, x / torch.where(size > 0, size, 1), 0)
