"""SOAP's map of the average: Adam in eigenbases of the second moments of gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from steepest.apps.eject.blocks.maps import frobenius


def scale_in_eigenbases(
    u: Tensor, params: list[Any], states: list[dict[str, Any]], group: dict[str, Any]
) -> Tensor:
    """Adam's scaling in slowly turning eigenbases of each side, at the same Frobenius norm.

        L ← beta·L + (1 − beta)·grad·gradᵀ;  R ← beta·R + (1 − beta)·gradᵀ·grad
        p = Q_Lᵀ·u·Q_R;  v ← beta·v + (1 − beta)·p²
        u ← c·Q_L·(p/max(√v, eps))·Q_Rᵀ, c such that ‖u‖_F stays; not in the first step
        Q_L and Q_R: eigenvectors of L and R, then every `every` steps an orthogonal iteration

    Attributes:
        beta: Weight of the past in L, R and v.
        every: Steps from one turn of the bases to the next.
        eps: The least root of v that is divided by.
    """
    grads = torch.stack([p.grad for p in params]).reshape(u.shape)
    return torch.stack([_scaled(*each, group) for each in zip(u, grads, states, strict=True)])


def _scaled(u: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """The average of one parameter, scaled; then its bases are turned."""
    grams, beta = (grad @ grad.mT, grad.mT @ grad), group["beta"]
    if "squares" not in state:
        state.update(squares=torch.zeros_like(u), grams=[(1 - beta) * g for g in grams], turns=0)
        state["bases"] = [_first(g) for g in state["grams"]]
        return u
    for gram, new in zip(state["grams"], grams, strict=True):
        gram.lerp_(new, 1 - beta)
    left, right = state["bases"]
    p = left.mT @ u @ right
    v = state["squares"].lerp_(p.square(), 1 - beta)
    y: Tensor = left @ (p / v.sqrt().clamp(min=group["eps"])) @ right.mT
    state["turns"] += 1
    if state["turns"] % group["every"] == 0:
        for side, gram in enumerate(state["grams"]):
            state["bases"][side] = _turned(gram, state["bases"][side], v, side - 2)
    return y * (frobenius(u) / frobenius(y))


def _first(gram: Tensor) -> Tensor:
    """Eigenvectors, those of the largest eigenvalues first."""
    values, vectors = torch.linalg.eigh(gram)
    return _completed(vectors.flip(-1), _reached(values.flip(-1)))


def _turned(gram: Tensor, q: Tensor, v: Tensor, axis: int) -> Tensor:
    """A basis, sorted by its Rayleigh quotients with v beside it, and iterated once."""
    quotients = (q * (gram @ q)).sum(-2)
    quotients = torch.where(_reached(quotients), quotients, 0)
    order = quotients.argsort(dim=-1, descending=True, stable=True)
    v.copy_(v.gather(axis, order.unsqueeze(-1 if axis == -2 else -2).expand_as(v)))
    q, r = torch.linalg.qr(gram @ q.gather(-1, order.unsqueeze(-2).expand_as(q)))
    return _completed(q, _reached(r.diagonal(dim1=-2, dim2=-1).abs()))


def _reached(values: Tensor) -> Tensor:
    """Whether eigenvalues are above the rounding of the largest."""
    bound: float = 4 * values.shape[-1] ** 0.5 * torch.finfo(values.dtype).eps
    return values > bound * values.amax(-1, keepdim=True)


def _completed(basis: Tensor, reached: Tensor) -> Tensor:
    """Bases whose other columns do not follow from rounding: eigenvectors of a fixed matrix."""
    for q, alive in zip(basis, reached, strict=True):
        known = int(alive.cumprod(0).sum())
        if known < len(alive):
            rest = torch.eye(len(q)).to(q) - q[:, :known] @ q[:, :known].mT
            ramp = torch.arange(1, len(q) + 1).to(q).diag() / len(q)
            q[:, known:] = torch.linalg.eigh(rest @ ramp @ rest).eigenvectors[:, known:]
    return basis
