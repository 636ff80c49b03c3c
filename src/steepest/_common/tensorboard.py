"""Records as TensorBoard reads them; the one file that imports TensorBoard.

torch's own `SummaryWriter` writes from a thread, which prints a traceback when the disk is full;
what writes these bytes raises where that happens.
"""

from __future__ import annotations

import io

from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

from steepest._common.files import Record
from steepest._common.records import Encoding

EVENTS = "events.out.tfevents.steepest"


def _event(record: Record) -> bytes:
    """The numbers of a record as TensorBoard's binary event."""
    values = [
        Summary.Value(tag=name, simple_value=value)
        for name, value in record.items()
        if name not in ("step", "time") and isinstance(value, int | float)
    ]
    time = record.get("time")
    wall = time if isinstance(time, int | float) else 0.0  # not in a file that others have written
    event = Event(wall_time=wall, step=record["step"], summary=Summary(value=values))
    return _framed(event.SerializeToString())


def _framed(data: bytes) -> bytes:
    buffer = io.BytesIO()
    RecordWriter(buffer).write(data)
    return buffer.getvalue()


def event_file() -> Encoding:
    """An event file: its version, then a record after the other."""
    head = Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString()
    return Encoding(_framed(head), _event)
