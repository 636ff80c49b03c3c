"""How far an experiment is, and how long it still takes."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, TaskID
from rich.progress import Progress as Bar

from steepest.apps._console import PlainColumn
from steepest.apps._terminal import clock, say

EVERY = 10.0
"""Seconds between two lines where there is no terminal to draw on."""


class CellProgress:
    """A bar on a terminal, elsewhere a line every ten seconds; a context manager.

    Args:
        console: the console to write to.
        cells: the number of cells that are to be measured.
        cost: the sum of their costs.
    """

    def __init__(self, console: Console, *, cells: int, cost: float) -> None:
        self._console = console
        self._cells, self._cost = cells, cost
        self._done, self._paid = 0, 0.0
        self._start = self._said = time.monotonic()
        self._bar: Bar | None = None
        self._task = TaskID(0)

    def __enter__(self) -> CellProgress:
        if self._console.is_terminal and self._cells:
            self._bar = Bar(
                BarColumn(bar_width=20),
                PlainColumn("{task.description}"),
                console=self._console,
            )
            self._bar.start()
            self._task = self._bar.add_task(f"0/{self._cells} cells", total=self._cost)
        return self

    def skip(self, cells: int, cost: float) -> None:
        """Take out cells that are finished already."""
        self._cells -= cells
        self._cost -= cost

    def advance(self, name: str, cost: float) -> None:
        """Show that a cell is finished."""
        self._done += 1
        self._paid += cost
        now = time.monotonic()
        left = (now - self._start) / self._paid * (self._cost - self._paid)
        text = f"{self._done}/{self._cells} cells  {name}  ETA {clock(left)}"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._paid, total=self._cost, description=text)
        elif now - self._said >= EVERY:
            self._said = now
            say(self._console, text)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
