"""Functions of lists of tensors, in few calls whatever their number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def signs(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The signs of the entries, of complex ones their phases, in fresh memory.

    Examples:
        >>> signs([torch.tensor([3.0, -4.0]), torch.tensor(0.0)])
        [tensor([ 1., -1.]), tensor(0.)]
    """
    if all(type(x) is Tensor and not x.is_complex() for x in tensors):
        return list(torch._foreach_sign(list(tensors)))
    return [torch.sgn(x) for x in tensors]


def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy tensors into the memory of others."""
    if targets:
        torch._foreach_copy_(list(targets), list(sources))


def add_all(
    targets: Sequence[Tensor], others: Sequence[Tensor], *, alpha: float = 1.0, keep: float = 1.0
) -> None:
    """targets ← keep·targets + alpha·others, in place.

    Examples:
        >>> x = torch.tensor([1.0, 2.0])
        >>> add_all([x], [torch.tensor([10.0, 20.0])], alpha=2.0, keep=0.5)
        >>> x
        tensor([20.5000, 41.0000])
    """
    if not targets:
        return
    if keep != 1.0:
        torch._foreach_mul_(list(targets), keep)
    torch._foreach_add_(list(targets), list(others), alpha=alpha)
