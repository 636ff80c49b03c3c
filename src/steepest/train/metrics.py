"""The record of a trial: a JSON line for every step, and the same numbers for TensorBoard."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

from steepest._files import Record, json_line, read_lines, write_atomic

METRICS = "metrics.jsonl"
EVENTS = "events.out.tfevents.steepest"


def read_metrics(folder: Path) -> list[Record]:
    """The records of a trial in the order they were written; a cut-off last line is left out."""
    return list(read_lines(folder / METRICS))


def number(value: float) -> float | None:
    """A value for JSON, which has no NaN and no inf: they become None."""
    return value if math.isfinite(value) else None


def _event(record: Record) -> bytes:
    """A record as TensorBoard's binary event."""
    values = [
        Summary.Value(tag=name, simple_value=value)
        for name, value in record.items()
        if name not in ("step", "time") and value is not None
    ]
    event = Event(wall_time=record["time"], step=record["step"], summary=Summary(value=values))
    return _framed(event.SerializeToString())


def _framed(data: bytes) -> bytes:
    buffer = io.BytesIO()
    RecordWriter(buffer).write(data)
    return buffer.getvalue()


def _events(records: Iterable[Record]) -> bytes:
    """A whole event file: its version, then a record after the other."""
    head = _framed(Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
    return head + b"".join(map(_event, records))


class Metrics:
    """Appends records to `metrics.jsonl` and to a TensorBoard file; a context manager.

    Both files are first cut back to what happened up to the step that the trial goes on from, so
    that they hold every step once. torch's own `SummaryWriter` writes from a thread, which prints
    a traceback when the disk is full; these writes raise where they happen.

    Args:
        folder: of the trial.
        board: folder of its TensorBoard file.
        step: the step of the checkpoint that the trial goes on from; None for a new one.
    """

    def __init__(self, folder: Path, board: Path, *, step: int | None) -> None:
        self._paths = (folder / METRICS, board / EVENTS)
        kept = [r for r in read_lines(self._paths[0]) if step is not None and r["step"] <= step]
        board.mkdir(parents=True, exist_ok=True)
        write_atomic(self._paths[0], b"".join(map(json_line, kept)))
        write_atomic(self._paths[1], _events(kept))
        self._files = tuple(path.open("ab") for path in self._paths)

    def write(self, record: Record) -> None:
        """Append a record; it reaches the system at once, so that a kill does not lose it.

        Raises:
            OSError: the disk is full.
        """
        for path, file, data in zip(
            self._paths, self._files, (json_line(record), _event(record)), strict=True
        ):
            try:
                file.write(data)
                file.flush()
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from None

    def sync(self) -> None:
        """Bring everything to the disk: a checkpoint must not be newer than its metrics.

        Raises:
            OSError: the disk is full.
        """
        for path, file in zip(self._paths, self._files, strict=True):
            try:
                os.fsync(file.fileno())
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from None

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files:
            # Closing tries once more to write what failed before; that first error counts.
            with suppress(OSError):
                file.close()
