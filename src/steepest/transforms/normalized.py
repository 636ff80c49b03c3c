"""Maps without a state: signs, and matrices whose rows, columns or norms are made equal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from steepest._common.checks import not_negative, positive
from steepest._common.errors import invalid
from steepest.norms import Coupling
from steepest.polar import PolarMethod, Svd
from steepest.transforms.transform import State, Transform, frobenius, over


@dataclass(frozen=True, repr=False)
class Sign(Transform):
    """sign(x), entry by entry.

    Sources:
        Si et al., AdaMuon, arXiv 2507.11005, which takes the polar factor of it.
    """

    couples: ClassVar[Coupling] = Coupling.ENTRIES

    def __call__(self, x: Tensor, state: State) -> Tensor:
        """sign(x)."""
        return x.sign()


@dataclass(frozen=True, repr=False)
class NormalizedRows(Transform):
    """Every row over its Euclidean norm, x/√(Σ_columns x² + eps).

    Args:
        eps: A number that is added to the square of each norm; with 0 the map is scale-free.

    Sources:
        MuonEq, arXiv 2603.28254 (before the polar factor); Muon+, arXiv 2602.21545 (after it).
    """

    couples: ClassVar[Coupling] = Coupling.ROWS
    eps: float = 0.0

    def __post_init__(self) -> None:
        not_negative("eps", self.eps)

    def __call__(self, x: Tensor, state: State) -> Tensor:
        """The rows over their norms."""
        return _normalized(x, -1, self.eps)


@dataclass(frozen=True, repr=False)
class NormalizedColumns(Transform):
    """Every column over its Euclidean norm, x/√(Σ_rows x² + eps).

    Args:
        eps: A number that is added to the square of each norm; with 0 the map is scale-free.

    Sources:
        Muon+, arXiv 2602.21545.
    """

    couples: ClassVar[Coupling] = Coupling.COLUMNS
    eps: float = 0.0

    def __post_init__(self) -> None:
        not_negative("eps", self.eps)

    def __call__(self, x: Tensor, state: State) -> Tensor:
        """The columns over their norms."""
        return _normalized(x, -2, self.eps)


def _normalized(x: Tensor, axis: int, eps: float) -> Tensor:
    """x/√(Σ x² + eps) along an axis; no square overflows, and no one is lost to zero."""
    largest = x.abs().amax(axis, keepdim=True)
    y = over(x, largest)
    squares = y.square().sum(axis, keepdim=True)
    return over(y, (squares + eps / largest.square() if eps else squares).sqrt())


@dataclass(frozen=True, repr=False)
class SemiorthogonalNorm(Transform):
    """x scaled to the Frobenius norm √min(rows, columns) of a semi-orthogonal matrix.

    An exact polar factor of full rank has it already; of an inexact one, or after another map, it
    is made so.

    Sources:
        Muon+ as in karpathy/nanochat, nanochat/optim.py; AdaMuon, arXiv 2507.11005.
    """

    couples: ClassVar[Coupling] = Coupling.SCALAR

    def __call__(self, x: Tensor, state: State) -> Tensor:
        """√min(m, n)·x/‖x‖_F."""
        norm: float = min(x.shape[-2:]) ** 0.5
        return over(x, frobenius(x)) * norm


@dataclass(frozen=True, repr=False)
class BalancedRows(Transform):
    """D·x for a tall x, with the diagonal D that evens out the rows of its polar factor: Aurora.

        D ← 1/‖x‖_row;  then iterations − 1 times  D ← D·(n/m/‖polar(D·x)‖²_row)^exponent

    A row of a semi-orthogonal m × n matrix has the squared norm n/m on average. Before the polar
    factor, D makes the rows alike, so that no output moves far more than another. A square or a
    wide matrix stays as it is: the rows of its polar factor are of norm 1.

    Args:
        iterations: How often a polar factor is computed, the one that follows included.
        exponent: How much of the unevenness an iteration takes away.
        polar: The method for polar factors within the iteration.

    Sources:
        tilde-research/aurora-release; arXiv 2606.27715.
    """

    couples: ClassVar[Coupling] = Coupling.MATRIX
    iterations: int = 2
    exponent: float = 0.5
    polar: PolarMethod = field(default_factory=Svd)

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise invalid("iterations", self.iterations, "give a whole number >= 1")
        positive("exponent", self.exponent)

    def __call__(self, x: Tensor, state: State) -> Tensor:
        """D·x; x itself unless it is tall."""
        m, n = x.shape[-2:]
        if m <= n:
            return x
        balanced = _normalized(x, -1, 0.0)
        for _ in range(self.iterations - 1):
            rows = self.polar(balanced).square().sum(-1, keepdim=True)
            balanced = over(balanced, (rows * (m / n)) ** self.exponent)
        return balanced
