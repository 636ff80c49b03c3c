"""The tables of `quadratics`, made from the results of its cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from statistics import median

import numpy as np
from numpy.typing import NDArray

from steepest._common.files import Record
from steepest.apps.reproduce.framework.rows import of
from steepest.apps.reproduce.quadratics.methods import METHODS

SPECTRA, SWEEP, HITTING, STARTS = "spectra", "sweep", "hitting", "starts"
GREEDY, GRID, REACH, ERRORS = "greedy", "grid", "reach", "errors"
"""The experiments that a cell may belong to."""

Table = Callable[[Sequence[Record]], list[Record]]
Losses = NDArray[np.float64]
# Between these percentiles lie 95 % of the instances.
BAND = (2.5, 97.5)
PAIRS = (("Muon", "GD"), ("Muon", "Adam"), ("Muon NS5", "GD"), ("Muon", "Muon NS5"))


def array(rows: Sequence[Sequence[float | None]]) -> Losses:
    """Numbers as float64, infinite where they were not finite."""
    return np.array([[np.inf if v is None else v for v in row] for row in rows])


class Runs:
    """Losses of one family and method with every learning rate, all instances in order.

    Args:
        results: the results of their cells.
    """

    def __init__(self, results: Sequence[Record]) -> None:
        cells = sorted(results, key=lambda r: (r["lr"], r["seed"], r["first"]))
        self.t: list[int] = cells[0]["t"]
        self.loss: dict[float, Losses] = {}
        self.lowest: dict[float, Losses] = {}
        for lr, group in groupby(cells, key=lambda r: float(r["lr"])):
            parts = list(group)
            self.loss[lr] = array([each for r in parts for each in r["loss"]])
            self.lowest[lr] = array([each for r in parts for each in r["best"]])

    @property
    def lr(self) -> float:
        """The rate with the lowest mean loss at the end."""
        return min(self.loss, key=lambda lr: float(self.loss[lr][:, -1].mean()))

    @property
    def best(self) -> Losses:
        """Losses at that rate, shape (instances, steps kept)."""
        return self.loss[self.lr]

    @property
    def smallest(self) -> Losses:
        """The smallest loss up to each mark over all rates, shape (instances, marks)."""
        found: Losses = np.min(list(self.lowest.values()), axis=0)
        return found


def runs(results: Sequence[Record], schedule: str, momentum: float) -> dict[tuple[str, str], Runs]:
    """The runs by family and method; GD and Adam have no momentum of their own to choose.

    Families in which nothing was run with this momentum are left out.
    """
    cells: dict[tuple[str, str], list[Record]] = {}
    found = of(results, SWEEP, schedule=schedule)
    families = {r["family"] for r in found if r["momentum"] == momentum}
    for r in found:
        momenta = METHODS[r["method"]].momenta
        if r["family"] in families and r["momentum"] == (momentum if momentum in momenta else 0.0):
            cells.setdefault((r["family"], r["method"]), []).append(r)
    return {place: Runs(mine) for place, mine in cells.items()}


def decades(schedule: str, momentum: float) -> Table:
    """The orders of magnitude by which the loss falls at each method's best rate."""

    def table(results: Sequence[Record]) -> list[Record]:
        rows = []
        for (family, method), run in runs(results, schedule, momentum).items():
            ratio = run.best[:, 0] / np.maximum(run.best[:, -1], np.finfo(float).tiny)
            fall = np.log10(np.maximum(ratio, np.finfo(float).tiny))
            low, high = np.percentile(fall, BAND)
            rows.append(
                {
                    "family": family,
                    "method": method,
                    "lr": run.lr,
                    "decades": float(fall.mean()),
                    "low": float(low),
                    "high": float(high),
                    "instances": len(fall),
                }
            )
        return rows

    return table


def _band(losses: Losses, kind: str) -> tuple[Losses, Losses, Losses]:
    """(middle, low, high) over the instances."""
    if kind == "single":
        return losses[0], losses[0], losses[0]
    low, high = np.percentile(losses, BAND, axis=0)
    middle = np.median(losses, axis=0) if kind == "median" else losses.mean(axis=0)
    return middle, low, high


def curves(schedule: str, momentum: float, kind: str) -> Table:
    """Loss against the step at each method's best rate.

    Args:
        schedule: the schedule of the learning rate.
        momentum: the momentum of Muon.
        kind: "mean" or "median", each with the band that covers 95 % of the trajectories, or
            "single", the first instance alone.
    """

    def table(results: Sequence[Record]) -> list[Record]:
        rows = []
        for (family, method), run in runs(results, schedule, momentum).items():
            middle, low, high = _band(run.best, kind)
            for i, t in enumerate(run.t):
                numbers = {"loss": middle[i], "low": low[i], "high": high[i]}
                kept = {k: float(v) if np.isfinite(v) else None for k, v in numbers.items()}
                rows.append({"family": family, "method": method, "step": t, **kept})
        return rows

    return table


