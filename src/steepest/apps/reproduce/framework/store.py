"""The finished cells of an experiment in its folder, so that it can be interrupted."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from steepest._common.errors import invalid
from steepest._common.files import (
    Record,
    json_line,
    naming,
    open_append,
    read_json,
    read_lines,
    write_atomic,
    write_json,
)
from steepest.apps._folder import is_empty
from steepest.apps._machine import cpu_name

SETTINGS = "settings.json"
CELLS = "cells.jsonl"


def _plain(data: Mapping[str, Any]) -> Record:
    """The value that JSON gives back for `data`: lists for tuples."""
    return dict(json.loads(json.dumps(data, allow_nan=False)))


def _key(cell: Record) -> str:
    return json.dumps(cell)


class Store:
    """A folder with the settings of an experiment and a line for each cell that is finished.

    A line that a kill has cut off is left out, and its cell is measured again.

    Args:
        folder: made if it is missing.
        name: the name of the reproduction.
        settings: the settings of the experiment.
        fixed: those that may not change while the folder is in use.

    Raises:
        ValueError: the folder holds something else, or was started with other settings.
        OSError: it cannot be read or written.
    """

    def __init__(
        self, folder: Path, *, name: str, settings: Mapping[str, Any], fixed: Mapping[str, Any]
    ) -> None:
        self._path = folder / CELLS
        self._accept(folder, {"reproduction": name, "settings": _plain(settings)}, set(fixed))
        self._results: dict[str, Record] = {
            _key(line["cell"]): line["result"]
            for line in read_lines(self._path)
            if isinstance(line.get("cell"), dict) and isinstance(line.get("result"), dict)
        }
        lines = [{"cell": json.loads(k), "result": v} for k, v in self._results.items()]
        write_atomic(self._path, b"".join(map(json_line, lines)))

    def _accept(self, folder: Path, wanted: Record, fixed: set[str]) -> None:
        """Check the settings of a folder that is in use, write those of a new one."""
        path = folder / SETTINGS
        if folder.exists() and not (folder.is_dir() and is_empty(folder)):
            try:
                known = read_json(path)
                found = {k: known[k] for k in wanted}
                chosen = {k: v for k, v in wanted["settings"].items() if k not in fixed}
                found["settings"] = {**found["settings"], **chosen}
                current = {**known, **found}
            except (OSError, ValueError, KeyError, TypeError):
                remedy = "holds something else; give another folder with --out"
                raise invalid("out", str(folder), remedy) from None
            if found != wanted:
                remedy = (
                    f"was started as {_difference(found, wanted)}; give another folder with --out"
                )
                raise invalid("out", str(folder), remedy)
            if current != known:
                write_json(path, current)
            return
        folder.mkdir(parents=True, exist_ok=True)
        machine = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "platform": platform.platform(),
            "processor": cpu_name(),
        }
        write_json(path, {**wanted, "machine": machine})

    def get(self, cell: Record) -> Record | None:
        """The result of a cell; None if it is not finished."""
        return self._results.get(_key(cell))

    def add(self, cell: Record, result: Record) -> None:
        """Keep a finished cell; it is on the disk when this returns.

        Raises:
            OSError: the disk is full.
        """
        with naming(self._path), open_append(self._path) as file:
            file.write(json_line({"cell": cell, "result": result}))
            file.flush()
            os.fsync(file.fileno())
        self._results[_key(cell)] = _plain(result)


def _difference(found: Record, wanted: Record) -> str:
    """The first thing in which two descriptions differ, as `steps=100, not 20`."""
    if found["reproduction"] != wanted["reproduction"]:
        return f"{found['reproduction']}, not {wanted['reproduction']}"
    old, new = found["settings"], wanted["settings"]
    name = next(k for k in {**old, **new} if old.get(k) != new.get(k))
    return f"{name}={old.get(name)!r}, not {new.get(name)!r}"
