"""The steps of polar factors in an ejected file: designed for an error, or those of torch."""

from __future__ import annotations

from typing import NamedTuple

from steepest.apps.eject.command import DESIGNED
from steepest.polar import JORDAN, Schedule, design_schedule

# Ours. With it the default error takes six steps: σ ≥ 0.004·σ₁ of 64 rows and 0.014·σ₁ of 768.
LOWER = 5e-4

# Room for a largest singular value that rounding lifts above 1: enough for products in bfloat16 and
# TF32, which a program may ask torch for.
SAFETY = 1.02


class ChosenSteps(NamedTuple):
    """A schedule, and the comment above it.

    Attributes:
        schedule: The schedule.
        remark: The lines of the comment.
    """

    schedule: Schedule
    remark: tuple[str, ...]


def chosen(polar: str, error: float) -> ChosenSteps:
    """The steps by their name.

    Args:
        polar: "designed" or "jordan".
        error: The largest |σ − 1| of designed steps, at least 1e-6.
    """
    if polar == DESIGNED:
        schedule = design_schedule(lower=LOWER, error=error, safety=SAFETY)
        origin = (
            "Designed by steepest.polar.design_schedule after the Polar Express, arXiv 2505.16932:"
        )
    else:
        schedule, origin = JORDAN, "The five steps of torch.optim.Muon (Keller Jordan 2024):"
    lower, rows = schedule.interval[0], 768
    low, high = schedule.band(lower, 1.0)
    least = f"{lower * rows**0.5:.2g}·σ₁ for {rows}"
    remark = (
        origin,
        f"singular values of X/‖X‖_F from {lower:g} to 1 end between {low:.3f} and {high:.3f}.",
        f"With m rows that is at least every σ ≥ {lower:g}·√m·σ₁: {least}.",
    )
    return ChosenSteps(schedule, remark)
