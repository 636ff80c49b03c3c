"""The progress of a run as a user sees it: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from statistics import median

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID
from rich.progress import Progress as Bar

from steepest._common.files import Record
from steepest.apps._console import PlainColumn
from steepest.apps._terminal import clock, say

RECENT = 20


class TrainingProgress:
    """Shows step, loss, time of a step, the optimizer's share of it and the time left.

    Args:
        console: the console to write to.
        steps: steps that this process is going to take, over all trials.
    """

    def __init__(self, console: Console, *, steps: int) -> None:
        self._console = console
        self._left = steps
        self._taken = 0
        self._start = time.monotonic()
        self._times: deque[tuple[float, float]] = deque(maxlen=RECENT)
        self._val = ""
        self._name, self._total = "", 0
        self._bar: Bar | None = None
        self._task = TaskID(0)

    def begin(self, name: str, *, step: int, steps: int) -> None:
        """Start to show a trial at a step of its own."""
        self.end()
        self._name, self._total, self._val = name, steps, ""
        self._times.clear()
        if self._console.is_terminal:
            self._bar = Bar(
                PlainColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                PlainColumn("{task.fields[text]}"),
                console=self._console,
            )
            self._bar.start()
            self._task = self._bar.add_task(name, total=steps, completed=step, text="")

    def update(self, record: Record) -> None:
        """Show the record of a step."""
        self._taken += 1
        self._left -= 1
        self._times.append((record["step_ms"], record["optimizer_ms"]))
        if record.get("val_loss") is not None:
            self._val = f"val {record['val_loss']:.3f}  "
        text = self._text(record)
        if self._bar is not None:
            self._bar.update(self._task, completed=record["step"], text=text)
        elif "val_loss" in record:
            say(self._console, f"{self._name}  step {record['step']}/{self._total}  {text}")

    def _text(self, record: Record) -> str:
        step_ms = median(t for t, _ in self._times)
        share = sum(o for _, o in self._times) / sum(t for t, _ in self._times)
        left = (time.monotonic() - self._start) / self._taken * self._left
        loss = "nan" if record["loss"] is None else f"{record['loss']:.3f}"
        return (
            f"loss {loss}  {self._val}{step_ms:.0f} ms/step  "
            f"optimizer {share:.0%}  ETA {clock(left)}"
        )

    def end(self) -> None:
        """Leave the last state of the trial on the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
