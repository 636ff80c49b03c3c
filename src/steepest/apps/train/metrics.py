"""The record of a trial: a JSON line for every step, and the same numbers for TensorBoard."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path

from steepest._common.files import Record, read_lines
from steepest._common.records import Log
from steepest._common.tensorboard import EVENTS, event_file

METRICS = "metrics.jsonl"
MONITOR = "monitor.jsonl"  # what diagnostics.Monitor writes beside it


def read_metrics(folder: Path) -> list[Record]:
    """The records of a trial in the order they were written, up to the first that is damaged.

    The last line may be cut off, by a kill; it is left out.
    """
    return list(takewhile(_has_step, read_lines(folder / METRICS)))


def _has_step(record: Record) -> bool:
    return isinstance(record.get("step"), int)


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
