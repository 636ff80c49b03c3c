"""Lion-K on a quadratic in 20 × 30 matrices, in float64 with exact polar factors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Generator, Tensor

from steepest import LionK, maps, norms
from steepest._common.files import Record

ROWS, COLUMNS = 20, 30
# Of A in the quadratic: the gradient then has other singular vectors than X − X*.
CONDITION = 10.0
DECAY = 2.0
RADIUS = 1 / DECAY

# The smallest and the largest singular value of the optimum, in units of the ball's radius.
OPTIMA: Mapping[str, tuple[float, float]] = {
    "outside": (2.0, 6.0),
    "partly outside": (0.2, 4.0),
    "inside": (0.1, 0.8),
}
MOMENTUM = 0.95

# Of the small-step run: α = γ, and the δ of K = Σ√(σ² + δ²).
GAMMA = 1.0
DELTA = 0.1
START = 0.9

# The runs from outside: where they start and where the optimum is, in units of the radius.
FAR, FARTHER = 4.0, 10.0

MAPS: Mapping[str, maps.ConvexMap] = {
    "Nuclear": maps.NuclearMap(),
    "L1": maps.L1Map(),
    "Frobenius": maps.FromNorm(norms.Frobenius()),
    "GroupRows": maps.GroupRows(),
    "Schatten-4": maps.SchattenMap(4),
    "SmoothNuclear": maps.SmoothNuclear(DELTA),
}
"""The maps that start from outside."""


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def _orthonormal(seed: int, rows: int, columns: int) -> Tensor:
    q: Tensor = torch.linalg.qr(_random(seed, rows, columns)).Q
    return q


@dataclass(frozen=True)
class Quadratic:
    """F(X) = ½⟨X − X*, A(X − X*)⟩ with a symmetric A > 0.

    Args:
        a: A, shape (m, m).
        optimum: X*, shape (m, n).
    """

    a: Tensor
    optimum: Tensor

    @classmethod
    def of(cls, seed: int, low: float, high: float) -> Quadratic:
        """A random one, whose optimum has singular values evenly from `high` to `low`."""
        u, v = _orthonormal(4 * seed, ROWS, ROWS), _orthonormal(4 * seed + 1, COLUMNS, ROWS)
        q = _orthonormal(4 * seed + 2, ROWS, ROWS)
        sigma = torch.linspace(high, low, ROWS, dtype=torch.float64)
        curvature = CONDITION ** torch.linspace(0, 1, ROWS, dtype=torch.float64)
        return cls((q * curvature) @ q.T, (u * sigma) @ v.T)

    def value(self, x: Tensor) -> float:
        """F(X)."""
        return 0.5 * ((x - self.optimum) * self.grad(x)).sum().item()

    def grad(self, x: Tensor) -> Tensor:
        """∇F(X)."""
        return self.a @ (x - self.optimum)


class LionKRun:
    """Lion-K with β₁ = β₂ = β on a quadratic.

    Args:
        loss: the quadratic.
        start: X₀.
        K: the map.
        lr: the learning rate of the first step.
        momentum: β.
        decay: kind of the weight decay `DECAY`.
    """

    def __init__(
        self,
        loss: Quadratic,
        start: Tensor,
        *,
        K: maps.ConvexMap,
        lr: float,
        momentum: float = MOMENTUM,
        decay: str = "explicit",
    ) -> None:
        self.loss, self.K = loss, K
        self.param = torch.nn.Parameter(start.clone())
        self.optimizer = LionK(
            [self.param],
            lr,
            (momentum, momentum),
            DECAY,
            K,
            decay=decay,  # type: ignore[arg-type]
        )

    @property
    def x(self) -> Tensor:
        """X."""
        return self.param.detach()

    @property
    def group(self) -> Record:
        """The group of the optimizer's one parameter."""
        group: Any = self.optimizer.param_groups[0]
        return cast(Record, group)

    def step(self) -> None:
        """One step along the gradient at X."""
        self.param.grad = self.loss.grad(self.x)
        self.optimizer.step()

    def score(self) -> tuple[float, float]:
        """K(−∇F) + K*(λX) + ⟨λX, ∇F⟩, and ‖∇F‖ in the dual of the domain's norm."""
        grad = self.loss.grad(self.x)
        gap = self.K.value(grad) + self.K.conjugate(DECAY * self.x)
        gap = gap + DECAY * (self.x * grad).sum()
        assert self.K.domain is not None, "every map here has a ball"
        return gap.item(), self.K.domain.dual(grad).item()

    def lyapunov(self, gamma: float) -> float:
        """H/γ = F(X) + K*(λX)/λ + (K(m) + K*(λX) − ⟨m, λX⟩)/γ for ṁ = −γ(∇F + m).

        With ẋ = ∇K(m) − λX it never rises. The optimizer's buffer is −m, and its step of length η
        is Euler's with β = 1 − ηγ.
        """
        state = self.optimizer.state[self.param]
        m = -state["momentum_buffer"] if state else torch.zeros_like(self.x)
        wall = self.K.conjugate(DECAY * self.x)
        gap = self.K.value(m) + wall - DECAY * (m * self.x).sum()
        return self.loss.value(self.x) + (wall / DECAY + gap / gamma).item()


