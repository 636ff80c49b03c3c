"""The record of a trial: a JSON line for every step, and the same numbers for TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from steepest._common.files import Record, read_lines
from steepest._common.records import Log, is_up_to, sound
from steepest._common.tensorboard import EVENTS, event_file

METRICS = "metrics.jsonl"
FIGURES = ("seconds", "step_ms", "optimizer_ms")
MONITOR = "monitor.jsonl"  # what diagnostics.Monitor writes beside it


def read_metrics(folder: Path) -> list[Record]:
    """The records of a trial in the order they were written; a cut-off last line is left out."""
    return [sound(r) for r in read_lines(folder / METRICS) if is_up_to(math.inf, r)]


def read_figures(folder: Path) -> list[Record]:
    """The records of a trial that have all that a report is made of."""
    return [r for r in read_metrics(folder) if _has(r, FIGURES if r["step"] else FIGURES[:1])]


def _has(record: Record, names: Sequence[str]) -> bool:
    return all(record.get(name) is not None for name in names)


class Metrics(Log):
    """Appends records to `metrics.jsonl` and to a TensorBoard file; a context manager.

    Args:
        folder: the folder of the trial.
        board: folder of its TensorBoard file.
        step: the step of the checkpoint that the trial goes on from; None for a new one.
    """

    def __init__(self, folder: Path, board: Path, *, step: int | None) -> None:
        super().__init__(folder / METRICS, also={board / EVENTS: event_file()}, step=step)


class Unwritten:
    """Takes the records of a process that leaves the writing to another one."""

    def write(self, record: Record) -> None:
        """Do nothing."""

    def sync(self) -> None:
        """Do nothing."""

    def __enter__(self) -> Unwritten:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""
