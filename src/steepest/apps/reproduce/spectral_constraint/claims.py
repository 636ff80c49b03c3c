"""The claims of `spectral-constraint`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from steepest._common.files import Record
from steepest.apps.reproduce.framework.claims import (
    Check,
    Claim,
    Need,
    Outcome,
    UndecidedError,
    scale,
)
from steepest.apps.reproduce.framework.rows import distinct, of
from steepest.apps.reproduce.spectral_constraint.tables import (
    APPROACH,
    SMALL,
    TOY,
)
from steepest.apps.reproduce.spectral_constraint.toy import DECAY, FAR, OPTIMA, RADIUS, rate

LION = "Chen et al., arXiv 2310.05898"
MUON = "Chen, Li & Liu, arXiv 2506.15054"
SECONDARY = f"secondary: a review of {MUON}"

NORM = 1e-6
SCORE = 1e-8
STEPS = 3.0
# The steps are 0.02/√(1 + t/50): from t = 400 on their own exponent is within 0.06 of −½.
SLOPE, ABOUT = -0.5, 0.05
RISE = 1e-12
RISES = 100
DISTANCE = 1e-9
# Of the networks, whose matrices are float32, and whose last learning rates are near 0.
SINGLE = 1e-5
INSIDE = 1e-2
# A matrix of the networks starts at most this many radii from the origin.
WIDEST = 5.0


def _path(results: Sequence[Record]) -> float:
    """Ση_t of the quadratic."""
    return sum(rate(t) for t in range(int(scale(results)["toy_steps"])))


def _decayed_by(start: float, end: float) -> Need:
    """The need of a distance to the ball that falls from one size to another."""
    return Need(
        what="Σηλ of the quadratic",
        least=math.log(start / end),
        has=lambda results: DECAY * _path(results),
        why=f"of a distance exp(−Σηλ) is left, which has to be below {end:g}",
    )


def _far(results: Sequence[Record]) -> float:
    """The amount that implicit decay, the slower one, takes off the logarithm of a distance."""
    found = scale(results)
    return float(found["far_steps"] * math.log1p(found["far_lr"] * DECAY))


def _faded(results: Sequence[Record]) -> float:
    """Σηλ of a run whose rate falls to 0 from the smallest of the first ones."""
    found = scale(results)
    return float(min(found["rates"]) * found["steps"] / 2)


SETTLED = Need(
    what="Ση over ‖X*‖₂",
    least=5,
    has=lambda results: _path(results) / (OPTIMA["inside"][1] * RADIUS),
    why="momentum overshoots an optimum at first",
)
LONG = Need.setting("toy_steps", 4000, "before t = 400 the steps fall slower than t^(−½)")
FLOW = Need(
    what="time of the flow",
    least=5,
    has=lambda results: scale(results)["small_steps"] * scale(results)["small_lr"],
    why="the loss rises from 3.4 to 4 on",
)
OUTER = Need(
    what="steps · log(1 + ηλ)",
    least=math.log((FAR - 1) / NORM),
    has=_far,
    why=f"before, decay cannot have brought a matrix {FAR - 1:g} radii nearer, up to {NORM:g}",
)
FADED = Need(
    what="Σηλ of every run",
    least=math.log((WIDEST - 1) / INSIDE),
    has=_faded,
    why=f"before, decay cannot have brought a matrix from {WIDEST:g} radii to {1 + INSIDE:g}",
)


def _ends(results: Sequence[Record], case: str) -> list[Record]:
    return [r["rows"][-1] for r in of(results, TOY, case=case)]


def _norm(results: Sequence[Record]) -> Outcome:
    cases = ("outside", "partly outside")
    off = [abs(r["norm"] - RADIUS) for case in cases for r in _ends(results, case)]
    return Outcome.of(max(off) <= NORM, f"off by at most {max(off):.1e}")


def _score(case: str) -> Check:
    def check(results: Sequence[Record]) -> Outcome:
        found = [abs(r["relative"]) for r in _ends(results, case)]
        return Outcome.of(max(found) < SCORE, f"at most {max(found):.1e}")

    return check


def _reached(results: Sequence[Record]) -> Outcome:
    found = [r["gap"] for r in _ends(results, "inside")]
    return Outcome.of(max(found) <= STEPS, f"{min(found):.2f} to {max(found):.2f} last steps")


def slope(rows: Sequence[Record]) -> float:
    """The slope of log min S against log T, by least squares over the last decade of T.

    Examples:
        >>> round(slope([{"t": t, "best": 3 / t} for t in range(1, 1001)]), 6)
        -1.0
    """
    last = rows[-1]["t"]
    points = [(r["t"], r["best"]) for r in rows if 10 * r["t"] >= last and r["best"] > 0]
    if len(points) < 2:
        raise UndecidedError("needs two points with a positive score in the last decade")
    t, s = np.log(np.array(points)).T
    return float(np.polyfit(t, s, 1)[0])


def _falls(results: Sequence[Record]) -> Outcome:
    texts, slopes = [], []
    for case in distinct(of(results, TOY), "case"):
        mine = [slope(r["rows"]) for r in of(results, TOY, case=case)]
        slopes += mine
        texts.append(f"{case} T^{max(mine):.3f}")
    return Outcome.of(max(slopes) <= SLOPE + ABOUT, "; ".join(texts))


def _never_rises(results: Sequence[Record]) -> Outcome:
    rise = max(r["rise"] for r in of(results, SMALL))
    return Outcome.of(rise <= RISE, f"at most {rise:.1e} of its range")


def _loss_rises(results: Sequence[Record]) -> Outcome:
    counts = [r["loss_rises"] for r in of(results, SMALL)]
    return Outcome.of(min(counts) >= RISES, f"{min(counts)} to {max(counts)} times")


def _contracts(decay: str) -> Check:
    def check(results: Sequence[Record]) -> Outcome:
        found = [r["excess"] for r in of(results, APPROACH, decay=decay)]
        text = f"at most {max(*found, 0.0):.1e} of the radius above it"
        return Outcome.of(max(found) <= DISTANCE, text)

    return check


def _arrives(results: Sequence[Record]) -> Outcome:
    rows = [r for d in ("explicit", "implicit") for r in of(results, APPROACH, decay=d)]
    far = {
        name: max(r["rows"][-1]["distance"] for r in rows if r["map"] == name)
        for name in distinct(rows, "map")
    }
    text = f"at most {max(far.values()):.1e} outside ({max(far, key=lambda k: far[k])})"
    return Outcome.of(max(far.values()) <= NORM, text)


def _cautious(results: Sequence[Record]) -> Outcome:
    ends = [r["rows"][-1]["distance"] for r in of(results, APPROACH, decay="cautious")]
    start = of(results, APPROACH, decay="cautious")[0]["rows"][0]["distance"]
    text = f"{min(ends):.1f} to {max(ends):.1f} radii outside, from {start:.1f}"
    return Outcome.of(min(ends) > NORM, text)


def each_of(
    name: str,
    statement: str,
    source: str,
    expected: str,
    checks: Sequence[tuple[str, Check]],
    *needs: Need,
) -> tuple[Claim, ...]:
    """One claim for each of several names: `{}` in the statement stands for them."""
    return tuple(
        Claim(
            id=f"{name}-{each}",
            statement=statement.format(each),
            source=source,
            expected=expected,
            check=check,
            needs=needs,
        )
        for each, check in checks
    )


QUADRATIC = (
    Claim(
        id="norm",
        statement="Muon with weight decay λ ends on the sphere ‖X‖₂ = 1/λ if the optimum of the "
        "quadratic is outside, also where it is so in some directions only.",
        source=MUON,
        expected=f"off by at most {NORM:g}",
        check=_norm,
        needs=(_decayed_by(RADIUS, NORM),),
    ),
    Claim(
        id="kkt",
        statement="If it is outside in every direction, X ends as a KKT point of the constrained "
        "problem: the score over ‖∇F‖_*.",
        source=SECONDARY,
        expected=f"below {SCORE:g}",
        check=_score("outside"),
        needs=(_decayed_by(1, SCORE),),
    ),
    Claim(
        id="kkt-partly",
        statement="So it does if the optimum is outside in some directions only.",
        source=SECONDARY,
        expected=f"below {SCORE:g}",
        check=_score("partly outside"),
        needs=(_decayed_by(1, SCORE),),
    ),
    Claim(
        id="inside",
        statement="An optimum inside is reached as if there were no decay, up to the last steps: "
        "‖X − X*‖₂/η.",
        source=LION,
        expected=f"at most {STEPS:g}",
        check=_reached,
        needs=(SETTLED,),
    ),
    Claim(
        id="rate",
        statement="The smallest KKT score up to step T falls like T^(−1/2) or faster, over the "
        "last decade of T.",
        source=SECONDARY,
        expected=f"exponent at most {SLOPE:g}, to {ABOUT:g}",
        check=_falls,
        needs=(LONG,),
    ),
    Claim(
        id="lyapunov",
        statement="Along small steps with K = Σ√(σ² + δ²) the Lyapunov function never rises.",
        source=LION,
        expected=f"at most {RISE:g} of its range",
        check=_never_rises,
        needs=(FLOW,),
    ),
    Claim(
        id="loss-rises",
        statement="The loss itself rises along the same steps, hundreds of times.",
        source=f"{LION}: the loss is not a Lyapunov function",
        expected=f"at least {RISES} times",
        check=_loss_rises,
        needs=(FLOW,),
    ),
)

OUTSIDE = (
    *each_of(
        "contracts",
        "With {} decay every step of every map leaves at most "
        "1 − ηλ, or 1/(1 + ηλ) if it is implicit, of the distance to the ball.",
        f"{LION}; triangle inequality",
        f"no more than {DISTANCE:g} above it",
        [(decay, _contracts(decay)) for decay in ("explicit", "implicit")],
    ),
    Claim(
        id="arrives",
        statement="From outside, all of them end in the ball though the optimum is far outside it: "
        "the distance over the radius.",
        source=LION,
        expected=f"at most {NORM:g}",
        check=_arrives,
        needs=(OUTER,),
    ),
    Claim(
        id="cautious",
        statement="With cautious decay none of them does.",
        source="arXiv 2510.12402: where decay and step disagree there is no decay",
        expected="outside",
        check=_cautious,
        needs=(OUTER,),
    ),
)
