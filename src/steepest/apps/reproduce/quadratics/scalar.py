"""Noisy sign descent on |s|: how long it takes to a neighbourhood of zero."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from steepest._common.files import Record

# Figure 4 of arXiv 2602.11948: step size, neighbourhood and start, half-way between grid points.
ALPHA = 0.1
EPSILON = ALPHA / 5
START = 10 * ALPHA + 1.3 * EPSILON
CAP = 1000
# Between these percentiles lie 95 % of the runs; the median is between them.
CENTRAL = (2.5, 50, 97.5)
STREAM = 4


def sigmas(count: int) -> list[float]:
    """The sizes of the noise, from 1e-3 to 10."""
    return [float(s) for s in np.logspace(-3, 1, count)]


def hitting_times(
    start: NDArray[np.float64], sigma: float, draw: np.random.Generator, *, cap: int
) -> NDArray[np.int64]:
    """Steps of s ← s − α(sign(s) + σξ), ξ ~ N(0, 1), until |s| ≤ ε; `cap` + 1 if it takes more.

    Args:
        start: s₀ of each sample.
        sigma: σ; with 0 nothing is random.
        draw: the noise.
        cap: the number of steps after which a sample is given up.

    Examples:
        >>> start = np.array([0.2, 0.25])
        >>> hitting_times(start, 0.0, np.random.default_rng(0), cap=100).tolist()
        [2, 101]
    """
    times = np.full(start.shape, cap + 1)
    place, left = start.astype(float), np.arange(start.size)
    for t in range(cap + 1):
        there = np.abs(place) <= EPSILON
        times[left[there]] = t
        place, left = place[~there], left[~there]
        if t == cap or not left.size:
            break
        noise = sigma * draw.standard_normal(place.size) if sigma else 0.0
        place -= ALPHA * (np.sign(place) + noise)
    return times


def hitting(*, index: int, sigma: float, samples: int, seed: int) -> Record:
    """Median of the hitting time from the start of figure 4, and its central 95 % over the runs.

    `low` and `high` are the 2.5th and the 97.5th percentile of the runs. `from` and `to` bound the
    median with 95 % confidence, by the ranks of a binomial number.
    """
    draw = np.random.default_rng([seed, index, STREAM])
    found = hitting_times(np.full(samples, START), sigma, draw, cap=CAP).clip(max=CAP)
    low, middle, high = np.percentile(found, CENTRAL)
    ranks = 100 * 1.96 * 0.5 / samples**0.5
    least, most = np.percentile(found, (50 - ranks, 50 + ranks))
    return {
        "sigma": sigma,
        "median": float(middle),
        "from": float(least),
        "to": float(most),
        "low": float(low),
        "high": float(high),
        "capped": float((found >= CAP).mean()),
    }


def starts(*, sigma: float, samples: int, cap: int, seed: int) -> Record:
    """Count the random starts in [−2, 2] that arrive, and those that end near αZ.

    `wrong` counts those that contradict "arrives if and only if dist(s₀, αZ) ≤ ε".
    """
    draw = np.random.default_rng([seed, samples, STREAM])
    start = draw.uniform(-2, 2, samples)
    arrived = hitting_times(start, sigma, draw, cap=cap) <= cap
    near = np.abs(start - ALPHA * np.round(start / ALPHA)) <= EPSILON
    return {
        "sigma": sigma,
        "arrived": int(arrived.sum()),
        "near": int(near.sum()),
        "wrong": int((arrived != near).sum()),
        "samples": samples,
        "cap": cap,
    }
