"""The claims of `spectral-constraint` on networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from steepest._common.files import Record
from steepest.apps.reproduce.framework.claims import Check, Claim, Outcome, UndecidedError
from steepest.apps.reproduce.framework.rows import distinct, of
from steepest.apps.reproduce.spectral_constraint.claims import (
    FADED,
    INSIDE,
    LION,
    MUON,
    SINGLE,
    each_of,
)
from steepest.apps.reproduce.spectral_constraint.tables import NETWORK, best, trained


def _decayed(results: Sequence[Record], network: str) -> list[Record]:
    rows = [r for r in trained(results) if (r["network"], r["decay"]) == (network, "explicit")]
    if any(r["loss"] is None for r in rows):
        raise UndecidedError("needs rates at which no training with decay diverges")
    return rows


def _ball(network: str) -> Check:
    def check(results: Sequence[Record]) -> Outcome:
        rows = _decayed(results, network)
        top = {
            name: max(r["allowed"] for r in rows if r["map"] == name)
            for name in distinct(rows, "map")
        }
        text = ", ".join(f"{name} {value:.4f}" for name, value in top.items())
        return Outcome.of(max(top.values()) <= 1 + INSIDE, text)

    return check


def _follows(results: Sequence[Record]) -> Outcome:
    rows = [r for r in of(results, NETWORK) if r["decay"] == "explicit"]
    found = max(r["excess"] for r in rows)
    return Outcome.of(found <= SINGLE, f"at most {found:.1e} of the radius above it")


def _leaves(results: Sequence[Record]) -> Outcome:
    texts, least = [], math.inf
    for network in distinct(of(results, NETWORK), "network"):
        rows = [r for r in trained(results) if (r["network"], r["decay"]) == (network, "none")]
        low = min(rows, key=lambda r: r["allowed"])
        least = min(least, low["allowed"])
        texts.append(f"{network} ×{low['allowed']:.2f} ({low['map']}) or more")
    return Outcome.of(least > 1 + INSIDE, "; ".join(texts))


def _pairs(results: Sequence[Record], network: str) -> dict[str, tuple[Record, float]]:
    """The best training of each map with decay, and the loss of the best one without."""
    found = {}
    for name in map(str, distinct(of(results, NETWORK), "map")):
        mine, free = (best(results, network, name, decay) for decay in ("explicit", "none"))
        if mine is None:
            raise UndecidedError(f"needs a rate at which {name} does not diverge")
        found[name] = mine, math.inf if free is None else free["loss"]
    return found


def _learns(network: str) -> Check:
    def check(results: Sequence[Record]) -> Outcome:
        rows = [row for row, _ in _pairs(results, network).values()]
        texts = [f"{r['map']} {r['loss']:.3g}" for r in rows]
        holds = all(r["loss"] < r["initial"] for r in rows)
        return Outcome.of(holds, f"from {rows[0]['initial']:.3g} to {', '.join(texts)}")

    return check


def _helps(network: str) -> Check:
    def check(results: Sequence[Record]) -> Outcome:
        pairs = _pairs(results, network)
        texts = [f"{name} {row['loss']:.3g} ({bare:.3g})" for name, (row, bare) in pairs.items()]
        return Outcome.of(all(row["loss"] < bare for row, bare in pairs.values()), ", ".join(texts))

    return check


def _inexact(results: Sequence[Record]) -> Outcome:
    rows = [r for r in trained(results) if r["map"] == "Nuclear, Jordan" and r["decay"] != "none"]
    texts = [f"{r['network']}, ηλ = {r['rate']:g}: {r['end']:.3f}" for r in rows]
    between = any(r["end"] > 1 + INSIDE for r in rows)
    inside = all(r["allowed"] <= 1 + INSIDE for r in rows)
    return Outcome.of(between and inside, "; ".join(texts))


NETWORKS = (
    *each_of(
        "ball",
        "On {} every matrix ends in the ball that its map names, at every rate: the largest norm "
        "over upper/λ.",
        f"{LION}; {MUON}",
        f"at most {1 + INSIDE:g}",
        [(network, _ball(network)) for network in ("images", "text")],
        FADED,
    ),
    Claim(
        id="follows",
        statement="On the way no matrix of a network is farther outside than the product of "
        "1 − ηλ allows.",
        source="triangle inequality",
        expected=f"no more than {SINGLE:g} above it",
        check=_follows,
    ),
    Claim(
        id="free",
        statement="It is the decay that keeps them there: the same steps without it end outside, "
        "with every map.",
        source=MUON,
        expected=f"above {1 + INSIDE:g}",
        check=_leaves,
        needs=(FADED,),
    ),
    Claim(
        id="inexact",
        statement="Jordan's polar factors have singular values up to c = 1.2: the ball has the "
        "radius c/λ then, and some matrix ends outside 1/λ.",
        source="‖∇K‖ ≤ c in place of 1",
        expected="between 1 and c",
        check=_inexact,
        needs=(FADED,),
    ),
    *each_of(
        "learns",
        "On {} all of them learn: the held-out loss at the best rate falls.",
        LION,
        "lower than at the start",
        [(network, _learns(network)) for network in ("images", "text")],
        FADED,
    ),
    *each_of(
        "helps",
        "On {} the held-out loss is lower than that without decay (in brackets), both at the best "
        "rate, for every map.",
        "Liu et al., arXiv 2502.16982, section 2.2",
        "lower",
        [(network, _helps(network)) for network in ("images", "text")],
        FADED,
    ),
)
