"""Polar factors by decomposition: exact to the type, with a cut-off for rank-deficient input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steepest._common.errors import invalid
from steepest._common.numerics import epsilon, safe_divisor, widened
from steepest.polar._blocks import Workspace, gram_matrix
from steepest.polar._members import eigh, svd
from steepest.polar._rounding import GRAM_NOISE, factor_rounding, refine, refined_error
from steepest.polar.method import Accuracy, PolarMethod

# The error allowed at the resolution of a Gram matrix that has no digits to spare.
GRAM_ERROR = 0.02

# A decomposition moves a singular value by a few eps·σ₁: this far above the cut-off none is lost.
CUTOFF_MARGIN = 4.0


@dataclass(frozen=True, repr=False)
class Svd(PolarMethod):
    """Polar factor by the singular value decomposition: the reference.

        U, σ, Vᴴ = svd(x);  polar = U·[σ > max(m, n)·eps·σ₁]·Vᴴ

    Singular values at the level of rounding are cut off, so that a rank-deficient input gives a
    partial isometry rather than an arbitrary completion. Half precision is computed in float32.

    Examples:
        >>> import torch
        >>> q = Svd()(torch.tensor([[3.0, 0.0], [0.0, -2.0]]))
        >>> bool((q - torch.tensor([[1.0, 0.0], [0.0, -1.0]])).abs().max() < 1e-6)
        True
    """

    def compute_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        """float32 for half precision, any other type itself."""
        return widened(dtype)

    def accuracy(self, m: int, n: int, dtype: torch.dtype) -> Accuracy:
        """Resolution twice the cut-off; singular values of the factors are 1 to rounding."""
        eps = epsilon(widened(dtype))
        rounding = factor_rounding(m, n, dtype, widened(dtype))
        return Accuracy(min(1.0, CUTOFF_MARGIN * max(m, n) * eps), rounding, 1 + rounding)

    def _factor(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        u, s, vh = svd(x)
        kept = s > max(x.shape[-2:]) * epsilon(x.dtype) * s[..., :1]
        q: Tensor = (u * kept.to(u.dtype).unsqueeze(-2)) @ vh
        return q


@dataclass(frozen=True, repr=False)
class GramEigh(PolarMethod):
    """Polar factor by the eigenvalues of the Gram matrix: one m × m `eigh` whatever n is.

        λ, V = eigh(x·xᴴ);  polar = V·diag(f(λ))·Vᴴ·x
        f(λ) = 0 for λ ≤ (max(m, n)·eps)²·λ₁, else 1/√max(λ, resolution²·λ₁)

    The Gram matrix squares the condition number. By default it is formed in float64, which is then
    exact for float32 and half-precision input; for float64 input, or with `dtype=torch.float32`,
    the resolution is the square root of the working precision, and below it singular values are
    damped.

    Args:
        dtype: type of the Gram matrix; None means float64.
        refine: steps of the classical quintic on the result, X ← ⅛(15 − 10XXᴴ + 3(XXᴴ)²)X: an
            error e of a singular value becomes 5/2·e³.

    Raises:
        ValueError: a type other than float32 and float64, or a negative number of refinements.

    Examples:
        >>> import torch
        >>> q = GramEigh()(torch.tensor([[3.0, 4.0]]))
        >>> [round(v, 6) for v in q.flatten().tolist()]
        [0.6, 0.8]
    """

    dtype: torch.dtype | None = None
    refine: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in (None, torch.float32, torch.float64):
            raise invalid("dtype", self.dtype, "give torch.float32, torch.float64 or None")
        if self.refine < 0:
            raise invalid("refine", self.refine, "give a number of steps >= 0")

    def compute_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        """`dtype` of the method, in its complex form for complex input."""
        wide = self.dtype or torch.float64
        return wide.to_complex() if dtype.is_complex else wide

    def accuracy(self, m: int, n: int, dtype: torch.dtype) -> Accuracy:
        """Exact where the Gram matrix has twice the digits of the input, else √precision."""
        resolution, cutoff = self._resolution(m, n, dtype)
        resolution = min(1.0, max(resolution, CUTOFF_MARGIN * cutoff))
        work = self.dtype or torch.float64
        noise = GRAM_NOISE * epsilon(work) / (2 * resolution**2)
        rounding = refined_error(noise, self.refine) + factor_rounding(m, n, dtype, work)
        return Accuracy(resolution, rounding, 1 + rounding)

    def _resolution(self, m: int, n: int, dtype: torch.dtype) -> tuple[float, float]:
        """(resolution, cut-off), both relative to σ₁."""
        work = epsilon(self.dtype or torch.float64)
        cutoff = max(m, n) * max(epsilon(widened(dtype)), work)
        return max(cutoff, (GRAM_NOISE * work / (2 * GRAM_ERROR)) ** 0.5), cutoff

    def _factor(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        values, v = eigh(gram_matrix(x))
        resolution, cutoff = self._resolution(x.shape[-2], x.shape[-1], dtype)
        largest = values[..., -1:].clamp(min=0)
        scale = safe_divisor(torch.maximum(values, resolution**2 * largest)).rsqrt()
        scale = torch.where(values > cutoff**2 * largest, scale, 0.0)
        space = Workspace(x)
        turned = space.product_like(v.mH, x)
        q = space.product_like(v * scale.to(v.dtype).unsqueeze(-2), turned)
        return refine(q, self.refine)
