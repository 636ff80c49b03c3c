"""Decompositions of stacks, in which a matrix with NaN or inf is NaN and leaves the others alone.

LAPACK gives up on a whole stack where one matrix holds NaN. Nothing here looks at a value, but
torch's decompositions themselves wait for a CUDA device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _sound(x: Tensor) -> tuple[Tensor, Tensor]:
    """Flags (*batch, 1, 1) of the finite matrices, and `x` with zero in the place of the others."""
    finite = torch.isfinite(x).all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
    return finite, torch.where(finite, x, 0.0)


def _marked(finite: Tensor, *results: Tensor) -> tuple[Tensor, ...]:
    """The results of matrices that are not finite are NaN."""
    return tuple(
        torch.where(finite if r.ndim == finite.ndim else finite.squeeze(-1), r, math.nan)
        for r in results
    )


def svd(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, σ and Vᴴ of `torch.linalg.svd(x, full_matrices=False)`, each matrix by itself.

    Examples:
        >>> x = torch.stack([torch.eye(2), torch.full((2, 2), math.nan)])
        >>> svd(x)[1].tolist()
        [[1.0, 1.0], [nan, nan]]
    """
    finite, sound = _sound(x)
    u, s, vh = _marked(finite, *torch.linalg.svd(sound, full_matrices=False))
    return u, s, vh


def svdvals(x: Tensor) -> Tensor:
    """The singular values, each matrix by itself."""
    finite, sound = _sound(x)
    return _marked(finite, torch.linalg.svdvals(sound))[0]


def eigh(x: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of Hermitian matrices, each matrix by itself."""
    finite, sound = _sound(x)
    values, v = _marked(finite, *torch.linalg.eigh(sound))
    return values, v
