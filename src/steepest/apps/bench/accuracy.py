"""The relative error of a polar factor where the exact one is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steepest.apps.bench.sets import Shape

# The condition number at which the methods of the literature are compared here.
CONDITION = 300.0


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A matrix with the singular vectors over which the error of its polar factor is stated.

    Args:
        x: the matrix X in float32, shape (out, in).
        left: the left singular vectors of X, or of its transpose where X is tall, in float64: shape
            (min(out, in), kept), the largest singular value first.
        right: the right singular vectors that go with them, shape (max(out, in), kept).

    Examples:
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> probe = Probe(x=torch.diag(torch.tensor([2.0, 1.0])), left=eye, right=eye)
        >>> round(probe.error(1.1 * torch.eye(2)), 6)
        0.1
    """

    x: Float[Tensor, "out in"]
    left: Float[Tensor, "short kept"]
    right: Float[Tensor, "long kept"]

    def error(self, q: Float[Tensor, "out in"]) -> float:
        """‖P(Q − UVᵀ)‖_F / ‖P·UVᵀ‖_F with P the projector on the kept left singular vectors."""
        wide = q.mT if q.shape[0] > q.shape[1] else q
        difference = self.left.mT @ wide.double() - self.right.mT
        # P·UVᵀ has the kept singular values 1.
        return float(difference.norm()) / math.sqrt(self.left.shape[1])


def spectrum_probe(shape: Shape, generator: torch.Generator) -> Probe:
    """A matrix with Gaussian singular vectors and log-spaced singular values 1 … 1/CONDITION.

    It is put together from its singular vectors, so the exact factor costs no decomposition. It
    lies on the device of the generator.
    """
    short, long = sorted(shape)
    where: dict[str, Any] = {"dtype": torch.float64, "device": generator.device}

    def vectors(rows: int) -> Tensor:
        gauss = torch.randn(rows, short, generator=generator, **where)
        q: Tensor = torch.linalg.qr(gauss).Q
        return q

    left, right = vectors(short), vectors(long)
    sigma = torch.logspace(0, -math.log10(CONDITION), short, **where)
    wide = ((left * sigma) @ right.mT).float()
    return Probe(x=wide if shape[0] <= shape[1] else wide.mT, left=left, right=right)


def gradient_probe(x: Float[Tensor, "out in"], resolution: float) -> Probe:
    """A given matrix, its error to be stated over σ ≥ resolution·σ₁; one float64 SVD."""
    wide = x.mT if x.shape[0] > x.shape[1] else x
    u, s, vh = torch.linalg.svd(wide.double(), full_matrices=False)
    kept = int((s >= resolution * s[0]).sum())
    return Probe(x=x, left=u[:, :kept].contiguous(), right=vh[:kept].mT.contiguous())
