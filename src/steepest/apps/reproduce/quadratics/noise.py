"""Polar factors with an error whose shape and size are chosen."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from numpy.random import Generator
from torch import Tensor

from steepest._common.errors import invalid
from steepest.polar import Accuracy, NewtonSchulz, PolarMethod, Schedule


class ErrorProfile(ABC):
    """The shape that an error of a polar factor has; a `NoisyPolar` gives it its size."""

    @abstractmethod
    def __call__(self, x: Tensor, q: Tensor, draws: Sequence[Generator]) -> Tensor:
        """The error of size 1.

        Args:
            x: the matrices, shape (batch, m, n), m ≤ n.
            q: their polar factors.
            draws: the random numbers of each of them.
        """


def _normal(shape: Sequence[int], draws: Sequence[Generator], like: Tensor) -> Tensor:
    """Independent standard normal numbers, (batch, *shape), a batch its members."""
    parts = [torch.from_numpy(draw.standard_normal(tuple(shape))) for draw in draws]
    return torch.stack(parts).to(like)


@dataclass(frozen=True)
class Additive(ErrorProfile):
    """Independent normal entries of variance 1/n: of size σ, ‖error‖_F is σ·‖UVᵀ‖_F on average."""

    def __call__(self, x: Tensor, q: Tensor, draws: Sequence[Generator]) -> Tensor:
        """Entries N(0, 1/n) for m × n matrices."""
        return _normal(x.shape[-2:], draws, q) / math.sqrt(x.shape[-1])


@dataclass(frozen=True)
class PerSingularValue(ErrorProfile):
    """U·diag(ξ)·Vᵀ: of size σ every singular value is 1 + σξ with its own normal ξ."""

    def __call__(self, x: Tensor, q: Tensor, draws: Sequence[Generator]) -> Tensor:
        """U·diag(ξ)·Vᵀ."""
        u, s, vh = torch.linalg.svd(x, full_matrices=False)
        error: Tensor = (u * _normal(s.shape[-1:], draws, s).unsqueeze(-2)) @ vh
        return error


@dataclass(frozen=True)
class Shaped(ErrorProfile):
    """U·diag(p(σ/‖x‖_F) − 1)·Vᵀ: of size 1 the error of a schedule p, of size 0 none.

    Args:
        schedule: p; see `steepest.polar.NewtonSchulz`.
    """

    schedule: Schedule

    def __call__(self, x: Tensor, q: Tensor, draws: Sequence[Generator]) -> Tensor:
        """The result of the schedule for x, less its polar factor; nothing here is random."""
        return NewtonSchulz(self.schedule)(x) - q


@dataclass(frozen=True)
class NoisyPolar(PolarMethod):
    """A polar factor and an error of known shape: method(x) + sigma·kind.

    Unlike other methods it gives another result each time, and member i of a batch has the i-th
    random numbers.

    Args:
        method: the polar factor.
        sigma: size of the error.
        kind: its shape.
        draws: random numbers of each member of a batch, which every call continues.

    Raises:
        ValueError: a negative size, or a batch that is larger than `draws`.

    Examples:
        >>> import numpy as np
        >>> from steepest.polar import Svd
        >>> draws = (np.random.default_rng(0),)
        >>> noisy = NoisyPolar(Svd(), 0.1, PerSingularValue(), draws)
        >>> q = noisy(torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64)))
        >>> [round(v, 3) for v in q.diagonal().tolist()]
        [1.013, 0.987]
    """

    method: PolarMethod
    sigma: float
    kind: ErrorProfile
    draws: tuple[Generator, ...]

    def __post_init__(self) -> None:
        if not self.sigma >= 0:
            raise invalid("sigma", self.sigma, "give a number >= 0")

    def compute_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        """The type of the input, single precision at least."""
        return torch.float32 if torch.finfo(dtype).bits < 32 else dtype

    def accuracy(self, m: int, n: int, dtype: torch.dtype) -> Accuracy:
        """None: a normal number has no bound."""
        return Accuracy(1.0, float("inf"), float("inf"))

    def _factor(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        if len(x) > len(self.draws):
            raise invalid("draws", len(self.draws), f"give random numbers for {len(x)} matrices")
        q = self.method(x)
        return q + self.sigma * self.kind(x, q, self.draws[: len(x)])
