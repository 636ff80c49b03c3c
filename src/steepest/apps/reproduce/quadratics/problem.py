"""Quadratics in a matrix, many of one shape as one batch, and a descent on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from steepest.apps.reproduce.quadratics.families import spectrum

Build = Callable[[Parameter], Optimizer]
Observer = Callable[[int, Tensor], None]


def generator(seed: int, instance: int, stream: int = 0) -> Generator:
    """The random numbers of one instance: no other instance changes them."""
    return np.random.default_rng([seed, instance, stream])


def orthogonal(n: int, draw: Generator) -> Tensor:
    """A random orthogonal matrix in float64, shape (n, n)."""
    q: Tensor = torch.linalg.qr(gaussian(n, draw)).Q
    return q


def gaussian(n: int, draw: Generator) -> Tensor:
    """Independent entries of variance 1/n in float64, shape (n, n)."""
    return torch.from_numpy(draw.standard_normal((n, n))) / math.sqrt(n)


@dataclass(frozen=True)
class Problem:
    """L(W) = ½⟨W − W*, A(W − W*)⟩ and a start W₀, for a batch of instances.

    It is ‖XW − Y‖²/(2·n·d_out) for data with XᵀX/(n·d_out) = A and Y = XW*.

    Args:
        a: A, shape (batch, n, n), symmetric and positive definite.
        optimum: W*, shape (batch, n, n).
        start: W₀, shape (batch, n, n).
    """

    a: Tensor
    optimum: Tensor
    start: Tensor

    @classmethod
    def draw(
        cls, family: str, n: int, *, seed: int, instances: Iterable[int], dtype: torch.dtype
    ) -> Problem:
        """Random instances: A = V·diag(s)·Vᵀ with a random V, entries of W* and W₀ N(0, 1/n).

        Args:
            family: the family of the spectrum s; see `families.FAMILIES`.
            n: rows and columns.
            seed: the seed of all instances.
            instances: their numbers; each has random numbers of its own.
            dtype: the type of the tensors.
        """
        parts = []
        for instance in instances:
            draw = generator(seed, instance)
            v, s = orthogonal(n, draw), torch.from_numpy(spectrum(family, n, draw))
            parts.append(((v * s) @ v.T, gaussian(n, draw), gaussian(n, draw)))
        return cls(*(torch.stack(each).to(dtype) for each in zip(*parts, strict=True)))

    @property
    def sharpness(self) -> Tensor:
        """tr A, the smoothness constant of each instance in the spectral norm, shape (batch,)."""
        return self.a.diagonal(dim1=-2, dim2=-1).sum(dim=-1)

    @property
    def distance(self) -> float:
        """The largest ‖W₀ − W*‖₂: a polar step of length α takes at most α of it away."""
        return float(torch.linalg.matrix_norm(self.start - self.optimum, ord=2).max())

    def over(self, scale: Tensor) -> Problem:
        """The same with the loss of each instance divided by its `scale`, shape (batch,)."""
        return replace(self, a=self.a / scale[:, None, None])

    @classmethod
    def isotropic(cls, n: int, *, seed: int, instances: Iterable[int]) -> Problem:
        """½‖W‖² in float64 from entries N(0, 1/n)."""
        start = torch.stack([gaussian(n, generator(seed, i)) for i in instances])
        eye = torch.eye(n, dtype=torch.float64).expand_as(start).contiguous()
        return cls(eye, torch.zeros_like(start), start)


@dataclass(frozen=True)
class DescentPath:
    """Losses and Frobenius norms of the gradients of a descent, each (steps + 1, batch)."""

    loss: Tensor
    grad: Tensor


@torch.no_grad()
def descend(
    problem: Problem,
    build: Build,
    *,
    steps: int,
    schedule: Callable[[int], float] | None = None,
    watch: Observer | None = None,
) -> DescentPath:
    """Let an optimizer take steps from W₀; one parameter holds the whole batch.

    Args:
        problem: the problem whose gradient it sees, A(W − W*).
        build: the optimizer of a parameter of shape (batch, n, n).
        steps: the number of steps.
        schedule: factor of the lr at step t; None means 1.
        watch: a function that is called with t and W before step t, and after the last one.
    """
    param = Parameter(problem.start.clone())
    optimizer = build(param)
    decay = LambdaLR(optimizer, schedule) if schedule is not None else None
    loss, size = (problem.start.new_empty(steps + 1, len(problem.start)) for _ in range(2))
    for t in range(steps + 1):
        error = param - problem.optimum
        grad = problem.a @ error
        torch.sum(error * grad, dim=(-2, -1), out=loss[t])
        torch.linalg.vector_norm(grad, dim=(-2, -1), out=size[t])
        if watch is not None:
            watch(t, param.detach())
        if t < steps:
            param.grad = grad
            optimizer.step()
            if decay is not None:
                decay.step()
    return DescentPath(loss / 2, size)
