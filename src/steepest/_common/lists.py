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
