"""A log of records: a JSON line each, and the same in other files, cut back where it goes on."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeGuard, TypeVar

from steepest._common.files import (
    Record,
    json_line,
    naming,
    open_append,
    read_lines,
    write_atomic,
)

L = TypeVar("L", bound="Log")


class Encoding(NamedTuple):
    """How a file holds records: what it begins with, and the bytes of one."""

    head: bytes
    line: Callable[[Record], bytes]


JSON_LINES = Encoding(b"", json_line)
LAST = 2**53
"""The last step: a float holds it."""
LISTS = "/weight_sigmas"
"""The end of the only names that a monitor gives lists of numbers to."""
TIMES = 2.0**35
"""Seconds around 1970 that are a date: some thousand years."""


def number(value: float) -> float | None:
    """A value for JSON, which has no NaN and no inf: they become None."""
    return value if math.isfinite(value) else None


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value of a record is a number that a float holds; JSON has larger integers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def is_up_to(step: float, record: Record) -> bool:
    """Whether a record is of a step, and of none that comes later."""
    at = record.get("step")
    return isinstance(at, int) and is_number(at) and 0 <= at <= min(step, LAST)


def sound(record: Record) -> Record:
    """The entries of a record that are as a log or a monitor writes them.

    Examples:
        >>> sound({"step": 1, "loss": None, "lr": "high", "warnings": ["a: off", 2]})
        {'step': 1, 'loss': None}
    """
    return {key: value for key, value in record.items() if _is_sound(key, value)}


def _is_sound(key: str, value: object) -> bool:
    if key == "findings":
        return isinstance(value, list) and all(map(_is_finding, value))
    if key == "warnings":
        return isinstance(value, list) and all(isinstance(line, str) for line in value)
    if key == "time":
        return is_number(value) and abs(value) < TIMES
    if key.endswith(LISTS):
        return isinstance(value, list) and all(map(is_number, value))
    return value is None or is_number(value)


def _is_finding(value: object) -> bool:
    if not isinstance(value, dict) or not value.keys() >= {"layer", "cause", "text"}:
        return False
    badness = value.get("badness")
    words = all(isinstance(v, str) for k, v in value.items() if k != "badness")
    return words and (badness is None or is_number(badness))


def _kept(path: Path, step: int) -> list[Record]:
    """The records of a file up to a step, without those that could not be written again."""
    found = []
    for record in read_lines(path):
        with suppress(ValueError):
            if is_up_to(step, record) and json_line(record):
                found.append(record)
    return found


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
        kept = [] if step is None else _kept(path, step)
        self._encodings = {path: JSON_LINES, **(also or {})}
        for place, encoding in self._encodings.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(place, encoding.head + b"".join(map(encoding.line, kept)))
        self._files = {place: open_append(place) for place in self._encodings}

    def write(self, record: Record) -> None:
        """Append a record; it reaches the system at once, so that a kill does not lose it.

        Raises:
            OSError: the disk is full.
        """
        lines = {path: e.line(record) for path, e in self._encodings.items()}
        for path, file in self._files.items():
            file.write(lines[path])
            file.flush()

    def sync(self) -> None:
        """Bring everything to the disk: a checkpoint must not be newer than its metrics.

        Raises:
            OSError: the disk is full.
        """
        for path, file in self._files.items():
            with naming(path):
                os.fsync(file.fileno())

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
