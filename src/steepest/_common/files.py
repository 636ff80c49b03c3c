"""Files that a crash, a kill or a full disk cannot leave half written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

Record = dict[str, Any]
"""A line of a file of records: numbers and texts by name."""


def write_atomic(path: Path, content: bytes) -> None:
    """Write `path` so that at every moment it holds its old content or all of the new.

    Raises:
        OSError: the disk is full or the folder cannot be written; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        # A failed write names no file by itself, and the user needs to know which disk is full.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut, where the system can sync a folder."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: Path, data: Any) -> None:
    """Write indented JSON atomically."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, f"{text}\n".encode())


def json_line(record: Record) -> bytes:
    """A record as one line of a JSONL file."""
    return f"{json.dumps(record, allow_nan=False)}\n".encode()


def read_lines(path: Path) -> Iterator[Record]:
    """The records of a JSONL file up to the first line that is cut off; none without the file."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            record = json.loads(line)
        except ValueError:
            return
        if not line.endswith(b"\n") or not isinstance(record, dict):
            return
        yield record
