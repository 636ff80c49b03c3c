"""The rows, tasks and sizes of a comparison by name; torch is not needed for them."""

from __future__ import annotations

from collections.abc import Mapping

BASELINE = "muon"
"""The row that every other one is held against."""

REFERENCE = "adamw"
"""The row whose final loss is a second mark to reach."""

TASKS: Mapping[str, str] = {
    "text": "a character GPT on the King James Bible",
    "digits": "a network of Linear layers on MNIST digits",
}
"""The model and the data of each task."""

SCALES = ("standard", "short", "full", "quick")
"""The sizes of a comparison, from the one that is taken without a flag."""

TUNING_SEED = 2**31
"""The first seed that settings are chosen with; those of the final runs are smaller."""
