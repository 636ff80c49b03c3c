"""Maps that divide by the root of an average of squares: of rows, of entries, of the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from steepest._common.checks import not_negative, weight
from steepest.norms import Coupling
from steepest.transforms.transform import State, StateShapes, Transform, bounded, frobenius, over


@dataclass(frozen=True, repr=False)
class _Moment(Transform):
    """An average of squares.

    Args:
        beta: Weight of the past in the average.
        eps: A number that is added to its root.
    """

    beta: float = 0.95
    eps: float = 1e-10

    def __post_init__(self) -> None:
        weight("beta", self.beta)
        not_negative("eps", self.eps)

    def _root(self, state: State) -> Tensor:
        """The root of the average."""
        return state["second_moment"].sqrt() + self.eps


@dataclass(frozen=True, repr=False)
class RowSecondMoment(_Moment):
    """Rows over the root of an average of their mean squares, at the same Frobenius norm: NorMuon.

        v ← beta·v + (1 − beta)·mean_columns(x²);  y = x/(√v + eps);  y·‖x‖_F/‖y‖_F

    The average v has a number for each row.

    Args:
        beta: Weight of the past in the average.
        eps: A number that is added to its root.

    Sources:
        Li et al., NorMuon, arXiv 2510.05491.
    """

    couples: ClassVar[Coupling] = Coupling.MATRIX
    keeps_norm: ClassVar[bool] = True

    def state_shapes(self, rows: int, cols: int) -> StateShapes:
        """A number for each row."""
        return {"second_moment": (rows, 1)}

    def __call__(self, x: Tensor, state: State) -> Tensor:
        """The rows, divided."""
        state["second_moment"].lerp_(x.square().mean(-1, keepdim=True), 1 - self.beta)
        y = over(x, self._root(state))
        return y * over(frobenius(x), frobenius(y))


@dataclass(frozen=True, repr=False)
class SecondMoment(_Moment):
    """Entries over the root of an average of their squares.

        v ← beta·v + (1 − beta)·x²;  x/(√v + eps)

    Args:
        beta: Weight of the past in the average.
        eps: A number that is added to its root.

    Sources:
        Si et al., AdaMuon, arXiv 2507.11005, where x is a polar factor.
    """

    couples: ClassVar[Coupling] = Coupling.ENTRIES

    def state_shapes(self, rows: int, cols: int) -> StateShapes:
        """A number for each entry."""
        return {"second_moment": (rows, cols)}

    def __call__(self, x: Tensor, state: State) -> Tensor:
        """The entries, divided."""
        state["second_moment"].lerp_(x.square(), 1 - self.beta)
        return over(x, self._root(state))


@dataclass(frozen=True, repr=False)
class GradientSecondMoment(_Moment):
    """Entries over the root of an average of the squares of the gradient, as in Adam: Muon².

        v ← beta·v + (1 − beta)·grad²;  x/(√v + eps)

    Args:
        beta: Weight of the past in the average.
        eps: A number that is added to its root.

    Sources:
        Muon², arXiv 2604.09967.
    """

    couples: ClassVar[Coupling] = Coupling.ENTRIES
    observes: ClassVar[bool] = True

    def state_shapes(self, rows: int, cols: int) -> StateShapes:
        """A number for each entry."""
        return {"second_moment": (rows, cols)}

    def observe(self, gradient: Tensor, state: State) -> None:
        """Average its squares."""
        state["second_moment"].lerp_(bounded(gradient).square(), 1 - self.beta)

    def __call__(self, x: Tensor, state: State) -> Tensor:
        """The entries, divided."""
        return over(x, self._root(state))
