"""How the claims on spectra and on errors of polar factors are measured on the results."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import numpy as np

from steepest._common.files import Record
from steepest.apps.reproduce.framework.claims import Check, Outcome, UndecidedError, scale
from steepest.apps.reproduce.framework.margins import median_interval, side
from steepest.apps.reproduce.framework.rows import distinct, of
from steepest.apps.reproduce.quadratics.errors import ALPHA
from steepest.apps.reproduce.quadratics.families import DENSE, HIGHEST, LOWEST, NINE
from steepest.apps.reproduce.quadratics.sweep import marks
from steepest.apps.reproduce.quadratics.tables import ERRORS, SWEEP, Losses, Runs, decades, runs

FACTOR, TWO_DECADES = 2.0, 2.0
# Whether Muon wins against GD at T/10, T/2 and T.
WINS: dict[str, tuple[int, int, int]] = {
    "max_spiked": (0, 0, 0),
    "min_spiked": (1, 1, 1),
    "uniform": (0, 0, 0),
    "gaussian": (0, 0, 0),
    "linear_decay_to_max": (0, 0, 0),
    "u_shaped": (0, 0, 1),
    "geometric_decay": (1, 1, 1),
}
# Orders of magnitude at which the bars of figure 2 are cut off, and the steps of its runs.
ZERO, BUDGET = 8.0, 500
RATE = 1 / HIGHEST
"""The rate with which GD is through with the largest curvature in one step."""


def path(mark: int) -> Callable[[Sequence[Record]], float]:
    """Measure how far Muon's largest rate goes until T/10, T/2 or T (0, 1, 2), over ‖W₀ − W*‖₂."""

    def has(results: Sequence[Record]) -> float:
        cells = of(results, SWEEP, method="Muon", schedule="constant", momentum=0.0)
        if not cells:
            raise UndecidedError("needs Muon on some family, and none was measured")
        steps = marks(int(scale(results)["steps"]))[mark]
        largest = max(float(r["lr"]) for r in cells)
        return steps * largest / max(float(r["distance"]) for r in cells)

    return has


def error_path(part: float) -> Callable[[Sequence[Record]], float]:
    """Measure how far this part of α goes on average, over ‖W₀ − W*‖₂, on every problem."""

    def has(results: Sequence[Record]) -> float:
        steps = int(scale(results)["error_steps"])
        return part * ALPHA * steps / max(float(r["distance"]) for r in of(results, ERRORS))

    return has


def _whole(found: Collection[object], wanted: Sequence[str]) -> None:
    missing = [family for family in wanted if family not in found]
    if missing:
        raise UndecidedError(f"needs all families, and {', '.join(missing)} was not measured")


def _falls(results: Sequence[Record], method: str) -> dict[str, float]:
    """Orders of magnitude by which the loss falls on each dense family."""
    rows = decades("constant", 0.0)(results)
    found = {r["family"]: r["decades"] for r in rows if r["method"] == method}
    _whole(found, DENSE)
    return {family: found[family] for family in DENSE}


def alike(results: Sequence[Record]) -> Outcome:
    """Final over initial loss of Muon between dense families."""
    found = _falls(results, "Muon")
    factor = 10 ** (max(found.values()) - min(found.values()))
    text = ", ".join(f"{k} {10**-v:.2g}" for k, v in found.items())
    return Outcome.of(factor <= FACTOR, f"×{factor:.2f}: {text}")


def spreads(results: Sequence[Record]) -> Outcome:
    """The same of gradient descent."""
    found = _falls(results, "GD")
    width = max(found.values()) - min(found.values())
    text = ", ".join(f"{k} {10**-v:.2g}" for k, v in found.items())
    return Outcome.of(width >= TWO_DECADES, f"{width:.2f} decades: {text}")


def zero(family: str) -> Check:
    """Hold the orders by which GD falls against those at which a bar is cut off.

    The two spiked families have two curvatures. At the rate 1/10 the large one is gone after one
    step, and the rest shrinks by (1 − lr·s_min)² per step: a short run tells what 500 steps reach.
    """

    def check(results: Sequence[Record]) -> Outcome:
        run = _runs(results, family, "GD")
        fall = np.log10(run.best[:, 0] / np.maximum(run.best[:, -1], np.finfo(float).tiny))
        left = max(BUDGET - run.t[-1], 0)
        more = -2 * left * math.log10(1 - RATE * LOWEST)
        text = f"{fall.mean():.2f} orders, {fall.min():.2f} to {fall.max():.2f}"
        if left:
            text += f", at most {more:.2f} more by T = {BUDGET}"
        if fall.min() < ZERO <= fall.max() + more:
            raise UndecidedError(f"needs T = {BUDGET}; {text}")
        return Outcome.of(bool(fall.min() >= ZERO), text)

    return check


def captions(results: Sequence[Record]) -> Outcome:
    """GD's loss, over the first, on the families that the two captions name."""
    falls = [
        np.log10(run.best[:, 0] / np.maximum(run.best[:, -1], np.finfo(float).tiny))
        for run in (_runs(results, family, "GD") for family in ("max_spiked", "min_spiked"))
    ]
    middle, low, high = median_interval(list(falls[0] - falls[1]))
    text = f"{middle:+.2f} orders more on max_spiked ({low:+.2f} to {high:+.2f})"
    where = side(low, high, 0.0)
    if where == 0:
        raise UndecidedError(f"needs more starts: the interval contains 0; {text}")
    return Outcome.of(where > 0, text)


