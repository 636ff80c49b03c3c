"""The progress of a diagnosis: a bar on a terminal, plain lines elsewhere, with the time left."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress

from steepest.apps._console import PlainColumn
from steepest.apps._terminal import clock, say

NAMES = {
    "directions": "sharpness by direction",
    "verdict": "the step that suits each layer",
    "smoothness": "smoothness",
    "constraint": "the balls of weight decay",
}


class DiagnosisProgress:
    """Shows what is being computed, and how long the rest will take; a context manager.

    Args:
        console: the console to write to.
        subjects: the number of checkpoints that things are computed at.
    """

    def __init__(self, console: Console, *, subjects: int) -> None:
        self._console, self._subjects = console, subjects
        self._plan: Mapping[str, float] = {}
        self._begun, self._planned, self._done = 0, 0.0, 0.0
        self._current = ""
        self._name, self._start = "", time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                PlainColumn("{task.description}"), BarColumn(bar_width=20), console=console
            )
            self._task = self._bar.add_task("reading", total=None)

    def begin(self, name: str, plan: Mapping[str, float]) -> None:
        """Start with a checkpoint.

        Args:
            name: the name of the run at the checkpoint.
            plan: the estimated seconds of each thing to compute.
        """
        self._finish()
        self._begun, self._name, self._plan = self._begun + 1, name, plan
        self._planned += sum(plan.values())

    def stage(self, what: str) -> None:
        """Say that a thing is being computed now."""
        self._finish()
        self._current = what
        text = f"{self._name}: {NAMES.get(what, what)}, ETA {clock(self._left())}"
        if self._bar is None:
            say(self._console, text)
        else:
            total = self._done + self._ahead()
            self._bar.update(self._task, description=text, total=total, completed=self._done)

    def _finish(self) -> None:
        self._done += self._plan.get(self._current, 0.0)
        self._current = ""

    def _ahead(self) -> float:
        """The estimate of what is not done yet; checkpoints to come take as long as this one."""
        coming = (self._subjects - self._begun) * sum(self._plan.values())
        return self._planned - self._done + coming

    def _left(self) -> float:
        """The seconds left, by the estimate and how well it has held so far."""
        pace = (time.monotonic() - self._start) / self._done if self._done else 1.0
        return pace * self._ahead()

    def __enter__(self) -> DiagnosisProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
