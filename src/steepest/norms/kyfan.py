"""Ky Fan's norms, which treat the first k singular values as one thing, and their duals."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from steepest._common.errors import invalid, shape_text
from steepest.norms._vectors import Exponent, falling_root, lp_dualize
from steepest.norms.norm import Norm
from steepest.norms.schatten import UnitarilyInvariantNorm, method
from steepest.polar import PolarMethod


def _is_count(k: object) -> bool:
    return isinstance(k, int) and k >= 1


@dataclass(frozen=True)
class _FirstK(UnitarilyInvariantNorm):
    """A norm that treats the first k singular values as one thing."""

    k: int
    polar: PolarMethod | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        method(self.polar)
        if not _is_count(self.k):
            raise invalid("k", self.k, "give how many singular values to add: 1, 2, …")

    def with_polar(self, polar: PolarMethod | None) -> Norm:
        """The same norm by this method."""
        return type(self)(self.k, polar=polar)

    def _fits(self, x: Tensor) -> None:
        if self.k > min(x.shape[-2:]):
            raise invalid(
                "k",
                self.k,
                f"a {shape_text(x.shape[-2:])} matrix has {min(x.shape[-2:])} singular values: "
                "take a smaller k, or norms.Nuclear() for all of them",
            )


@dataclass(frozen=True)
class KyFan(_FirstK):
    """The Ky Fan norm σ₁ + … + σ_k.

        dual: max(σ₁, (σ₁ + … + σ_r)/k), which is `KyFanDual(k)`
        dualize(G) = u₁v₁ᴴ where σ₁ ≥ Σσ/k, else UVᴴ/k

    k = 1 is the spectral norm, k = min(m, n) the nuclear norm.

    Args:
        k: how many singular values, at most min(m, n) of the matrices given.
        polar: a method of `steepest.polar` in the place of the SVD.

    Raises:
        ValueError: k is not a positive whole number; when used, k > min(m, n).

    Examples:
        >>> import torch
        >>> n = KyFan(2)
        >>> x = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
        >>> float(n(x)), float(n.dual(x)), n.dual.dual == n
        (5.0, 3.0, True)

    Sources:
        Horn & Johnson, Matrix Analysis (2013), section 7.4; the dual is derived there from the
        extreme points of the unit ball, u·vᴴ and the partial isometries over k.
    """

    @property
    def dual(self) -> KyFanDual:
        """max(σ₁, Σσ/k)."""
        return KyFanDual(self.k, polar=self.polar)

    def _norm_of(self, s: Tensor) -> Tensor:
        return s[..., : self.k].sum(dim=-1)

    def _dualize_values(self, s: Tensor) -> Tensor:
        first = s[..., :1] * self.k >= s.sum(dim=-1, keepdim=True)
        return torch.where(first, lp_dualize(s, Exponent.of(1)), (s > 0).to(s.dtype) / self.k)

    def _project_values(self, s: Tensor, radius: Tensor) -> Tensor:
        # Moreau: s − P is the projection on the dual ball whose radius leaves n(P) = radius.
        def excess(mu: Tensor) -> Tensor:
            return self._norm_of(s - self.dual._project_values(s, mu)) - radius

        low = torch.zeros_like(radius)
        return s - self.dual._project_values(s, falling_root(excess, low, self.dual._norm_of(s)))


@dataclass(frozen=True)
class KyFanDual(_FirstK):
    """The dual of the Ky Fan norm: max(σ₁, (σ₁ + … + σ_r)/k).

        dualize(G) = u₁v₁ᴴ + … + u_k v_kᴴ

    Args:
        k: the number of singular directions in the duality map, at most min(m, n) of the matrices
            given.
        polar: a method of `steepest.polar` in the place of the SVD.

    Raises:
        ValueError: k is not a positive whole number; when used, k > min(m, n).

    Sources:
        See `KyFan`.
    """

    @property
    def dual(self) -> KyFan:
        """σ₁ + … + σ_k."""
        return KyFan(self.k, polar=self.polar)

    def _norm_of(self, s: Tensor) -> Tensor:
        return torch.maximum(s[..., 0], s.sum(dim=-1) / self.k)

    def _dualize_values(self, s: Tensor) -> Tensor:
        rank = torch.arange(s.shape[-1], device=s.device)
        return ((rank < self.k) & (s > 0)).to(s.dtype)

    def _project_values(self, s: Tensor, radius: Tensor) -> Tensor:
        r = radius.unsqueeze(-1)

        def cut(theta: Tensor) -> Tensor:
            return torch.minimum((s - theta).clamp(min=0), r)

        def excess(theta: Tensor) -> Tensor:
            return cut(theta).sum(dim=-1, keepdim=True) - self.k * r

        # Clipping alone is enough where the sum then fits.
        needed = excess(torch.zeros_like(r)) > 0
        theta = falling_root(excess, torch.zeros_like(r), s[..., :1])
        return cut(torch.where(needed, theta, 0.0))