def _runs(results: Sequence[Record], family: str, method: str) -> Runs:
    found = runs(of(results, SWEEP, family=family), "constant", 0.0).get((family, method))
    if found is None:
        raise UndecidedError(f"needs {method} on {family}, which was not measured")
    return found


def _lead(results: Sequence[Record], family: str) -> Losses:
    """Orders of magnitude by which Muon's smallest loss is below GD's, (instances, marks)."""
    tiny = np.finfo(float).tiny
    losses = (_runs(results, family, m).smallest for m in ("GD", "Muon"))
    gd, muon = (np.log10(np.clip(each, tiny, 1 / tiny)) for each in losses)
    lead: Losses = gd - muon
    return lead


def ahead(family: str) -> Check:
    """Whether Muon is ahead of gradient descent on a family at the three times.

    It is where it is so from most starts: where the 95 % interval of its median lead is above 0.
    """

    def check(results: Sequence[Record]) -> Outcome:
        lead = _lead(results, family)
        rates = " / ".join(f"{rate:.2f}" for rate in (lead > 0).mean(axis=0))
        text = f"{rates} of {len(lead)} starts"
        found = [side(*median_interval(list(each))[1:], 0.0) for each in lead.T]
        wanted = [1 if won else -1 for won in WINS[family]]
        if any(f == -w for f, w in zip(found, wanted, strict=True)):
            return Outcome.of(False, text)
        if 0 in found:
            when = ("T/10", "T/2", "T")[found.index(0)]
            raise UndecidedError(f"needs more starts: at {when} neither is ahead from most; {text}")
        return Outcome.of(True, text)

    return check


def _leads(results: Sequence[Record]) -> tuple[dict[str, tuple[float, float]], str]:
    """The interval of Muon's median lead at T on each of the nine families, and all as text."""
    _whole(distinct(of(results, SWEEP), "family"), NINE)
    found, text = {}, []
    for family in NINE:
        middle, low, high = median_interval(list(_lead(results, family)[:, -1]))
        found[family] = low, high
        text.append(f"{family} {middle:+.2f} ({low:+.2f} to {high:+.2f})")
    return found, ", ".join(text)


def shape_decides(results: Sequence[Record]) -> Outcome:
    """Whether Muon is ahead on one family and GD on another, all of one condition number."""
    found, text = _leads(results)
    sides = {side(low, high, 0.0) for low, high in found.values()}
    if not {-1, 1} <= sides and 0 in sides:
        raise UndecidedError(f"needs more starts: an interval contains 0; {text}")
    return Outcome.of({-1, 1} <= sides, text)


def shape_spreads(results: Sequence[Record]) -> Outcome:
    """Measure how far apart the leads on two families are, at least and at most."""
    found, text = _leads(results)
    least = max(low for low, _ in found.values()) - min(high for _, high in found.values())
    most = max(high for _, high in found.values()) - min(low for low, _ in found.values())
    text = f"{least:.2f} to {most:.2f} orders: {text}"
    if least < TWO_DECADES <= most:
        raise UndecidedError(f"needs more starts: {text}")
    return Outcome.of(least >= TWO_DECADES, text)


def crossed(sizes: dict[float, Losses]) -> tuple[Losses, tuple[float, float]]:
    """The value of every start at the size that is best for the starts of the other half.

    The smallest of several noisy medians is too small on average; chosen without a start, a size
    is fair to it.

    Args:
        sizes: the values of each size, small ones being good, in the order of the starts.

    Returns:
        The values, and the sizes that the even and the odd starts chose.

    Examples:
        >>> values, chosen = crossed({0.1: np.array([1.0, 5.0]), 0.3: np.array([2.0, 3.0])})
        >>> values.tolist(), chosen
        ([2.0, 5.0], (0.1, 0.3))
    """
    count = len(next(iter(sizes.values())))
    even, odd = np.arange(0, count, 2), np.arange(1, count, 2)
    if not len(odd):
        raise UndecidedError("needs two starts, one to choose a size and one to try it, has one")
    chosen = tuple(
        min(sizes, key=lambda size: float(np.median(sizes[size][half]))) for half in (even, odd)
    )
    found = np.empty(count)
    found[odd], found[even] = sizes[chosen[0]][odd], sizes[chosen[1]][even]
    return found, (chosen[0], chosen[1])


def _lowest(results: Sequence[Record], problem: str, profile: str) -> dict[float, Losses]:
    """The smallest loss from every start for each size of an error, the seeds in order."""
    found: dict[float, list[float]] = {}
    for r in of(results, ERRORS, family=problem, profile=profile):
        found.setdefault(float(r["sigma"]), []).extend(r["lowest"])
    return {size: np.array(each) for size, each in found.items()}


def lower(profile: str) -> Check:
    """The smallest loss with an error profile over that without one, start by start."""

    def check(results: Sequence[Record]) -> Outcome:
        text, sides = [], []
        for problem in map(str, distinct(of(results, ERRORS), "family")):
            exact = _lowest(results, problem, "exact")[0.0]
            tried = _lowest(results, problem, profile)
            ratios, sizes = crossed({size: each / exact for size, each in tried.items()})
            middle, low, high = median_interval(list(ratios))
            sides.append(side(low, high, 1.0))
            chosen = " and ".join(f"{size:g}" for size in dict.fromkeys(sizes) if size)
            size = f", size {chosen}" if chosen else ""
            text.append(f"{problem} ×{middle:.3g} ({low:.3g} to {high:.3g}{size})")
        if 1 not in sides and 0 in sides:
            raise UndecidedError(f"needs more starts: an interval contains 1; {', '.join(text)}")
        return Outcome.of(1 not in sides, ", ".join(text))

    return check
