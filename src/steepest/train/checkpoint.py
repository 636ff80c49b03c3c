"""Checkpoints: written whole or not at all, and read back with care."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from steepest._files import write_atomic
from steepest._types import invalid

KEEP = 2
BELONGS = "belongs"


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies."""
    return folder / f"step-{step:06d}.pt"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the newest last."""
    return sorted(folder.glob("step-*.pt"), key=lambda p: (len(p.name), p.name))


def save(
    folder: Path, step: int, content: Mapping[str, Any], *, belongs: Mapping[str, Any]
) -> Path:
    """Write a checkpoint, then drop all but the newest two.

    Args:
        folder: of the trial.
        step: the steps taken.
        content: plain data and tensors.
        belongs: what tells this trial from others; `load` compares it.

    Raises:
        OSError: it could not be written; the older ones are still there.
    """
    # torch.save into a file that cannot grow ends in a RuntimeError of its C++ writer, or worse;
    # a buffer leaves the only writes that can fail to Python.
    buffer = io.BytesIO()
    torch.save({**content, BELONGS: dict(belongs)}, buffer)
    path = checkpoint_path(folder, step)
    write_atomic(path, buffer.getvalue())
    for old in checkpoints(folder)[:-KEEP]:
        old.unlink(missing_ok=True)
    return path


def load(path: Path, *, device: str, belongs: Mapping[str, Any]) -> dict[str, Any]:
    """Read a checkpoint and make sure that it belongs to this run.

    Args:
        path: a file that `save` wrote.
        device: where its tensors go.
        belongs: what the checkpoint must have been saved with.

    Raises:
        ValueError: the file is cut off, no checkpoint, or that of another run; it is left alone.
    """
    try:
        content = _read(path, device)
        stored = dict(content.pop(BELONGS))
    except OSError:
        raise
    except Exception:  # a damaged file can make zipfile, pickle and torch raise nearly anything
        raise invalid(
            "checkpoint",
            str(path),
            "is cut off, damaged or no checkpoint of steepest; move it away and resume: "
            "the run goes on from the checkpoint before it, or from its start",
        ) from None
    for key, here in belongs.items():
        there = stored.get(key)
        if there != here:
            raise invalid(
                "checkpoint",
                str(path),
                f"belongs to another run ({key} {_text(there)} there, {_text(here)} here); "
                "put back the file of this run, or move it away and resume",
            )
    return content


def identity(path: Path) -> dict[str, Any]:
    """What a checkpoint says it belongs to: the `belongs` that it was saved with.

    Raises:
        ValueError: the file is cut off, or no checkpoint.
        OSError: it cannot be read.
    """
    try:
        return dict(_read(path, "cpu")[BELONGS])
    except OSError:
        raise
    except Exception:  # as in `load`
        raise invalid(
            "checkpoint",
            str(path),
            "is cut off, damaged or no checkpoint of steepest; give a step-*.pt of a run",
        ) from None


def _read(path: Path, device: str) -> dict[str, Any]:
    """The content of an undamaged checkpoint; an exception of any kind for another file."""
    # torch writes checksums into its zip files, and reads over them.
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(damaged)
    return dict(torch.load(path, map_location=device, weights_only=True))


def _text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:100]}…"
