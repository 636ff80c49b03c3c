"""Derive the coefficients of a schedule instead of copying them.

The best odd quintic on [l, u] is the one whose error 1 − p(x) equioscillates in four points. The
Polar Express composes such polynomials greedily, each made for the interval that the last one
left. The best odd rational function is known in closed form.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from steepest._common.errors import invalid
from steepest.polar.schedule import OddPolynomial, Quintic, Schedule

# arXiv 2505.16932, section 4.4. A polynomial made for a wide interval takes some large singular
# values down to the small ones, where rounding drowns them; the cushion keeps them away from there.
CUSHION = 0.02407327424182761

# Room above σ₁ in the first step of longer polynomials: what lies above the interval later is
# left there by rounding of their own terms.
FIRST_SAFETY = 1.01

# Longer polynomials are steeper and take more large singular values down. Emulated in bfloat16 (two
# levels, two levels with a third, in equal ratios; 2 to 96 rows), with 0.03 some directions turn,
# and with 0.035 where the last polynomial is of degree 9.
LONG_CUSHION = 0.04

# Of these degrees the best polynomial is largest at the upper end, as a composition needs.
DEGREES = (5, 9, 13)


def best_quintic(lower: float, upper: float) -> tuple[Quintic, float]:
    """The odd quintic nearest to 1 on [lower, upper] in the maximum norm, by Remez exchange.

        (a, b, c) = argmin max_{lower ≤ x ≤ upper} |1 − (a·x + b·x³ + c·x⁵)|

    Args:
        lower: left end of the interval, > 0.
        upper: right end of the interval.

    Returns:
        The coefficients and the error, the value of the minimum.

    Raises:
        ValueError: not 0 < lower <= upper.

    Examples:
        >>> _, error = best_quintic(0.5, 1.5)
        >>> round(error, 4)
        0.0855

    Sources:
        arXiv 2505.16932, section 3.3 and appendix.
    """
    if not 0 < lower <= upper:
        raise invalid("lower, upper", (lower, upper), "give 0 < lower <= upper")
    if lower > (1 - 5e-6) * upper:
        # The four points coincide to rounding; the limit is the Taylor-matched quintic.
        return (1.875 / upper, -1.25 / upper**3, 0.375 / upper**5), 0.0
    inner = ((3 * lower + upper) / 4, (lower + 3 * upper) / 4)
    error = math.inf
    for _ in range(100):
        points = torch.tensor([lower, *inner, upper], dtype=torch.float64, device="cpu")
        signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64, device="cpu")
        system = torch.stack([points, points**3, points**5, signs], dim=1)
        a, b, c, new = torch.linalg.solve(system, torch.ones_like(signs)).tolist()
        root = math.sqrt(9 * b * b - 20 * a * c)
        inner = (math.sqrt((-3 * b - root) / (10 * c)), math.sqrt((-3 * b + root) / (10 * c)))
        if abs(new - error) < 1e-15:
            break
        error = new
    return (a, b, c), abs(new)


@lru_cache(maxsize=256)
def polar_express_coefficients(
    lower: float,
    steps: int,
    *,
    cushion: float = 0.0,
    safety: float = 1.0,
    degree: int = 5,
    last: int | None = None,
) -> tuple[OddPolynomial, ...]:
    """Greedy composition of best odd polynomials for singular values in [lower, 1].

        l_1 = lower,  u_1 = safety
        p_t = the best one on [max(l_t, cushion·u_t), u_t], times 2 / (p_t(l_t) + p_t(u_t))
        l_{t+1} = p_t(l_t),  u_{t+1} = safety·p_t(u_t)

    so values around 1 come out; longer polynomials but the last are divided by p_t(u_t) instead.

    Args:
        lower: the smallest singular value to bring to 1.
        steps: number of polynomials.
        cushion: fraction of u_t below which a polynomial is not fitted; 0 is the optimum in exact
            arithmetic.
        safety: room above the largest singular value, in every step. The top of the interval is
            steep: what rounding lifts above it grows tenfold per step. Of longer polynomials than
            quintics, the first has no more than 1.01.
        degree: the degree of the polynomials: 5 as published, 9 or 13 for fewer steps.
        last: the degree of the last one; None for the same.

    Returns:
        (a, b, c) of each step, or more coefficients.

    Raises:
        ValueError: an empty interval, no steps, another degree, a cushion outside [0, 1) or a
            safety below 1.

    Examples:
        >>> [round(a, 3) for a, _, _ in polar_express_coefficients(1e-3, 3, cushion=CUSHION)]
        [8.287, 4.107, 3.949]

    Sources:
        arXiv 2505.16932, Theorem 3.1 and section 4.4.
    """
    if steps < 1:
        raise invalid("steps", steps, "give at least one step")
    if not 0 <= cushion < 1:
        raise invalid("cushion", cushion, "give a fraction in [0, 1)")
    if safety < 1:
        raise invalid("safety", safety, "give a factor >= 1")
    upper = safety if degree == 5 else min(safety, FIRST_SAFETY)
    out: list[OddPolynomial] = []
    for t in range(steps):
        own = last if last and t == steps - 1 else degree
        step = _best_on(max(lower, cushion * upper), upper, own)
        ends = [sum(c * x ** (2 * k + 1) for k, c in enumerate(step)) for x in (lower, upper)]
        # Longer polynomials of a Gram matrix are evaluated in a form made for [0, 1].
        centre = 1 / ends[1] if degree > 5 and t < steps - 1 else 2 / sum(ends)
        out.append(tuple(c * centre for c in step))
        lower = ends[0] * centre
        upper = safety * ends[1] * centre
    return tuple(out)


def _best_on(lower: float, upper: float, degree: int) -> OddPolynomial:
    """The best odd polynomial on [lower, upper]; the largest value is at the upper end."""
    if degree not in DEGREES:
        raise invalid("degree", degree, f"give one of {DEGREES}")
    if degree == 5:
        return best_quintic(lower, upper)[0]
    # Nearer to 1 than this the error is that of rounding.
    step, _ = best_odd_polynomial(min(lower / upper, 0.9), degree)
    return tuple(c / upper ** (2 * k + 1) for k, c in enumerate(step))


# Rounding in single precision lifts no singular value further than this above the interval, with
# the Gram matrices of `GramNewtonSchulz` and up to ten steps (simulated by `_noisy_band`).
SINGLE_SAFETY = 1.002


@lru_cache(maxsize=256)
def design_schedule(
    *,
    lower: float,
    error: float,
    cushion: float | None = None,
    safety: float = SINGLE_SAFETY,
    degree: int = 5,
    slack: float = 1.0,
) -> Schedule:
    """The shortest Polar Express schedule that brings [lower, 1] to 1 within `error`.

    Args:
        lower: the smallest singular value, relative to the normalisation, to bring to 1.
        error: the largest |1 − p(σ)| allowed for σ in [lower, 1].
        cushion: the fraction of u_t of `polar_express_coefficients`; None for the published one,
            0.024, and for 0.04 with longer polynomials.
        safety: the room above σ₁ of `polar_express_coefficients`. In half precision about 1.02 for
            quintics; for degree 9, whose own rounding counts, 1.06 in bfloat16 and 1.015 in
            float16. With less they diverge, which `accuracy` of a method does not foresee.
        degree: the degree of the polynomials, 5, 9 or 13; the last one has the least of these that
            reaches the error.
        slack: the polynomials are made for singular values from slack·lower on: room below, where
            rounding of Gram matrices takes small singular values down.

    Returns:
        A schedule whose `error` is at most the one asked for.

    Raises:
        ValueError: `lower` or `error` outside (0, 1), a slack outside (0, 1], another degree, or an
            error that more steps do not reach: the room above the interval costs about
            (safety − 1)³/13 with quintics.

    Examples:
        >>> schedule = design_schedule(lower=1e-3, error=0.05)
        >>> schedule.steps, schedule.error < 0.05
        (6, True)
        >>> longer = design_schedule(lower=1e-3, error=0.05, degree=13)
        >>> [2 * len(step) - 1 for step in longer.coefficients]
        [13, 13, 13, 5]
    """
    if not 0 < lower < 1:
        raise invalid("lower", lower, "give a singular value in (0, 1)")
    if not 0 < error < 1:
        raise invalid("error", error, "give an error in (0, 1)")
    if not 0 < slack <= 1:
        raise invalid("slack", slack, "give a fraction in (0, 1]")
    last = 1.0
    for schedule in _longer_and_longer(lower, cushion, safety, degree, slack):
        if schedule.error <= error:
            return schedule
        if len(schedule.coefficients[-1]) <= degree // 2:
            continue
        # Convergence is at least linear until the floor is reached.
        if last < 1e-3 and schedule.error > 0.9 * last:
            raise invalid(
                "error", error, f"safety={safety} leaves {schedule.error:.1g}: lower the safety"
            )
        last = schedule.error
    raise AssertionError("an error that stagnates has raised")


def _longer_and_longer(
    lower: float, cushion: float | None, safety: float, degree: int, slack: float
) -> Iterator[Schedule]:
    """Schedules of 1, 2, … steps; with as many steps, by the degree of the last one."""
    is_long = degree > 5
    if cushion is None:
        cushion = LONG_CUSHION if is_long else CUSHION
    for steps in itertools.count(1):
        for last in (*(d for d in DEGREES if d < degree), degree):
            yield Schedule(
                name=f"designed{degree if is_long else ''}_{steps}",
                coefficients=polar_express_coefficients(
                    slack * lower, steps, cushion=cushion, safety=safety, degree=degree, last=last
                ),
                interval=(lower, min(safety, FIRST_SAFETY) if is_long else safety),
                source="derived by steepest.polar.design, after arXiv 2505.16932",
            )


class Rational(NamedTuple):
    """scale·x·(1 + Σ_j residues_j / (x² + shifts_j)), near 1 on the interval it was made for.

    The shifts ascend; `error` is max |1 − f(x)| there.
    """

    scale: float
    shifts: tuple[float, ...]
    residues: tuple[float, ...]
    error: float

    def __call__(self, x: Tensor) -> Tensor:
        """f of each entry of a real tensor."""
        terms = (a / (x * x + c) for c, a in zip(self.shifts, self.residues, strict=True))
        return self.scale * x * (1 + sum(terms, torch.zeros_like(x)))


@lru_cache(maxsize=512)
def best_rational(lower: float, order: int) -> Rational:
    """Zolotarev's odd rational function of type (2·order + 1, 2·order), nearest to 1 on [lower, 1].

        c_i = lower²·sn²(u_i)/cn²(u_i),  u_i = i·K/(2·order + 1),  modulus² = 1 − lower²
        f(x) = scale·x·Π_j (x² + c_{2j}) / (x² + c_{2j−1})

    in partial fractions. The composition of the functions of orders r and s, each made for what the
    other one leaves, is the function of order 2rs + r + s.

    Args:
        lower: left end of the interval, in (0, 1).
        order: number of poles in x².

    Raises:
        ValueError: a lower end outside [1e-8, 1), or no pole.

    Examples:
        >>> [round(best_rational(1e-3, r).error, 3) for r in (2, 3, 4)]
        [0.202, 0.062, 0.019]

    Sources:
        Zolotarev (1877); Nakatsukasa & Freund, SIAM Review 58 (2016), section 3.
    """
    if not 1e-8 <= lower < 1:
        raise invalid("lower", lower, "give a singular value in [1e-8, 1)")
    if order < 1:
        raise invalid("order", order, "give at least one pole")
    tangents = [_amplitude_tangent(lower, i / (2 * order + 1)) for i in range(1, 2 * order + 1)]
    shifts = [(lower * t) ** 2 for t in tangents]
    poles, zeros = shifts[::2], shifts[1::2]
    residues = []
    for j, pole in enumerate(poles):
        # Factor by factor: the products alone would underflow.
        residue = zeros[j] - pole
        for k, other in enumerate(poles):
            if k != j:
                residue *= (zeros[k] - pole) / (other - pole)
        residues.append(residue)
    rough = Rational(1.0, tuple(poles), tuple(residues), 0.0)
    values = rough(torch.logspace(math.log10(lower), 0, 20_001, dtype=torch.float64, device="cpu"))
    low, high = float(values.min()), float(values.max())
    return rough._replace(scale=2 / (high + low), error=(high - low) / (high + low))


def _amplitude_tangent(complement: float, fraction: float) -> float:
    """sn/cn of Jacobi at fraction·K, for the modulus √(1 − complement²).

    By the arithmetic-geometric mean and descending Landen transformations; NIST DLMF 22.20(ii).
    """
    a, b = 1.0, complement
    ratios: list[float] = []
    while a - b > 1e-15 * a:
        a, b, c = (a + b) / 2, math.sqrt(a * b), (a - b) / 2
        ratios.append(c / a)
    # K = π/(2a), so the last amplitude 2ⁿ·a·u is this.
    phi = 2 ** len(ratios) * fraction * math.pi / 2
    for ratio in reversed(ratios):
        phi = (phi + math.asin(ratio * math.sin(phi))) / 2
    return math.tan(phi)


@lru_cache(maxsize=256)
def best_odd_polynomial(lower: float, degree: int) -> tuple[tuple[float, ...], float]:
    """The odd polynomial nearest to 1 on [lower, 1] in the maximum norm, by Remez exchange.

    On wide intervals a composition of shorter polynomials takes fewer products.

    Args:
        lower: left end of the interval, in [1e-4, 1).
        degree: an odd number up to 13.

    Returns:
        The coefficients of x, x³, …, and the error.

    Raises:
        ValueError: another interval or degree.

    Examples:
        >>> coefficients, error = best_odd_polynomial(0.3, 5)
        >>> same, _ = best_quintic(0.3, 1.0)
        >>> max(abs(a - b) for a, b in zip(coefficients, same)) < 1e-6
        True

    Sources:
        Trefethen, Approximation Theory and Approximation Practice (SIAM, 2019), chapter 10.
    """
    if not 1e-4 <= lower < 1:
        raise invalid("lower", lower, "give a singular value in [1e-4, 1)")
    if degree not in range(1, 14, 2):
        raise invalid("degree", degree, "give an odd number from 1 to 13")
    terms = (degree + 1) // 2
    # On the host, whatever the default device is.
    host = torch.zeros((), dtype=torch.float64, device="cpu")
    dense = torch.linspace(lower, 1, 20_001, dtype=torch.float64, device="cpu")
    fine = torch.logspace(math.log10(lower), 0, 2_001, dtype=torch.float64, device="cpu")
    grid = torch.cat([dense, fine]).clamp(lower, 1).unique()
    powers = torch.stack([grid ** (2 * k + 1) for k in range(terms)], dim=1)
    # Chebyshev's extremes, moved to the interval, are the first guess of where the error is.
    angles = torch.linspace(0, math.pi, terms + 1, dtype=torch.float64, device="cpu")
    places = torch.searchsorted(grid, lower + (1 - lower) * (1 - angles.cos()) / 2)
    places = places.clamp(max=len(grid) - 1)
    signs = host.new_tensor([[(-1.0) ** i] for i in range(terms + 1)])
    for _ in range(50):
        system = torch.cat([powers[places], signs], dim=1)
        *coefficients, level = torch.linalg.solve(system, torch.ones_like(signs[:, 0])).tolist()
        error = 1 - powers @ host.new_tensor(coefficients)
        largest = float(error.abs().max())
        if largest <= (1 + 1e-6) * abs(level):
            break
        # The extreme of each stretch of one sign; there are as many as points.
        changes = (error[1:].sign() != error[:-1].sign()).nonzero()[:, 0] + 1
        stretches = torch.tensor_split(error.abs(), changes.tolist())
        starts = [0, *changes.tolist()]
        tops = [start + int(s.argmax()) for start, s in zip(starts, stretches, strict=True)]
        places = torch.tensor(tops, device="cpu")
    return tuple(coefficients), largest
