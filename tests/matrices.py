"""Matrices with a prescribed spectrum, and what the tests measure on them."""

from __future__ import annotations

import torch
from torch import Tensor

from steepest._common.numerics import in_double as wide
from steepest.testing.polar import log_spaced as log_spaced
from steepest.testing.polar import orthonormal as orthonormal
from steepest.testing.polar import spectral_distance as spectral_distance
from steepest.testing.polar import with_spectrum as with_spectrum


def naive_polar(x: Tensor, cutoff: float = 1e-12) -> Tensor:
    """U·Vᴴ of the singular value decomposition in double precision, σ ≤ cutoff·σ₁ dropped."""
    u, s, vh = torch.linalg.svd(wide(x), full_matrices=False)
    kept = int((s > cutoff * s[0]).sum())
    return u[:, :kept] @ vh[:kept]
