"""The tables of `directional-sharpness`, and how strongly two of their columns agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import fmean, geometric_mean, median

import numpy as np
from numpy.typing import NDArray

from steepest._common.files import Record

WHOLE = ""
"""The name of all layers together."""

AGAINST = {"nuclear": "nr(G)", "effective": "effective rank of G", "ratio": "nr(G)/st(A)"}
"""The columns that the advantage of the spectral direction is held against."""

DRAWS = 1000
COVERAGE = 0.95


def trainings(results: Sequence[Record], network: str) -> list[Record]:
    """The results of one network."""
    return [r for r in results if r["network"] == network]


def points(results: Sequence[Record]) -> Iterator[Record]:
    """Each layer of each look, "" for all layers, with the rows of its directions by name."""
    for r in results:
        place = {k: r[k] for k in ("network", "optimizer", "seed")}
        ranks = {(k["step"], k["layer"]): k for k in r["ranks"]}
        groups: dict[tuple[int, str], dict[str, Record]] = {}
        for row in r["rows"]:
            groups.setdefault((row["step"], row["layer"]), {})[row["direction"]] = row
        for (step, layer), directions in groups.items():
            found = ranks.get((step, layer), {})
            yield {
                **place,
                "step": step,
                "layer": layer,
                **{k: found.get(k) for k in ("nuclear", "effective", "input")},
                "directions": directions,
            }


def flat(row: Record) -> float:
    """dᵀHd/‖d‖²: the sharpness of a direction of length 1."""
    return float(row["sharpness"] / row["norm"] ** 2)


def equal(row: Record) -> float:
    """dᵀHd/⟨g, d⟩²: the sharpness of a direction whose correlation is 1."""
    return float(row["sharpness"] / row["correlation"] ** 2)


def gain(point: Record, direction: str, over: str = "gradient") -> float | None:
    """The best decrease of a direction over that of another; None where one of them has none."""
    mine, other = (point["directions"][name]["decrease"] for name in (direction, over))
    return mine / other if mine and other else None


def advantages(results: Sequence[Record]) -> list[Record]:
    """Ranks of each layer and look, and the lead of the polar direction over the gradient."""
    return [
        {
            **{k: v for k, v in p.items() if k != "directions"},
            "ratio": p["nuclear"] / p["input"],
            "advantage": gain(p, "muon"),
        }
        for p in points(results)
        if p["layer"] != WHOLE
    ]


def _means(
    results: Sequence[Record], numbers: Mapping[str, Callable[[Record], float | None]]
) -> list[Record]:
    """All layers together: of each direction and look these numbers, the mean of the seeds.

    The mean of positive numbers is geometric. It is None where a seed has None.
    """
    groups: dict[tuple[object, ...], list[Record]] = {}
    for p in points(results):
        if p["layer"] == WHOLE:
            for name, row in p["directions"].items():
                key = (p["network"], p["optimizer"], name, p["step"])
                groups.setdefault(key, []).append(row)
    rows = []
    for (network, optimizer, direction, step), group in groups.items():
        place = {"network": network, "optimizer": optimizer, "direction": direction, "step": step}
        rows.append({**place, **{k: _mean([f(r) for r in group]) for k, f in numbers.items()}})
    return rows


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    if len(known) < len(values):
        return None
    return geometric_mean(known) if min(known) > 0 else fmean(known)


def decreases(results: Sequence[Record]) -> list[Record]:
    """The best decrease of each direction through training."""
    return _means(results, {"decrease": lambda row: row["decrease"]})


def sharpnesses(results: Sequence[Record]) -> list[Record]:
    """Correlation and sharpness of each direction through training.

    `slope` and `curvature` are those of a direction of length 1, `equal` is the sharpness of one
    whose correlation is 1.
    """
    numbers = {
        "slope": lambda row: -row["correlation"] / row["norm"],
        "curvature": flat,
        "equal": equal,
    }
    return _means(results, numbers)


def layers(results: Sequence[Record]) -> list[Record]:
    """Medians over runs and looks after the start, a row for each kind of layer."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for row in known(later(advantages(results))):
        kind = ".".join(part for part in row["layer"].split(".")[-2:] if not part.isdigit())
        groups.setdefault((row["network"], kind), []).append(row)
    return [
        {
            "network": network,
            "layer": kind,
            **{k: median(r[k] for r in group) for k in ("nuclear", "effective", "input")},
            **{k: median(r[k] for r in group) for k in ("ratio", "advantage")},
            "ahead": fmean(r["advantage"] > 1 for r in group),
        }
        for (network, kind), group in groups.items()
    ]


