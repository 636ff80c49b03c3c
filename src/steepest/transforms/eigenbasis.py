"""Adam in the eigenbases of Shampoo's averages, as a map: SOAP before the duality map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steepest._common.checks import positive, weight
from steepest._common.errors import invalid
from steepest.norms import Coupling
from steepest.transforms.transform import State, StateShapes, Transform, bounded, frobenius, over


@dataclass(frozen=True, repr=False)
class Eigenbasis(Transform):
    """x over the root of an average of its squares in slowly turning eigenbases: SOAP.

        p = Q_Lᵀ·x·Q_R;  v ← beta·v + (1 − beta)·p²
        y = Q_L·(p/max(√v, eps))·Q_Rᵀ;  y·‖x‖_F/‖y‖_F

    L and R average grad·gradᵀ and gradᵀ·grad. Q_L and Q_R are their eigenvectors after the first
    gradient; later, every `every` steps, one step of the orthogonal iteration turns them. A step
    uses the bases of the steps before: the first one leaves x as it is. Of an m × n matrix it keeps
    2m² + 2n² + mn numbers. Where fewer gradients have come than give L or R full rank, the rest of
    a basis is chosen so that it does not follow from rounding.

    Args:
        beta: Weight of the past in all three averages.
        every: Steps from one turn of the bases to the next.
        eps: The least root of an average that is divided by.

    Sources:
        Vyas et al., SOAP, arXiv 2409.11321. Before the polar factor as in KellerJordan/
        modded-nanogpt, records/track_3_optimization, record 46.
    """

    couples: ClassVar[Coupling] = Coupling.MATRIX
    keeps_norm: ClassVar[bool] = True
    observes: ClassVar[bool] = True
    beta: float = 0.9
    every: int = 1
    eps: float = 1e-8

    def __post_init__(self) -> None:
        weight("beta", self.beta)
        positive("eps", self.eps)
        if self.every < 1:
            raise invalid("every", self.every, "give a whole number of steps >= 1")

    def state_shapes(self, rows: int, cols: int) -> StateShapes:
        """Two averages with a basis each, the squares in these bases, and the steps taken."""
        m, n = rows, cols
        bases = {"row_gram": (m, m), "row_basis": (m, m), "col_gram": (n, n), "col_basis": (n, n)}
        return {**bases, "second_moment": (m, n), "steps": ()}

    def observe(self, gradient: Tensor, state: State) -> None:
        """Average its products with itself."""
        gradient = bounded(gradient)
        state["row_gram"].lerp_(gradient @ gradient.mT, 1 - self.beta)
        state["col_gram"].lerp_(gradient.mT @ gradient, 1 - self.beta)

    def __call__(self, x: Tensor, state: State) -> Tensor:
        """The matrices, scaled in the bases; then the bases are turned."""
        left, right, steps = state["row_basis"], state["col_basis"], state["steps"]
        new = (steps == 0).view(-1, 1, 1)
        turned = left.mT @ bounded(x) @ right
        squares = state["second_moment"]
        squares.copy_(torch.where(new, squares, squares.lerp(turned.square(), 1 - self.beta)))
        y = left @ (turned / squares.sqrt().clamp(min=self.eps)) @ right.mT
        y = torch.where(new, x, y * over(frobenius(x), frobenius(y)))
        self._turn(state)
        steps += 1
        return y

    def _turn(self, state: State) -> None:
        """Turn the bases of the matrices whose turn it is."""
        steps = state["steps"].tolist()
        first = [i for i, n in enumerate(steps) if n == 0]
        later = [i for i, n in enumerate(steps) if n > 0 and n % self.every == 0]
        for side, axis in (("row", -2), ("col", -1)):
            gram, basis = state[f"{side}_gram"], state[f"{side}_basis"]
            if first:
                values, vectors = torch.linalg.eigh(gram[first])
                basis[first] = _completed(vectors.flip(-1), _reached(values.flip(-1)))
            if later:
                self._iterate(gram, basis, state["second_moment"], later, axis)

    def _iterate(
        self, gram: Tensor, basis: Tensor, squares: Tensor, places: list[int], axis: int
    ) -> None:
        """Sort a basis by its Rayleigh quotients, and its squares with it; then iterate once."""
        g, q, v = gram[places], basis[places], squares[places]
        quotients = (q * (g @ q)).sum(-2)
        quotients = torch.where(_reached(quotients), quotients, 0)
        order = quotients.argsort(dim=-1, descending=True, stable=True)
        q = q.gather(-1, order.unsqueeze(-2).expand_as(q))
        along = order.unsqueeze(-1) if axis == -2 else order.unsqueeze(-2)
        squares[places] = v.gather(axis, along.expand_as(v))
        turned, r = torch.linalg.qr(g @ q)
        basis[places] = _completed(turned, _reached(r.diagonal(dim1=-2, dim2=-1).abs()))


def _reached(values: Tensor) -> Tensor:
    """A mask of the eigenvalues of each matrix that are above the rounding of the largest."""
    bound: float = 4 * values.shape[-1] ** 0.5 * torch.finfo(values.dtype).eps
    return values > bound * values.amax(-1, keepdim=True)


def _completed(basis: Tensor, reached: Tensor) -> Tensor:
    """Bases of which the columns that no gradient has reached are the same on every machine.

    What LAPACK returns for an eigenvalue 0 of several dimensions follows from rounding. Here they
    are the eigenvectors of diag(1, 2, …) within what is left by the columns before them.
    """
    for q, alive in zip(basis, reached, strict=True):
        known = int(alive.cumprod(0).sum())
        if known < len(alive):
            rest = torch.eye(len(q)).to(q) - q[:, :known] @ q[:, :known].mT
            ramp = torch.arange(1, len(q) + 1).to(q).diag() / len(q)
            q[:, known:] = torch.linalg.eigh(rest @ ramp @ rest).eigenvectors[:, known:]
    return basis
