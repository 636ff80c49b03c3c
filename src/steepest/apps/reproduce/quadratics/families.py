"""Spectra: how the curvatures of a quadratic spread between the smallest and the largest one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from statistics import NormalDist

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Values = NDArray[np.float64]

# Gonon, Muşat & Boumal, arXiv 2602.11948: condition number 1e4.
LOWEST, HIGHEST = 1e-3, 10.0
RATIO = 0.9
# The normal distribution is cut off this many standard deviations from its mean.
TAIL = 3.0
EXPONENTS = {"u_shaped": 0.2, "u_shaped_medium": 0.5, "u_shaped_weak": 0.9}


def _max_spiked(n: int, _: Generator) -> Values:
    return np.full(n, HIGHEST)


def _min_spiked(n: int, _: Generator) -> Values:
    return np.full(n, LOWEST)


def _uniform(n: int, draw: Generator) -> Values:
    return draw.uniform(LOWEST, HIGHEST, n)


def _gaussian(n: int, draw: Generator) -> Values:
    normal = NormalDist((LOWEST + HIGHEST) / 2, (HIGHEST - LOWEST) / (2 * TAIL))
    parts = draw.uniform(normal.cdf(LOWEST), normal.cdf(HIGHEST), n)
    return np.array([normal.inv_cdf(p) for p in parts])


def _linear_decay_to_max(n: int, draw: Generator) -> Values:
    return HIGHEST - (HIGHEST - LOWEST) * np.sqrt(draw.uniform(size=n))


def _u_shaped(exponent: float, n: int, draw: Generator) -> Values:
    values: Values = draw.beta(exponent, exponent, n)
    return LOWEST + (HIGHEST - LOWEST) * values


def _geometric_decay(n: int, _: Generator) -> Values:
    values: Values = np.maximum(HIGHEST * RATIO ** np.arange(n), LOWEST)
    return values


def _log_uniform(n: int, draw: Generator) -> Values:
    return np.exp(draw.uniform(np.log(LOWEST), np.log(HIGHEST), n))


def _geometric(n: int, _: Generator) -> Values:
    return np.geomspace(HIGHEST, LOWEST, n)


FAMILIES: Mapping[str, Callable[[int, Generator], Values]] = {
    "max_spiked": _max_spiked,
    "min_spiked": _min_spiked,
    "uniform": _uniform,
    "gaussian": _gaussian,
    "linear_decay_to_max": _linear_decay_to_max,
    "u_shaped": partial(_u_shaped, EXPONENTS["u_shaped"]),
    "geometric_decay": _geometric_decay,
    "log_uniform": _log_uniform,
    "geometric": _geometric,
    "u_shaped_medium": partial(_u_shaped, EXPONENTS["u_shaped_medium"]),
    "u_shaped_weak": partial(_u_shaped, EXPONENTS["u_shaped_weak"]),
}
"""The families of the paper, and two weaker strengths of one of them, by name."""

NINE = tuple(name for name in FAMILIES if name not in ("u_shaped_medium", "u_shaped_weak"))
"""Those of the paper's figures."""

SPIKED = ("max_spiked", "min_spiked")
DENSE = tuple(name for name in NINE if name not in SPIKED)
"""Those in which more than one curvature differs from all others."""


def spectrum(family: str, n: int, draw: Generator) -> Values:
    """Curvatures from large to small, the first `HIGHEST` and the last `LOWEST`.

    Args:
        family: a name in `FAMILIES`.
        n: the number of eigenvalues, at least 2.
        draw: the random numbers of the random families.

    Returns:
        Shape (n,).

    Examples:
        >>> spectrum("max_spiked", 4, np.random.default_rng(0)).tolist()
        [10.0, 10.0, 10.0, 0.001]
    """
    found = np.sort(FAMILIES[family](n, draw))[::-1].copy()
    found[0], found[-1] = HIGHEST, LOWEST
    return found
