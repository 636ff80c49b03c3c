"""Rules on geometry: whether another optimizer than the run's looks better at its checkpoint."""

from __future__ import annotations

from statistics import median

from steepest.apps.diagnose import titles
from steepest.apps.diagnose.evidence import MUON, Evidence, Finding

AHEAD = 1.2
"""Progress along a direction over that of its rival from which on a comparison is worth a run;
ours: below it one batch of text decides otherwise than the next."""

WEAK = (
    "one batch at one point, and the ratio is a weak guide (docs/reproductions.md, "
    "directional-sharpness)"
)


def fall(e: Evidence, direction: str) -> float | None:
    """The best decrease of the loss along a direction of all matrices; None if it is not known."""
    if e.directions is None or direction not in e.directions.directions:
        return None
    return e.directions[direction].best_decrease


def own_direction(e: Evidence) -> str:
    """The direction of comparison for a run without Muon: Adam's where the run has it."""
    return "gradient" if fall(e, "adam") is None else "adam"


def try_muon(e: Evidence) -> Finding | None:
    """Muon's direction is ahead in a run that has no Muon to compare with."""
    if e.config is None or any(name in MUON for name in e.config.optimizers) or not e.verdict:
        return None
    gains = [row.progress for row in e.verdict if row.progress is not None]
    rival = own_direction(e)
    muon, own = fall(e, "muon"), fall(e, rival)
    if not gains or not muon or not own or min(median(gains), muon / own) < AHEAD:
        return None
    return Finding(
        what=f"Along Muon's direction the loss falls {muon / own:.2g} times as far as along "
        f"{'AdamW' if rival == 'adam' else 'the gradient'}'s, and {median(gains):.2g} times as far "
        "as along the gradient of a typical layer",
        confidence="a hint",
        why=WEAK,
        advice="try Muon in a short run of both: steepest train --optimizer muon --optimizer "
        f"{e.optimizer}",
        evidence=titles.DIRECTIONS,
    )


def try_other(e: Evidence) -> Finding | None:
    """The gradient's direction is ahead in a run with Muon, in the whole and in most layers."""
    if e.optimizer not in MUON or e.config is None or e.verdict is None:
        return None
    gains = [row.progress for row in e.verdict if row.progress is not None]
    muon, gradient = fall(e, "muon"), fall(e, "gradient")
    if not gains or not muon or not gradient:
        return None
    behind = max(median(gains), muon / gradient)
    if behind > 1 / AHEAD or "adamw" in e.config.optimizers:
        return None
    return Finding(
        what=f"Along Muon's direction the loss falls {muon / gradient:.2g} times as far as along "
        f"the gradient, and in a typical layer {median(gains):.2g} times",
        confidence="a hint",
        why=WEAK,
        advice="try AdamW in a short run of both: steepest train --optimizer muon --optimizer "
        "adamw",
        evidence=titles.DIRECTIONS,
    )
