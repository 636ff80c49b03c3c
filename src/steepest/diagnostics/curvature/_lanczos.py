"""The largest eigenvalue of a symmetric operator by Lanczos, and how far it may be off."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from steepest.diagnostics.curvature.loss import Named, dot

Operator = Callable[[Named], Named]


class Top(NamedTuple):
    """The largest eigenvalue that was found.

    Args:
        value: a Rayleigh quotient, so a lower bound of the largest eigenvalue.
        residual: ‖Hv − value·v‖ of its unit vector v: an eigenvalue is no further from `value`.
    """

    value: float
    residual: float


def top_eigenvalue(
    operator: Operator, like: Named, *, steps: int, tolerance: float, seed: int = 0
) -> Top:
    """The largest eigenvalue of H, with its sign, by Lanczos from a random vector.

        w = H·q_k − β_{k−1}·q_{k−1};  α_k = ⟨q_k, w⟩;  w ← w − α_k·q_k;  β_k = ‖w‖;  q_{k+1} = w/β_k

    The largest eigenvalue of the tridiagonal matrix of α and β is `value`, and β_k times the last
    entry of its eigenvector is `residual`. Three vectors are kept: without orthogonalising again
    eigenvalues may turn up twice, which the largest does not mind.

    Args:
        operator: H times a vector.
        like: tensors of the shapes of a vector.
        steps: products with H at most.
        tolerance: the residual over |value| at which to stop.
        seed: seed of the random vector.

    Sources:
        Parlett, The Symmetric Eigenvalue Problem (1998), chapter 13.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = {
        k: torch.randn(t.shape, generator=generator, dtype=torch.float64) for k, t in like.items()
    }
    q: Named = {k: d.to(like[k]) for k, d in draws.items()}
    q = _scaled(q, 1 / math.sqrt(dot(q, q)))
    before: Named = _scaled(q, 0.0)
    alpha: list[float] = []
    beta: list[float] = []
    top = Top(0.0, 0.0)
    for _ in range(steps):
        w = operator(q)
        alpha.append(dot(q, w))
        last = beta[-1] if beta else 0.0
        w = {k: t - alpha[-1] * q[k] - last * before[k] for k, t in w.items()}
        beta.append(math.sqrt(dot(w, w)))
        top = _ritz(alpha, beta)
        # At an invariant subspace β is what rounding leaves.
        if (
            not math.isfinite(top.value)
            or top.residual <= tolerance * abs(top.value)
            or not beta[-1]
        ):
            break
        before, q = q, _scaled(w, 1 / beta[-1])
    return top


def _ritz(alpha: list[float], beta: list[float]) -> Top:
    """The top of the tridiagonal matrix."""
    if not all(map(math.isfinite, (*alpha, *beta))):
        return Top(math.nan, math.nan)
    t = torch.diag(torch.tensor(alpha, dtype=torch.float64))
    t += torch.diag(torch.tensor(beta[:-1], dtype=torch.float64), -1)
    values, vectors = torch.linalg.eigh(t)  # of its lower triangle
    return Top(float(values[-1]), beta[-1] * abs(float(vectors[-1, -1])))


def _scaled(v: Named, factor: float) -> Named:
    return {k: factor * t for k, t in v.items()}
