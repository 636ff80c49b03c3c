"""The effect of rounding of Gram matrices on an iteration on them, simulated on singular values."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from steepest._common.numerics import epsilon
from steepest.polar._rounding import GRAM_NOISE
from steepest.polar.schedule import Schedule, of_square

# How far rounding, eps at first, may grow in a Gram matrix before it is formed anew.
# A spurious eigenvalue of 1e-3 changes no polynomial visibly; ten times more would.
RESTART_GROWTH = 1e-3

# In half precision one step alone exceeds that. The last two may share a Gram matrix up to this
# growth: all that counts is within a few times of 1 by then. Earlier ones may not: a first step has
# sent some large singular values down to 0.05, where rounding of R is as large as σ² is. Emulated
# (spectra of two levels and in equal ratios, 1 to 128 rows): 0.011 in float16 keeps the promise,
# 0.085 in bfloat16 does not.
LAST_STEPS_GROWTH = 0.02

# Half precision adds up in float32 and rounds the sum: each entry by eps/2 at most. Measured (size
# 2 to 256; one to all singular values large, the others 1e-4; random, constant, diagonal and
# sparse singular vectors): eigenvalues off by 0.47·eps·λ₁, and between the directions of small
# ones by 0.24·eps·λ₁. Where R is rounded twice, rescaled or as ZRZ, two independent errors add up.
HALF_NOISE = 0.5
SMALL_HALF_NOISE = 0.25
TWICE = 2**0.5


def safe_segments(schedule: Schedule, eps: float) -> tuple[int, ...]:
    """Numbers of steps after which the Gram matrix must be formed anew.

    An eigenvalue of rounding size eps grows by a² in a step with linear coefficient a. A segment
    ends before eps·Πa² exceeds 1e-3; in half precision the last two steps make one where eps·a² of
    the first of them is below 0.02.

    Examples:
        >>> from steepest.polar import polar_express
        >>> safe_segments(polar_express(6), 1.1e-7)  # float32
        (2, 4)
        >>> safe_segments(polar_express(6), 9.8e-4)  # float16
        (1, 1, 1, 1, 2)
        >>> safe_segments(polar_express(6), 7.8e-3)  # bfloat16
        (1, 1, 1, 1, 1, 1)
    """
    linear = [step[0] for step in schedule.folded]
    if eps > epsilon(torch.float32):
        ones = (1,) * len(linear)
        paired = len(linear) > 2 and eps * linear[-2] ** 2 <= LAST_STEPS_GROWTH
        return (*ones[2:], 2) if paired else ones
    out: list[int] = []
    growth = 1.0
    for a in linear:
        if not out or (out[-1] >= 2 and eps * growth * a**2 > RESTART_GROWTH):
            out.append(0)
            growth = 1.0
        growth *= a**2
        out[-1] += 1
    return tuple(out)


@lru_cache(maxsize=4096)
def band(
    schedule: Schedule, segments: tuple[int, ...], eps: float, lower: float
) -> tuple[float, float, float]:
    """(lowest, highest) on [lower, 1] and highest on [0, 1], with each R off by what rounding does.

    In single precision that is an error of eigenvalues in the first R of a segment; in half
    precision every product that R goes through is rounded as coarsely as the first one.
    """
    half = eps > epsilon(torch.float32)
    own, small = (HALF_NOISE, SMALL_HALF_NOISE) if half else (0.0, GRAM_NOISE)
    noises = sorted({(own * s, small * t) for s in (-eps, 0, eps) for t in (-eps, 0, eps)})
    relative, absolute = torch.tensor(noises, dtype=torch.float64, device="cpu").split(1, dim=1)

    def rounded(r: Tensor, times: float) -> Tensor:
        out: Tensor = r * (1 + times * relative) + times * absolute * r.amax(dim=1, keepdim=True)
        return out

    sigma = torch.cat(
        [
            torch.zeros(1, dtype=torch.float64, device="cpu"),
            torch.logspace(-12, -4, 200, dtype=torch.float64, device="cpu"),
            torch.logspace(-4, 0, 1_001, dtype=torch.float64, device="cpu"),
            torch.linspace(1e-3, 1, 1_001, dtype=torch.float64, device="cpu"),
            # Rounding of R² leaves the bound of σ₁ so much too small.
            torch.tensor([lower, 1 + eps / 4], dtype=torch.float64, device="cpu"),
        ]
    )
    x, steps = sigma.expand(len(noises), -1), iter(schedule.folded)
    for k, length in enumerate(segments):
        # The first R of all is rescaled.
        r, q = rounded(x * x, TWICE if half and k == 0 else 1.0), torch.ones_like(x)
        for _ in range(length):
            z = of_square(next(steps), r)
            q, r = q * z, r * z * z
            if half:
                r = rounded(r, TWICE)
        x = (q * x).abs()
    inside = x[:, sigma >= lower]
    # The extremes lie between the points of the grid.
    margin = 1.002
    low, high, top = (1 + margin * (float(v) - 1) for v in (inside.min(), inside.max(), x.max()))
    return low, high, top


# Emulated as above: what the band leaves out is 2.2·eps at most for segments of one step, 4.9·eps
# with one of two.
LAST_ROUNDING, LONG_ROUNDING = 2.25, 5.0

# Emulated for two levels, 1 and σ, besides 8·eps: 0.06·eps·σ₁/σ at most for segments of one step,
# 1.1·eps·σ₁/σ for longer ones.
TURN, LONG_TURN = 0.1, 1.2


def half_error(segments: tuple[int, ...], eps: float) -> float:
    """Bound on |σ − 1| that rounding leaves of a factor in half precision, besides the band."""
    return (LAST_ROUNDING if max(segments) == 1 else LONG_ROUNDING) * eps


def half_backward(segments: tuple[int, ...], eps: float) -> float:
    """`Accuracy.backward` of an iteration in half precision."""
    return (TURN if max(segments) == 1 else LONG_TURN) * eps
