"""Norms of the command line: the learning rates that are known for them."""

from __future__ import annotations

from collections.abc import Mapping

from steepest._common.norm_names import EXAMPLES, NORM_NAMES

WRITTEN = tuple(name + EXAMPLES[follows] for name, follows in NORM_NAMES.items())
"""Every norm as it may be written, for completion."""

# Learning rates of the optimizer `descent` on the default text and model; docs/tuning.md has the
# runs. `lr` is a length in the norm, so another norm needs another one.
LEARNING_RATES: Mapping[str, float] = {"spectral": 0.04, "schatten:4": 0.04}
