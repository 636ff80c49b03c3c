"""The tables of `spectral-constraint`, made from the results of its cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import fmean

from steepest._common.files import Record
from steepest.apps.reproduce.framework.rows import of

TOY, SMALL, APPROACH, NETWORK = "toy", "small steps", "approach", "network"
"""The experiments that a cell may belong to."""


def _series(
    results: Sequence[Record], experiment: str, names: Sequence[str], **wanted: object
) -> Iterator[Record]:
    """The rows of the matching results, each with these fields of its cell."""
    for r in of(results, experiment, **wanted):
        for row in r["rows"]:
            yield {**{k: r[k] for k in names}, **row}


def toys(results: Sequence[Record]) -> list[Record]:
    """Loss, norm, KKT score and Lyapunov function of the quadratic, against the step."""
    return list(_series(results, TOY, ("case", "seed")))


def small_steps(results: Sequence[Record]) -> list[Record]:
    """Loss and Lyapunov function along the small steps, against the time of the flow."""
    return list(_series(results, SMALL, ("seed",)))


def _worst(
    rows: Iterator[Record], names: Sequence[str], worst: Callable[[list[float]], float] = max
) -> list[Record]:
    """Rows that agree in these fields become one, with the largest of every other field."""
    groups: dict[tuple[object, ...], list[Record]] = {}
    for row in rows:
        groups.setdefault(tuple(row[k] for k in names), []).append(row)
    return [
        {k: v if k in names else worst([r[k] for r in group]) for k, v in group[0].items()}
        for group in groups.values()
    ]


def approaches(results: Sequence[Record]) -> list[Record]:
    """The distance to the ball and its bound, over the radius, the largest of all seeds."""
    return _worst(_series(results, APPROACH, ("map", "decay")), ("map", "decay", "t"))


def trained(results: Sequence[Record]) -> list[Record]:
    """Every training of a network, means of the seeds; norms are the largest, over the radius.

    `best` marks the rate with the lowest held-out loss of its network, map and decay.
    """
    groups: dict[tuple[object, ...], list[Record]] = {}
    names = ("network", "map", "decay", "rate")
    for r in of(results, NETWORK):
        groups.setdefault(tuple(r[k] for k in names), []).append(r)
    rows = []
    for place, group in groups.items():
        whole = all(r["loss"] is not None for r in group)
        accuracies = [r["accuracy"] for r in group if r["accuracy"] is not None]
        rows.append(
            {
                **dict(zip(names, place, strict=True)),
                "radius": group[0]["radius"],
                "initial": fmean(r["initial"] for r in group),
                "loss": fmean(r["loss"] for r in group) if whole else None,
                "accuracy": fmean(accuracies) if whole and accuracies else None,
                "start": max(r["rows"][0]["largest"] for r in group),
                "end": max(r["rows"][-1]["largest"] for r in group),
                "allowed": max(r["rows"][-1]["allowed"] for r in group),
                "excess": max(r["excess"] for r in group),
                "best": False,
            }
        )
    for row in rows:
        rivals = [r for r in rows if all(r[k] == row[k] for k in names[:-1]) and r["loss"]]
        row["best"] = bool(rivals) and row is min(rivals, key=lambda r: r["loss"])
    return rows


def best(results: Sequence[Record], network: str, name: str, decay: str) -> Record | None:
    """The row of `trained` with the best rate; None if every run diverged."""
    for row in trained(results):
        if (row["network"], row["map"], row["decay"], row["best"]) == (network, name, decay, True):
            return row
    return None


def _best_cells(results: Sequence[Record]) -> list[Record]:
    """The results of the best rates."""
    places = {
        (r["network"], r["map"], r["decay"], r["rate"]) for r in trained(results) if r["best"]
    }
    found = of(results, NETWORK)
    return [r for r in found if (r["network"], r["map"], r["decay"], r["rate"]) in places]


def networks(results: Sequence[Record]) -> list[Record]:
    """The largest and the smallest norm over the radius against the step, at the best rates."""
    names = ("network", "map", "decay")
    rows = _series(_best_cells(results), NETWORK, names)
    return _worst(rows, (*names, "step"))


ENDS = {"explicit": "end, with decay", "none": "end, without"}


def spectra(results: Sequence[Record]) -> list[Record]:
    """Singular values of Muon's matrices over the radius, at the start and at the end."""
    first = results[0]["seed"]
    rows = []
    for r in _best_cells(results):
        if (r["map"], r["seed"]) == ("Nuclear", first):
            found = {ENDS[r["decay"]]: r["sigma"]["end"]}
            if r["decay"] == "explicit":
                found["start"] = r["sigma"]["start"]
            for when, sigma in found.items():
                rows += [{"network": r["network"], "when": when, "sigma": v} for v in sigma]
    return rows
