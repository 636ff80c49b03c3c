"""A log of records: a JSON line each, and the same in other files, cut back where it goes on."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from steepest._common.files import Record, json_line, read_lines, write_atomic

L = TypeVar("L", bound="Log")


class Encoding(NamedTuple):
    """How a file holds records: what it begins with, and the bytes of one."""

    head: bytes
    line: Callable[[Record], bytes]


JSON_LINES = Encoding(b"", json_line)


def number(value: float) -> float | None:
    """A value for JSON, which has no NaN and no inf: they become None."""
    return value if math.isfinite(value) else None


def _is_up_to(step: int, record: Record) -> bool:
    """Whether a line is that of a step that is taken; one that says of no step is damaged."""
    at = record.get("step")
    return isinstance(at, int) and at <= step


class Log:
    """Appends records to a JSONL file and to files beside it; a context manager.

    All files are first cut back to what happened up to the step that the log goes on from, so that
    they hold every step once.

    Args:
        path: the JSONL file.
        also: other files, each with its encoding.
        step: the step to go on from; None begins anew.
    """

    def __init__(
        self, path: Path, *, also: Mapping[Path, Encoding] | None = None, step: int | None
    ) -> None:
        kept = [r for r in read_lines(path) if step is not None and _is_up_to(step, r)]
        self._encodings = {path: JSON_LINES, **(also or {})}
        for place, encoding in self._encodings.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(place, encoding.head + b"".join(map(encoding.line, kept)))
        self._files = {place: place.open("ab") for place in self._encodings}

    def write(self, record: Record) -> None:
        """Append a record; it reaches the system at once, so that a kill does not lose it.

        Raises:
            OSError: the disk is full.
        """
        lines = {path: e.line(record) for path, e in self._encodings.items()}
        for path, file in self._files.items():
            try:
                file.write(lines[path])
                file.flush()
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from None

    def sync(self) -> None:
        """Bring everything to the disk: a checkpoint must not be newer than its metrics.

        Raises:
            OSError: the disk is full.
        """
        for path, file in self._files.items():
            try:
                os.fsync(file.fileno())
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from None

    def close(self) -> None:
        """Close the files; nothing can be written after that."""
        for file in self._files.values():
            # Closing tries once more to write what failed before; that first error counts.
            with suppress(OSError):
                file.close()

    def __enter__(self: L) -> L:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
