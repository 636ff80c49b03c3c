"""How far to go along a descent direction: exact on a quadratic, Armijo's rule otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable

# Nocedal & Wright, Numerical Optimization (2006), section 3.1: the part of the decrease that the
# slope promises which a step has to keep, and the bounds on one cut of the step.
ARMIJO = 1e-4
CUTS = (0.1, 0.5)

# Ours: bounds on the work, and when a parabola through a trial confirms the trial itself.
EVALUATIONS = 20
REFITS = 2
SAME = 1e-3


def line_search(f: Callable[[float], float], start: float, slope: float, first: float) -> float:
    """A length t with f(t) ≤ start + ARMIJO·slope·t, the minimiser if f is a quadratic.

    A parabola through start, slope and one trial point has its minimum where a quadratic f has it.
    That point is the next trial, so a quadratic is confirmed by the second. Elsewhere the best of a
    few such trials is taken, after cutting the step until Armijo's rule holds. Where a trial shows
    no positive curvature the step doubles as long as f falls.

    Args:
        f: the loss at length t along the direction.
        start: f(0).
        slope: derivative of f at 0, negative.
        first: length of the first trial.

    Returns:
        The length; 0 if the slope is not negative, or no trial decreases f enough.

    Examples:
        >>> line_search(lambda t: (t - 3.0) ** 2, start=9.0, slope=-6.0, first=1.0)
        3.0
    """
    if not slope < 0:
        return 0.0
    best, lowest, t, refits = 0.0, math.inf, first, 0
    for _ in range(EVALUATIONS):
        value = f(t)
        if not math.isfinite(value):
            t *= CUTS[0]
            continue
        enough = value <= start + ARMIJO * slope * t
        better = enough and value < lowest
        if better:
            best, lowest = t, value
        curvature = 2 * (value - start - slope * t) / t**2
        if not curvature > 0:
            if not better:
                break
            t *= 2
            continue
        fit = -slope / curvature
        if not enough:
            t *= min(max(fit / t, CUTS[0]), CUTS[1])
        elif better and abs(fit - t) <= SAME * t:
            return fit
        elif refits == REFITS:
            break
        else:
            refits += 1
            t = fit
    return best