def later(rows: Iterable[Record]) -> list[Record]:
    """Leave out the start, which all optimizers of a seed share and which would count for each."""
    return [r for r in rows if r["step"] > 0]


def known(rows: Sequence[Record]) -> list[Record]:
    """The rows of `advantages` that have one."""
    return [r for r in rows if r["advantage"] is not None]


def ranks(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The places of numbers in rising order; equal ones share the mean of theirs.

    Examples:
        >>> ranks(np.array([3.0, 1.0, 3.0])).tolist()
        [2.5, 1.0, 2.5]
    """
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse], dtype=np.float64)


def spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Spearman's rank correlation; NaN where one of them is constant, or empty.

    Examples:
        >>> round(spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 9.0])), 12)
        1.0
    """
    a, b = ranks(x), ranks(y)
    if not len(a) or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def correlation(
    rows: Sequence[Record], against: str, *, within: bool = False
) -> tuple[float, float, float]:
    """Spearman's correlation of the advantage with another column, and a 95 % interval.

    Looks at one run, or at one layer, are not independent of each other. So runs and
    layers are drawn whole: each draw of the bootstrap takes as many runs as there are with
    replacement, independently as many layers, and a point counts as often as its training was
    drawn times as often as its layer was.

    Args:
        rows: rows of `advantages` for one network.
        against: the other column.
        within: whether to take from both logarithms their mean over all steps of a layer in a
            training first: what is left is how they change through training.

    Returns:
        The correlation and the ends of its interval; NaN where it has none.

    Sources:
        Owen, Ann. Appl. Stat. 1 (2007), "The pigeonhole bootstrap".
    """
    rows = known(later(rows))
    if not rows:
        return (math.nan,) * 3
    x, y = _logarithms(rows, against)
    training, trained = _numbered([(r["optimizer"], r["seed"]) for r in rows])
    layer, layered = _numbered([r["layer"] for r in rows])
    if within:
        cell = training * layered + layer
        x, y = (v - (_sums(cell, v) / _sums(cell, np.ones_like(v))) for v in (x, y))
    draw = np.random.default_rng(0)
    found = []
    for _ in range(DRAWS):
        times = _drawn(draw, trained)[training] * _drawn(draw, layered)[layer]
        found.append(spearman(np.repeat(x, times), np.repeat(y, times)))
    kept = [v for v in found if not math.isnan(v)] or [math.nan]
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(kept, [tail, 1 - tail])
    return spearman(x, y), float(low), float(high)


def exponent(rows: Sequence[Record], against: str) -> float:
    """p in advantage ∝ columnᵖ, by least squares through the logarithms; NaN for a constant."""
    rows = known(later(rows))
    x, y = _logarithms(rows, against)
    return float(np.polyfit(x, y, 1)[0]) if rows and np.ptp(x) > 0 else math.nan


def _logarithms(rows: Sequence[Record], against: str) -> tuple[NDArray[np.float64], ...]:
    """Those of a column and of the advantage."""
    return tuple(
        np.log(np.array([r[k] for r in rows], dtype=float)) for k in (against, "advantage")
    )


def _numbered(names: Sequence[object]) -> tuple[NDArray[np.int64], int]:
    """A number for each name, equal ones for equal names, and how many there are."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], dtype=np.int64), len(numbers)


def _sums(groups: NDArray[np.int64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum of each number over its group."""
    return np.asarray(np.bincount(groups, weights=v)[groups], dtype=np.float64)


def _drawn(draw: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Draw as many as there are, with replacement, and count how often each is drawn."""
    return np.bincount(draw.integers(count, size=count), minlength=count)


def correlations(results: Sequence[Record]) -> list[Record]:
    """The correlations of the advantage in each network, over all points and within layers."""
    rows = advantages(results)
    found = []
    for network in dict.fromkeys(r["network"] for r in rows):
        mine = [r for r in rows if r["network"] == network]
        for against in AGAINST:
            numbers = {
                **dict(zip(("spearman", "low", "high"), correlation(mine, against), strict=True)),
                **dict(
                    zip(
                        ("within", "within_low", "within_high"),
                        correlation(mine, against, within=True),
                        strict=True,
                    )
                ),
                "exponent": exponent(mine, against),
            }
            plain = {k: None if math.isnan(v) else v for k, v in numbers.items()}
            found.append({"network": network, "against": AGAINST[against], **plain})
    return found
