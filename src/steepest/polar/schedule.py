"""Schedules: the odd polynomials that a Newton–Schulz iteration applies to the singular values."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from steepest._common.errors import invalid
from steepest._common.text import fingerprint

Quintic = tuple[float, float, float]
"""(a, b, c) of p(x) = a·x + b·x³ + c·x⁵."""

OddPolynomial = tuple[float, ...]
"""Coefficients of x, x³, x⁵ and so on; three of them make a quintic."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Schedule:
    """A composition p_T ∘ … ∘ p_1 of odd polynomials that drives singular values towards 1.

    Step t maps x to a·y + b·y³ + c·y⁵ + … with y = x / prescale_t; nearly all published schedules
    consist of quintics. The coefficients belong to a normalisation: they are made for singular
    values in `interval` = [lower, upper], and above `upper` the iteration may diverge.

    Args:
        name: the name of the schedule.
        coefficients: (a, b, c) of each step, or more of them, the first step first.
        interval: (lower, upper): the smallest singular value that is brought to the stated band,
            and the largest that is safe.
        source: the origin of the coefficients.
        prescale: divisor of the input of each step; empty means 1 throughout. A divisor slightly
            above 1 gives room for a largest singular value that rounding has left above 1.

    Raises:
        ValueError: no steps, an empty interval, or a prescale of another length.

    Examples:
        >>> JORDAN.steps, JORDAN.interval
        (5, (0.001, 1.2))
        >>> low, high = JORDAN.band(1e-2, 1.0)
        >>> round(low, 3), round(high, 3)
        (0.682, 1.134)
    """

    name: str
    coefficients: tuple[OddPolynomial, ...]
    interval: tuple[float, float]
    source: str
    prescale: tuple[float, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.coefficients or any(len(c) < 3 for c in self.coefficients):
            raise invalid(
                "coefficients", self.coefficients, "give at least one step of three numbers or more"
            )
        lower, upper = self.interval
        if not 0 < lower < upper:
            raise invalid("interval", self.interval, "give 0 < lower < upper")
        if self.prescale and len(self.prescale) != self.steps:
            raise invalid("prescale", self.prescale, f"give {self.steps} divisors, one per step")

    def __repr__(self) -> str:
        """The name of a constant of `steepest.polar`; of others what tells them apart, and a hash.

        Examples:
            >>> JORDAN, polar_express(8)
            (polar.JORDAN, Schedule('polar_express_8', 8 steps, interval [0.001, 1.01], #fbce587a))
        """
        if self in NAMED:
            return f"polar.{NAMED[self]}"
        lower, upper = self.interval
        told = fingerprint((self.name, self.coefficients, self.interval, self.prescale))
        interval = f"interval [{lower:.4g}, {upper:.4g}]"
        return f"Schedule({self.name!r}, {self.steps} steps, {interval}, #{told})"

    @property
    def steps(self) -> int:
        """Number of polynomials."""
        return len(self.coefficients)

    @property
    def folded(self) -> tuple[OddPolynomial, ...]:
        """The coefficients with the prescale folded in: step t is p_t(x) without a division."""
        divisors = self.prescale or (1.0,) * self.steps
        return tuple(
            tuple(c / s ** (2 * k + 1) for k, c in enumerate(step))
            for step, s in zip(self.coefficients, divisors, strict=True)
        )

    def __call__(self, sigma: Tensor) -> Tensor:
        """The singular value that the whole composition makes of each `sigma`."""
        for step in self.folded:
            sigma = sigma * of_square(step, sigma * sigma)
        return sigma

    def band(self, lower: float, upper: float) -> tuple[float, float]:
        """(smallest, largest) output for inputs in [lower, upper], on a grid of 20 001 points."""
        return _band(self, lower, upper)

    @property
    def error(self) -> float:
        """max |1 − p(σ)| over σ in [interval lower, 1]."""
        low, high = self.band(self.interval[0], 1.0)
        return max(1.0 - low, high - 1.0)


def of_square(step: OddPolynomial, square: Tensor) -> Tensor:
    """p(x)/x as a polynomial of x², by Horner's rule."""
    out = torch.full_like(square, step[-1])
    for c in step[-2::-1]:
        out = c + square * out
    return out


@lru_cache(maxsize=512)
def _band(schedule: Schedule, lower: float, upper: float) -> tuple[float, float]:
    if not 0 < lower < upper:
        raise invalid("lower, upper", (lower, upper), "give 0 < lower < upper")
    ends = torch.tensor([lower, upper], dtype=torch.float64, device="cpu").log10()
    grid = torch.logspace(float(ends[0]), float(ends[1]), 20_001, dtype=torch.float64, device="cpu")
    # Equal spacing as well: next to `upper` a logarithmic grid is the coarser one.
    dense = torch.linspace(lower, upper, 20_001, dtype=torch.float64, device="cpu")
    out = schedule(torch.cat([grid, dense]))
    return float(out.min()), float(out.max())


# Keller Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024; torch.optim.Muon.
JORDAN_QUINTIC: Quintic = (3.4445, -4.7750, 2.0315)
"""The polynomial of `JORDAN`, 3.4445x − 4.775x³ + 2.0315x⁵, as `ns_coefficients` of `Muon`."""

JORDAN = Schedule(
    name="jordan",
    coefficients=(JORDAN_QUINTIC,) * 5,
    interval=(1e-3, 1.2),
    source="Keller Jordan, Muon (2024), https://kellerjordan.github.io/posts/muon/",
)
"""One quintic five times. 1 is not a fixed point: outputs end in [0.68, 1.20]."""

JORDAN_POLISHED = Schedule(
    name="jordan_polished",
    # Two steps of the cubic-convergent (2, −3/2, 1/2) pull Jordan's band together to 1.
    coefficients=(JORDAN_QUINTIC,) * 8 + ((2.0, -1.5, 0.5),) * 2,
    interval=(1e-3, 1.2),
    source="eight steps of Jordan's quintic, then two of 2x − 1.5x³ + 0.5x⁵",
)
"""Ten steps that reach 1 to 5e-4 and stay safe up to a singular value of 1.2."""

YOU = Schedule(
    name="you",
    # You Jiacheng, posted for modded-nanogpt, 2025.
    coefficients=(
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
    interval=(1e-2, 1.2),
    source="You Jiacheng, modded-nanogpt (2025)",
)
"""Five quintics, made for singular values above 1e-2."""

CANS = Schedule(
    name="cans",
    # Grishina, Smirnov, Rakhuba, "Accelerating Newton–Schulz iteration for orthogonalization via
    # Chebyshev-type polynomials", arXiv 2506.10935.
    coefficients=(
        (8.4703, -25.1081, 18.6293),
        (4.1828, -3.1087, 0.5806),
        (3.9619, -2.9541, 0.5630),
        (3.2866, -2.4647, 0.5074),
        (2.2737, -1.6447, 0.4162),
    ),
    interval=(1e-3, 1.0),
    source="CANS, arXiv 2506.10935",
)
"""Five Chebyshev-type quintics; diverges above 1, so the normalisation must not exceed it."""

CLASSIC = Schedule(
    name="classic",
    # The Padé-type quintic of Newton–Schulz: Higham, Functions of Matrices (2008), section 8.3.
    coefficients=((15 / 8, -10 / 8, 3 / 8),) * 5,
    # √(7/3) = 1.53 is an unstable fixed point: beyond it the iteration diverges.
    interval=(0.1, 1.5),
    source="Higham, Functions of Matrices (SIAM, 2008), section 8.3",
)
"""The classical quintic five times: monotone, safe, slow below 0.2."""

# Amsel, Persson, Musco, Gower, "The Polar Express", arXiv 2505.16932, Algorithm 1: lower end 1e-3,
# cushion 0.02407327424182761. Re-derived by `steepest.polar.design.polar_express_coefficients`.
POLAR_EXPRESS_COEFFICIENTS: tuple[Quintic, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)


def polar_express(steps: int = 5, *, safety: float = 1.01) -> Schedule:
    """The published Polar Express schedule, cut or prolonged to `steps`.

    Steps beyond the eighth repeat (1.875, −1.25, 0.375), as the paper does. Every polynomial but
    that one is evaluated at x / safety.

    Args:
        steps: number of polynomials, at least 1.
        safety: divisor of the input; with 1.01 a largest singular value of 1.01 is still mapped
            into the band, with 1 it diverges there.

    Returns:
        The schedule, made for singular values in [1e-3, safety].

    Raises:
        ValueError: fewer than one step, or a safety factor below 1.

    Examples:
        >>> polar_express(8).steps
        8

    Sources:
        Amsel, Persson, Musco, Gower, arXiv 2505.16932.
    """
    if steps < 1:
        raise invalid("steps", steps, "give at least one step")
    if safety < 1:
        raise invalid("safety", safety, "give a factor >= 1")
    table = POLAR_EXPRESS_COEFFICIENTS
    last = len(table) - 1
    return Schedule(
        name=f"polar_express_{steps}",
        coefficients=tuple(table[min(t, last)] for t in range(steps)),
        interval=(1e-3, safety),
        source="The Polar Express, arXiv 2505.16932, Algorithm 1",
        prescale=tuple(safety if t < last else 1.0 for t in range(steps)),
    )


POLAR_EXPRESS = polar_express()
"""Five steps of Polar Express with its safety factor 1.01."""

NAMED = {
    CANS: "CANS",
    CLASSIC: "CLASSIC",
    JORDAN: "JORDAN",
    JORDAN_POLISHED: "JORDAN_POLISHED",
    POLAR_EXPRESS: "POLAR_EXPRESS",
    YOU: "YOU",
}
"""The constants, which print as their name."""