def wins(schedule: str) -> Table:
    """The part of the instances in which the first method's smallest loss so far is lower."""

    def table(results: Sequence[Record]) -> list[Record]:
        found = runs(results, schedule, 0.0)
        rows = []
        for family in dict.fromkeys(family for family, _ in found):
            for first, second in PAIRS:
                pair = [found.get((family, name)) for name in (first, second)]
                if pair[0] is None or pair[1] is None:
                    continue
                rate = (pair[0].smallest < pair[1].smallest).mean(axis=0)
                times = zip(("T/10", "T/2", "T"), rate, strict=True)
                rows.append(
                    {"family": family, "first": first, "second": second}
                    | {name: float(value) for name, value in times}
                )
        return rows

    return table


def spectra(results: Sequence[Record]) -> list[Record]:
    """The curvatures of the first instance of each family, from large to small."""
    return [
        {"family": r["family"], "index": i, "curvature": value}
        for r in of(results, SPECTRA)
        for i, value in enumerate(r["curvatures"])
    ]


def hitting(results: Sequence[Record]) -> list[Record]:
    """Median of the hitting time and the central 95 % of the runs, by the size of the noise."""
    names = ("sigma", "median", "from", "to", "low", "high", "capped")
    return [{k: r[k] for k in names} for r in of(results, HITTING)]


def per_start(results: Sequence[Record]) -> list[tuple[int, dict[str, Losses]]]:
    """The gaps and the gain of every start in each step of the greedy choice."""
    cells = of(results, GREEDY)
    return [
        (
            rows[0]["step"],
            {k: np.concatenate([r[k] for r in rows]) for k in ("GD", "greedy", "gain")},
        )
        for rows in zip(*(r["rows"] for r in cells), strict=True)
    ]


def _central(name: str, values: Losses) -> dict[str, float]:
    """The median of the starts, and what holds the central 95 % of them."""
    low, middle, high = np.percentile(values, (BAND[0], 50, BAND[1]))
    return {name: float(middle), f"{name} low": float(low), f"{name} high": float(high)}


def gaps(results: Sequence[Record]) -> list[Record]:
    """Gaps of GD and of the greedy choice: medians and the central 95 % of the starts."""
    return [
        {"step": step, **_central("GD", found["GD"]), **_central("greedy", found["greedy"])}
        for step, found in per_start(results)
    ]


def choices(results: Sequence[Record]) -> list[Record]:
    """The gain of the greedy choice from the polar factor, and the share of starts that take it."""
    taken = zip(*(r["rows"] for r in of(results, GREEDY)), strict=True)
    return [
        {
            "step": step,
            **_central("gain", found["gain"]),
            "polar": sum(row["polar"] for row in rows) / len(found["gain"]),
        }
        for (step, found), rows in zip(per_start(results), taken, strict=True)
    ]


def grid(results: Sequence[Record]) -> list[Record]:
    """Loss, floor and the smallest singular values of one instance against the step."""
    return [
        {"way": r["way"], **row}
        for r in of(results, GRID, seed=results[0]["seed"])
        for row in r["rows"]
    ]


def _tuned(results: Sequence[Record], method: str) -> dict[str, list[int]]:
    """The steps of every instance with its best rate, for each ε."""
    found: dict[str, list[int]] = {}
    cells = of(results, REACH, method=method)
    for epsilon in cells[0]["steps"]:
        columns = zip(*(r["steps"][epsilon] for r in cells), strict=True)
        reached = [[t for t in column if t is not None] for column in columns]
        found[epsilon] = [min(each) for each in reached if each]
    return found


def reach(results: Sequence[Record]) -> list[Record]:
    """Steps until the loss is ε of the first: GD, and Muon with the best rate for each ε."""
    return [
        {"method": method, "epsilon": float(epsilon), "steps": median(steps)}
        for method in ("Muon", "GD")
        for epsilon, steps in _tuned(results, method).items()
        if steps
    ]


def errors(results: Sequence[Record]) -> list[Record]:
    """Smallest loss, plateau and median steps to every threshold of each error profile."""
    rows = []
    for r in of(results, ERRORS):
        steps = {f"to {k}": median(v) if None not in v else None for k, v in r["steps"].items()}
        rows.append(
            {
                "problem": r["family"],
                "profile": r["profile"],
                "size": r["sigma"],
                "lowest": median(r["lowest"]),
                "plateau": median(r["plateau"]),
                **steps,
            }
        )
    return rows


def times(results: Sequence[Record]) -> list[Record]:
    """Seconds of a processor that each kind of cell took."""
    found: dict[tuple[str, str], list[float]] = {}
    for r in results:
        kind = (r["experiment"], str(r.get("method", "")))
        found.setdefault(kind, []).append(r["seconds"])
    return [
        {"experiment": e, "method": m, "cells": len(s), "seconds": round(sum(s), 1)}
        for (e, m), s in found.items()
    ]
