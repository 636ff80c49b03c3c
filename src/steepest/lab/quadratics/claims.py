"""The claims of `quadratics`, by the part that they are read off."""

from __future__ import annotations

from steepest.lab.claims import Claim
from steepest.lab.quadratics.checks import (
    ABOUT,
    AGAIN,
    ASIDE,
    BY,
    FACTOR,
    GAP,
    GREEDY_GAPS,
    MEDIANS,
    NEAR,
    PAPER,
    SLOPE,
    SPREAD,
    SWEET,
    TOLERANCE,
    TWO_DECADES,
    WINS,
    Check,
    ahead,
    alike,
    always_polar,
    arrives,
    behind,
    below,
    both_ends,
    floor,
    gd_gap,
    greedy_gaps,
    leaves,
    logarithm,
    lower,
    medians,
    only_near,
    slope,
    spreads,
    stays,
    sweet,
)
from steepest.lab.quadratics.grid import LEFT


def _claim(name: str, statement: str, expected: str, check: Check, source: str = PAPER) -> Claim:
    return Claim(id=name, statement=statement, source=source, expected=expected, check=check)


BAND = ", ".join(f"{t}: {gap:g}" for t, gap in GREEDY_GAPS.items())
KEEPS = f"at most {LEFT:g}"

HITS = (
    _claim(
        "hitting-medians",
        "The median hitting times of noisy sign descent are those of figure 4 from σ = 0.0104 on, "
        "up to the 95 % interval of a median.",
        f"within {TOLERANCE:.0%}: {', '.join(f'{s:g}: {m}' for s, m in MEDIANS.items())}",
        medians,
        AGAIN,
    ),
    _claim(
        "sweet-spot",
        f"Noise of σ from {SWEET[0]} to {SWEET[1]} makes it fastest.",
        f"{NEAR} ± {ASIDE} steps",
        sweet,
        AGAIN,
    ),
    _claim(
        "both-ends",
        "Hitting times are long for small noise and for large noise.",
        "both ends at least ten times the best",
        both_ends,
        f"{PAPER}, proposition E.2",
    ),
    _claim(
        "noise-arrives",
        "With noise every start arrives.",
        "all",
        arrives,
        f"{PAPER}, proposition E.1",
    ),
    _claim(
        "no-noise",
        "Without noise a start arrives if and only if it is within ε of αZ.",
        "no exception",
        only_near,
        f"{PAPER}, proposition E.1",
    ),
)
GREEDY_CLAIMS = (
    _claim(
        "greedy-gaps", "One greedy run's gaps, as in figure 5, are among those of the instances.",
        f"up to ×{SPREAD}: {BAND}", greedy_gaps, AGAIN,
    ),
    _claim(
        "gd-gap", f"The gap of gradient descent is below {GAP:g} by step {BY}, in every instance.",
        f"step {BY} or earlier", gd_gap, AGAIN,
    ),
    _claim(
        "greedy-behind", "The greedy choice ends far behind gradient descent.",
        "a gap over 1000 times as large", behind,
    ),
)  # fmt: skip
POLAR_CLAIMS = (
    _claim(
        "always-polar",
        "At every step of the greedy path the polar factor decreases the loss more than the "
        "gradient does.",
        "every step",
        always_polar,
    ),
)
GRID_CLAIMS = (
    _claim(
        "grid",
        "With exact polar factors every signed singular value stays on σ(0) + αZ.",
        KEEPS,
        stays("exact"),
    ),
    _claim(
        "floor",
        "The loss stays above ½Σ dist(σ(0), αZ)²: the smallest loss over this floor.",
        "at least 1",
        floor,
    ),
    _claim(
        "momentum",
        "Momentum keeps the grid.",
        KEEPS,
        stays("exact, momentum"),
        "in exact arithmetic the average has the singular vectors of W₀",
    ),
    _claim(
        "momentum-diagonal",
        "Momentum keeps the grid if W₀ is diagonal, so that rounding turns no singular vector.",
        KEEPS,
        stays("momentum, diagonal"),
        "in exact arithmetic the average has the singular vectors of W₀",
    ),
    _claim("noise-leaves", "Noise leaves the grid.", f"more than {LEFT:g}", leaves("noisy")),
    _claim(
        "newton-schulz-leaves",
        "Newton–Schulz leaves the grid.",
        f"more than {LEFT:g}",
        leaves("Newton–Schulz"),
    ),
    _claim(
        "nuclear-escapes",
        "Steps of the length ‖G‖_*/L end below the floor: the smallest loss over it.",
        "below 1",
        below("nuclear-norm step"),
        "Lau, Long & Su, arXiv 2505.21799",
    ),
    _claim(
        "vanishing-escapes",
        "So does a learning rate that falls to a thousandth.",
        "below 1",
        below("vanishing lr"),
    ),
)
REACH_CLAIMS = (
    _claim(
        "slope",
        "Steps of Muon to ε of the first loss grow like ε^(−1/2), at the best rate for each ε.",
        f"exponent {SLOPE} ± {ABOUT}",
        slope,
    ),
    _claim(
        "logarithm",
        "Those of gradient descent grow like log 1/ε: their ratio over that of the logarithms.",
        f"1 ± {TOLERANCE}",
        logarithm,
    ),
)
DECADES_CLAIMS = (
    _claim(
        "muon-alike",
        "Final over initial loss of Muon is alike on all dense families.",
        f"at most ×{FACTOR:g} between them",
        alike,
        AGAIN,
    ),
    _claim(
        "gd-spreads",
        "That of gradient descent spreads over two decades and more.",
        f"at least {TWO_DECADES:g} decades",
        spreads,
        AGAIN,
    ),
)
WIN_CLAIMS = tuple(
    _claim(
        f"wins-{family}",
        f"On {family}, the instances in which Muon is ahead of GD at T/10, T/2 and T.",
        " / ".join("most" if each else "fewer than half" for each in direction),
        ahead(family),
    )
    for family, direction in WINS.items()
)
ERROR_CLAIMS = tuple(
    _claim(
        f"lower-{name.replace(' ', '-').lower()}",
        f"{text} lowers the smallest loss of Muon on every problem, at its best size: "
        "over that of exact polar factors.",
        "below 1",
        lower(name),
        "what figure 4 suggests for matrices",
    )
    for name, text in (
        ("additive", "Additive noise"),
        ("per singular value", "Noise on each singular value"),
        ("Jordan", "The error of Jordan's schedule"),
        ("You", "That of You's"),
        ("Polar Express", "That of Polar Express"),
        ("CANS", "That of CANS"),
        ("vanishing lr", "A vanishing learning rate"),
        ("nuclear-norm step", "A step of the length ‖G‖_*/L"),
    )
)
