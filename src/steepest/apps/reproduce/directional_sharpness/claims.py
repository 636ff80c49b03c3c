"""The claims of `directional-sharpness`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean, geometric_mean, median

from steepest._common.files import Record
from steepest.apps.reproduce.directional_sharpness.tables import (
    WHOLE,
    advantages,
    correlation,
    equal,
    flat,
    gain,
    known,
    later,
    points,
    trainings,
)
from steepest.apps.reproduce.framework.claims import Check, Claim, Need, Outcome, UndecidedError

PAN = "Pan & Li, arXiv 2306.00204"
BERNSTEIN = "Bernstein & Newhouse, arXiv 2409.20325"
GUARANTEES = "‖G‖_*²/(2L_2) against ‖G‖_F²/(2L_F), with L_2/L_F = st(A)"

NETWORKS = {"text": "the GPT", "images": "digits"}
MOST = 0.9
JORDAN = (0.8, 1.25)
NEARLY_ALL = 0.95
Test = Callable[[Record], bool]


def of(results: Sequence[Record], network: str) -> list[Record]:
    """The results of a network.

    Raises:
        UndecidedError: one of its runs diverged.
    """
    found = trainings(results, network)
    if any(look["loss"] is None for r in found for look in r["losses"]):
        raise UndecidedError("needs settings at which no training diverges")
    return found


def looks(results: Sequence[Record], network: str, *, whole: bool = True) -> list[Record]:
    """All layers together, or each by itself, at every observation of a network after the start."""
    return [p for p in later(points(of(results, network))) if (p["layer"] == WHOLE) == whole]


def _counted(found: Sequence[Record], holds: Test) -> tuple[float, str]:
    """The part of the points where it holds, also as text."""
    if not found:
        raise UndecidedError("needs a point of this kind, and there is none")
    count = sum(map(holds, found))
    return count / len(found), f"{count} of {len(found)} ({100 * count / len(found):.0f} %)"


def _ahead(p: Record, direction: str, over: str = "gradient") -> bool:
    """Whether its sharpness at equal correlation is smaller: the best decrease is larger then.

    A sharpness that is not positive bounds the decrease by nothing, and counts as smaller.
    """
    return equal(p["directions"][direction]) < equal(p["directions"][over])


def _flatter(network: str) -> Check:
    def check(results: Sequence[Record]) -> Outcome:
        found = looks(results, network)
        share, text = _counted(
            found, lambda p: flat(p["directions"]["sign"]) < flat(p["directions"]["gradient"])
        )
        times = [flat(p["directions"]["gradient"]) / flat(p["directions"]["sign"]) for p in found]
        return Outcome.of(
            share >= MOST, f"{text}; gradient's over sign's: median {median(times):.3g}"
        )

    return check


def _falls_further(network: str, direction: str, optimizer: str | None = None) -> Check:
    def check(results: Sequence[Record]) -> Outcome:
        found = [p for p in looks(results, network) if optimizer in (None, p["optimizer"])]
        share, text = _counted(found, lambda p: _ahead(p, direction))
        return Outcome.of(share >= MOST, f"{text}; {_median_gain(found, direction)}")

    return check


def _median_gain(found: Sequence[Record], direction: str) -> str:
    gains = [g for p in found if (g := gain(p, direction)) is not None]
    return f"best decrease ×{median(gains):.3g} in the median" if gains else "no minimum anywhere"


def _grows(network: str) -> Check:
    def check(results: Sequence[Record]) -> Outcome:
        found = looks(results, network)
        steps = sorted({p["step"] for p in found})
        if len(steps) < 2:
            raise UndecidedError("needs two observations after the start, has one")
        texts, ratios = [], []
        for optimizer in dict.fromkeys(p["optimizer"] for p in found):
            halves: tuple[list[float], list[float]] = ([], [])
            for p in found:
                value = gain(p, "sign")
                if p["optimizer"] == optimizer and value is not None:
                    halves[p["step"] >= steps[len(steps) // 2]].append(value)
            if not all(halves):
                raise UndecidedError(
                    f"needs a minimum in both halves of {optimizer}'s observations"
                )
            early, late = map(geometric_mean, halves)
            ratios.append(late / early)
            texts.append(f"{optimizer} ×{early:.3g}, then ×{late:.3g}")
        return Outcome.of(min(ratios) > 1, "; ".join(texts))

    return check


def _layers(network: str) -> Check:
    def check(results: Sequence[Record]) -> Outcome:
        found = looks(results, network, whole=False)
        share, text = _counted(found, lambda p: _ahead(p, "muon"))
        return Outcome.of(share > 0.5, f"{text}; {_median_gain(found, 'muon')}")

    return check


def _predicts(network: str) -> Check:
    def check(results: Sequence[Record]) -> Outcome:
        rows = known(later(advantages(of(results, network))))
        share, text = _counted(rows, lambda r: (r["ratio"] > 1) == (r["advantage"] > 1))
        base = fmean(r["advantage"] > 1 for r in rows)
        if len({r["ratio"] > 1 for r in rows}) < 2:
            above = rows[0]["ratio"] > 1
            raise UndecidedError(
                f"needs layers on both sides: nr(G)/st(A) is {'above' if above else 'below'} 1 "
                f"everywhere; the polar direction is ahead at {100 * base:.0f} %"
            )
        constant = max(base, 1 - base)
        return Outcome.of(
            share > constant, f"right at {text}, a constant at {100 * constant:.0f} %"
        )

    return check


def _correlates(network: str, against: str, *, within: bool = False) -> Check:
    def check(results: Sequence[Record]) -> Outcome:
        rows = [r for r in advantages(of(results, network)) if r["network"] == network]
        if len({(r["optimizer"], r["seed"]) for r in rows}) < 2:
            raise UndecidedError("needs two runs for an interval, has one")
        value, low, high = correlation(rows, against, within=within)
        if math.isnan(value):
            raise UndecidedError("needs points that are not all alike")
        text = f"{value:+.2f}, {low:+.2f} to {high:+.2f}"
        if low <= 0 <= high:
            raise UndecidedError(f"needs more runs: the interval contains 0: {text}")
        return Outcome.of(low > 0, text)

    return check


def _bounded(network: str) -> Check:
    def check(results: Sequence[Record]) -> Outcome:
        rows = known(later(advantages(of(results, network))))
        share, text = _counted(rows, lambda r: r["advantage"] <= r["ratio"])
        middle = median(r["advantage"] / r["ratio"] for r in rows)
        return Outcome.of(share >= MOST, f"{text}; advantage over it: median {middle:.3g}")

    return check


def _newton_schulz(results: Sequence[Record]) -> Outcome:
    found = [p for network in NETWORKS for p in looks(results, network, whole=False)]
    gains = [g for p in found if (g := gain(p, "newton-schulz", "muon")) is not None]
    if not gains:
        raise UndecidedError("needs a point with a minimum, and there is none")
    share = fmean(JORDAN[0] <= g <= JORDAN[1] for g in gains)
    text = f"{100 * share:.0f} % of {len(gains)}; median ×{median(gains):.3g}"
    return Outcome.of(share >= NEARLY_ALL, f"{text}, ×{min(gains):.3g} to ×{max(gains):.3g}")


def _counts(network: str, *, whole: bool = True) -> tuple[Need, ...]:
    """The need of a claim on a part of the observations: so many that one is at most a tenth."""
    return (
        Need(
            what="observations after the start"
            if whole
            else "layers in observations after the start",
            least=1 / (1 - MOST),
            has=lambda results: float(len(looks(results, network, whole=whole))),
            why="fewer cannot tell nine tenths from all",
        ),
    )


def _digits_count(network: str) -> tuple[Need, ...]:
    """The same on digits; on text the first steps were seen to answer otherwise than later ones."""
    return _counts(network) if network == "images" else TRAINED


TRAINED = (
    Need.setting("seeds", 2, "three runs from one start say what that start says"),
    Need.setting("steps", 256, "on digits the answer after 8 steps was seen to be another"),
    Need.setting("width", 128, "on digits the answer at width 32 was seen to be another"),
)
"""The settings that were seen to decide the answers that turn in training."""


def _each(
    name: str,
    statement: str,
    source: str,
    expected: str,
    check: Callable[[str], Check],
    needs: Callable[[str], tuple[Need, ...]] = lambda _: TRAINED,
) -> list[Claim]:
    """A claim for each network, which `{}` in the statement stands for."""
    return [
        Claim(
            id=f"{name}-{network}",
            statement=statement.format(title),
            source=source,
            expected=expected,
            check=check(network),
            needs=needs(network),
        )
        for network, title in NETWORKS.items()
    ]


MOSTLY = f"at {100 * MOST:.0f} % of the observations or more"

CLAIMS = (
    *_each(
        "flatter",
        "On {} the sign direction is less sharp than the gradient, both of length 1: dᵀHd/‖d‖².",
        PAN,
        MOSTLY,
        _flatter,
        _digits_count,
    ),
    *_each(
        "sign",
        "On {} it is less sharp at equal correlation, dᵀHd/⟨g, d⟩²: its best decrease is larger.",
        PAN,
        MOSTLY,
        lambda network: _falls_further(network, "sign"),
    ),
    *_each(
        "adam",
        "On {} so is Adam's direction, in AdamW's own training.",
        PAN,
        MOSTLY,
        lambda network: _falls_further(network, "adam", "adamw"),
    ),
    *_each(
        "grows",
        "On {} the sign's lead grows in training: its best decrease over the gradient's, first "
        "half of the observations and second half.",
        PAN,
        "larger in the second half, whatever trains",
        _grows,
    ),
    *_each(
        "muon",
        "On {} the polar direction of all matrices together has a larger best decrease than the "
        "gradient.",
        BERNSTEIN,
        MOSTLY,
        lambda network: _falls_further(network, "muon"),
        _digits_count,
    ),
    *_each(
        "layers",
        "On {} so it has in most layers and observations, each layer moved by itself.",
        BERNSTEIN,
        "more than half",
        _layers,
        lambda network: _counts(network, whole=False),
    ),
    *_each(
        "predicts",
        "On {} the guarantees tell where: the polar direction is ahead where nr(G) > st(A), behind "
        "elsewhere.",
        GUARANTEES,
        "more often right than the better constant answer",
        _predicts,
    ),
    *_each(
        "nuclear-rank",
        "On {} the advantage of the polar direction in a layer grows with nr(G): Spearman's "
        "correlation and its 95 % interval.",
        GUARANTEES,
        "above 0",
        lambda network: _correlates(network, "nuclear"),
    ),
    *_each(
        "within",
        "On {} it also does within a layer, through its training.",
        GUARANTEES,
        "above 0",
        lambda network: _correlates(network, "nuclear", within=True),
    ),
    *_each(
        "ratio",
        "On {} it grows with nr(G)/st(A), the ratio of the guarantees.",
        GUARANTEES,
        "above 0",
        lambda network: _correlates(network, "ratio"),
    ),
    *_each(
        "bound",
        "On {} it does not exceed that ratio, as it cannot for a squared loss where a layer has no "
        "fewer outputs than inputs and its gradient full rank.",
        "dᵀHd = c‖DA‖_F² there: ‖UVᵀA‖_F² = ‖A‖_F², ‖GA‖_F ≤ ‖G‖_F·‖A‖₂",
        f"at {100 * MOST:.0f} % of the layers and observations or more",
        _bounded,
    ),
    Claim(
        id="newton-schulz",
        statement="The best decrease along Jordan's inexact polar factor is that along the exact "
        f"one, up to factors of {JORDAN[0]:g} and {JORDAN[1]:g}.",
        source="its singular values are from 0.68 to 1.2 where those of G are not tiny",
        expected=f"at {100 * NEARLY_ALL:.0f} % of the layers and observations or more",
        check=_newton_schulz,
        needs=TRAINED,
    ),
)
