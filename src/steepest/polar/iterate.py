"""Polar factors by matrix products only: the Newton–Schulz iteration as it is usually written."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steepest._common.errors import invalid
from steepest._common.numerics import HALF, epsilon
from steepest.polar._blocks import gram_matrix
from steepest.polar._rounding import GRAM_NOISE, factor_rounding
from steepest.polar.method import Accuracy, PolarMethod
from steepest.polar.schedule import POLAR_EXPRESS, Schedule


@dataclass(frozen=True)
class Iteration(PolarMethod):
    """A schedule, and the type it runs in."""

    schedule: Schedule = POLAR_EXPRESS
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.dtype not in (None, *HALF, torch.float32, torch.float64):
            raise invalid("dtype", self.dtype, "give float16, bfloat16, float32, float64 or None")

    def compute_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        """The method's `dtype`; None means the input's, with half precision widened to float32.

        Complex input is computed in complex64 at least: there is no complex half precision.
        """
        own = self.dtype or dtype
        if own in HALF and (self.dtype is None or dtype.is_complex):
            own = torch.float32
        return own.to_complex() if dtype.is_complex and not own.is_complex else own

    def _work(self, dtype: torch.dtype) -> torch.dtype:
        return self.compute_dtype(dtype, torch.device("cpu"))


@dataclass(frozen=True)
class NewtonSchulz(Iteration):
    """The iteration as it is usually written.

        X ← x / ‖x‖_F;  for (a, b, c):  A = XXᴴ;  X ← aX + (bA + cA²)X

    Args:
        schedule: the polynomials.
        dtype: compute type. None means the input's, with half precision widened to float32.

    Raises:
        ValueError: a compute type other than float16, bfloat16, float32 and float64.

    Examples:
        >>> import torch
        >>> from steepest.polar import polar_express
        >>> q = NewtonSchulz(polar_express(8))(torch.diag(torch.tensor([4.0, 1.0])))
        >>> bool((q - torch.eye(2)).abs().max() < 1e-3)
        True
    """

    def accuracy(self, m: int, n: int, dtype: torch.dtype) -> Accuracy:
        """‖x‖_F ≤ √m·σ₁, so a schedule made for [lower, 1] resolves σ/σ₁ ≥ √m·lower."""
        work = self._work(dtype)
        eps = epsilon(work)
        # Rounding of ‖X‖₂ = 1 drowns what is below eps; what is above carries eps/σ of it.
        lower = max(self.schedule.interval[0], GRAM_NOISE * eps)
        rounding = GRAM_NOISE * eps / lower if eps < 1e-4 else GRAM_NOISE * eps
        rounding += factor_rounding(m, n, dtype, work)
        # Division by the norm and one Gram matrix, both rounded, leave ‖X‖₂ this far above 1.
        low, high = self.schedule.band(lower, 1.0 + eps)
        _, top = self.schedule.band(1e-8, 1.0 + eps)
        resolution = min(1.0, min(m, n) ** 0.5 * lower)
        return Accuracy(resolution, max(1 - low, high - 1) + rounding, top + rounding)

    def _factor(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        x = _frobenius_normalised(x)
        for a, b, c in self.schedule.folded:
            square = gram_matrix(x)
            x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
        return x


def frobenius_divisor(x: Tensor) -> Tensor:
    """‖x‖_F, in float32 at least, as a divisor: 1 for zero."""
    wide = torch.float32 if x.dtype in HALF else None
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True, dtype=wide)
    return torch.where(norm > 0, norm, 1.0)


def _frobenius_normalised(x: Tensor) -> Tensor:
    """x / ‖x‖_F; zero stays zero."""
    return x / frobenius_divisor(x).to(x.dtype)