def rate(t: int) -> float:
    """η_t = 0.02/√(1 + t/50)."""
    return float(0.02 / (1 + t / 50) ** 0.5)


def constrained(optimum: str, *, seed: int, steps: int, every: int) -> Record:
    """Muon with weight decay from X = 0; a row of numbers every few steps and after the last.

    `relative` is the KKT score over ‖∇F‖ and `gap` the distance to the optimum over the last step's
    size, both in the norms of the ball; `best` is the smallest score so far.
    """
    low, high = (RADIUS * part for part in OPTIMA[optimum])
    loss = Quadratic.of(seed, low, high)
    run = LionKRun(loss, torch.zeros_like(loss.optimum), K=maps.NuclearMap(), lr=rate(0))
    spectral, rows, best = norms.Spectral(), [], float("inf")
    for t in range(steps + 1):
        eta = rate(t)
        if t % every == 0 or t == steps:
            score, size = run.score()
            best = min(best, score)
            rows.append(
                {
                    "t": t,
                    "loss": loss.value(run.x),
                    "norm": spectral(run.x).item(),
                    "score": score,
                    "best": best,
                    "relative": score / size,
                    "lyapunov": run.lyapunov((1 - MOMENTUM) / eta),
                    "gap": spectral(run.x - loss.optimum).item() / rate(max(t - 1, 0)),
                }
            )
        if t < steps:
            run.group["lr"] = eta
            run.step()
    return {"rows": rows}


def small_steps(*, seed: int, steps: int, lr: float, every: int) -> Record:
    """Euler's steps of the flow with a smooth K, from inside: how often loss and H/γ rise.

    `rise` is the largest rise of H in a step, over its range.
    """
    low, high = (RADIUS * part for part in OPTIMA["inside"])
    loss, K = Quadratic.of(seed, low, high), maps.SmoothNuclear(DELTA)
    start = _random(4 * seed + 3, ROWS, COLUMNS)
    start *= START * RADIUS / norms.Spectral()(start)
    run = LionKRun(loss, start, K=K, lr=lr, momentum=1 - lr * GAMMA)
    losses, values = [], []
    for t in range(steps + 1):
        losses.append(loss.value(run.x))
        values.append(run.lyapunov(GAMMA))
        if t < steps:
            run.step()
    f, h = (torch.tensor(v, dtype=torch.float64) for v in (losses, values))
    kept = sorted({*range(0, steps + 1, every), steps})
    return {
        "rows": [{"t": t * lr, "loss": losses[t], "lyapunov": values[t]} for t in kept],
        "loss_rises": int((f.diff() > 0).sum()),
        "rise": (h.diff().max().clamp(min=0) / (h.max() - h.min())).item(),
    }


def approach(name: str, decay: str, *, seed: int, steps: int, lr: float, every: int) -> Record:
    """Go from a start outside towards an optimum farther outside: the distance to the ball.

    `excess` is the largest dist_{t+1} − c·dist_t with c = 1 − ηλ, or 1/(1 + ηλ) for implicit decay.
    All distances are over the radius of the ball.
    """
    K = MAPS[name]
    assert K.domain is not None, "every map here has a ball"
    unit = Quadratic.of(seed, 1.0, 3.0)
    loss = Quadratic(unit.a, FARTHER * RADIUS * unit.optimum / K.domain(unit.optimum))
    start = _random(4 * seed + 3, ROWS, COLUMNS)
    run = LionKRun(loss, FAR * RADIUS * start / K.domain(start), K=K, lr=lr, decay=decay)
    found = [K.violation(run.x, DECAY).item() / RADIUS]
    for _ in range(steps):
        run.step()
        found.append(K.violation(run.x, DECAY).item() / RADIUS)
    factor = contraction(decay, lr)
    bound = [found[0] * factor**t for t in range(steps + 1)]
    kept = sorted({*range(0, steps + 1, every), steps})
    return {
        "rows": [{"t": t, "distance": found[t], "bound": bound[t]} for t in kept],
        "excess": max(b - factor * a for a, b in pairwise(found)),
    }


def contraction(decay: str, lr: float) -> float:
    """The most that a step leaves of the distance; cautious decay is held against explicit."""
    return 1 / (1 + lr * DECAY) if decay == "implicit" else 1 - lr * DECAY
