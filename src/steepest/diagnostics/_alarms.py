"""Warnings in words: what is off in a training, what number shows it, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from steepest.diagnostics._observe import Seen
from steepest.optim import Routing


class MonitorWarning(UserWarning):
    """Something that a `Monitor` has seen and that is worth a look."""


class Alarms:
    """Decides what to say, once for each layer and kind.

    Args:
        routing: where each parameter should go; None if that is not known.
    """

    def __init__(self, routing: Routing | None) -> None:
        self.routing = routing
        self._said: set[tuple[str, str]] = set()

    def heard(self, all_seen: Sequence[Seen], activations: Mapping[str, object]) -> list[str]:
        """What is new in an observation."""
        return []
