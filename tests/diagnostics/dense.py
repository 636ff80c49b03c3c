"""The whole Hessian, row by row with autograd: what products with it are held against."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """Several tensors as one vector."""
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def dense_hessian(loss: Callable[[], Tensor], params: Sequence[Tensor]) -> Tensor:
    """The matrix of second derivatives by all entries of `params`, in their order."""
    with sdpa_kernel(SDPBackend.MATH):  # the other kernels have no second derivative
        slopes = torch.autograd.grad(loss(), params, create_graph=True)
    every = torch.cat([g.reshape(-1) for g in slopes])
    rows = (
        torch.autograd.grad(g, params, retain_graph=True, materialize_grads=True) for g in every
    )
    return torch.stack([flat(row) for row in rows])
