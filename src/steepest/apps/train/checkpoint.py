"""Checkpoints: written whole or not at all, and read back with care."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steepest._common.archives import whole_archive
from steepest._common.errors import invalid
from steepest._common.files import open_file, sync_folder, write_atomic
from steepest.apps.train.parallel.team import SINGLE, Team, is_lost
from steepest.apps.train.plain import check_plain


class AnotherRunError(ValueError):
    """A checkpoint is whole, and that of another run, or of another version of steepest."""

    difference = ""


KEEP = 2
BELONGS = "belongs"
WHOLE, SHARDED = ".pt", ".dcp"
"""One process writes a file, a team a folder; either reads both."""
STATE = "state.pt"  # of such a folder: all but the tensors
REMEDY = (
    "is cut off, damaged or no checkpoint of steepest; move it away and resume: "
    "the run goes on from the checkpoint before it, or from its start"
)


def checkpoint_path(folder: Path, step: int, kind: str = WHOLE) -> Path:
    """The path of the checkpoint after `step` steps."""
    return folder / f"step-{step:06d}{kind}"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the newest last."""
    found = [p for kind in (WHOLE, SHARDED) for p in folder.glob(f"step-*{kind}")]
    return sorted(found, key=lambda p: (len(p.stem), p.stem))


def save(
    folder: Path,
    step: int,
    content: Mapping[str, Any],
    *,
    belongs: Mapping[str, Any],
    team: Team = SINGLE,
) -> Path:
    """Write a checkpoint, then drop all but the newest two.

    Args:
        folder: the folder of the trial.
        step: the steps taken.
        content: plain data and tensors.
        belongs: the values that tell this trial from others; `load` compares it.
        team: the processes that hold the tensors; all of them call this.

    Raises:
        OSError: it could not be written; the older ones are still there.
    """
    path = checkpoint_path(folder, step, WHOLE if team.mesh is None else SHARDED)
    if team.mesh is None:
        write_atomic(path, _packed({**content, BELONGS: dict(belongs)}))
    else:
        _save_shards(path, content, belongs, team)
    team.first(lambda: _drop(checkpoints(folder)[:-KEEP]))
    return path


def _packed(content: Mapping[str, Any]) -> bytes:
    # torch.save into a file that cannot grow ends in a RuntimeError of its C++ writer, or worse;
    # a buffer leaves the only writes that can fail to Python.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _save_shards(
    path: Path, content: Mapping[str, Any], belongs: Mapping[str, Any], team: Team
) -> None:
    """Fill a hidden folder; when all of it is on the disk, it gets its name."""
    from steepest.apps.train.parallel import sharded_checkpoint

    temporary = path.with_name(f".{path.name}.tmp")
    files = sharded_checkpoint.write(temporary, content, team)

    def finish() -> None:
        tree = sharded_checkpoint.frame(content)
        packed = _packed({"tree": tree, "files": files, BELONGS: dict(belongs)})
        write_atomic(temporary / STATE, packed)
        _drop([path] if os.path.lexists(path) else [])
        temporary.rename(path)
        sync_folder(path.parent)

    team.first(finish)


def _drop(old: Sequence[Path]) -> None:
    """Remove checkpoints; what a kill leaves of one has lost its name before."""
    for path in old:
        if path.is_dir() and not path.is_symlink():
            for left in path.parent.glob(".step-*.old"):
                shutil.rmtree(left, ignore_errors=True)
            shutil.rmtree(path.rename(path.with_name(f".{path.name}.old")))
        else:
            path.unlink(missing_ok=True)


def load(
    path: Path,
    *,
    device: str,
    belongs: Mapping[str, Any],
    like: Callable[[str], Tensor | None] = lambda _: None,
    team: Team = SINGLE,
) -> dict[str, Any]:
    """Read a checkpoint and make sure that it belongs to this run.

    Args:
        path: the path that `save` wrote.
        device: the device for the tensors of a file; those of a folder stay on the host.
        belongs: the values that the checkpoint must have been saved with.
        like: the parameter that a tensor belongs to, by its place; where that is in pieces, the
            tensor is cut in the same way.
        team: the processes that are to have it; all of them call this.

    Raises:
        AnotherRunError: it is that of another run; it is left alone.
        ValueError: it is cut off, or no checkpoint; it is left alone.
    """
    with readable(path):
        content = _read(path, device)
        stored = dict(content.pop(BELONGS))
    _compare(path, stored, belongs)
    if path.is_file() and team.mesh is None:
        return content
    from steepest.apps.train.parallel import sharded_checkpoint

    with readable(path):
        if path.is_dir():
            tree, files = content["tree"], content["files"]
            return dict(sharded_checkpoint.read(path, tree, files, like=like, team=team))
        return dict(sharded_checkpoint.placed(content, like))


@contextmanager
def readable(path: Path, remedy: str = REMEDY) -> Iterator[None]:
    """Take whatever goes wrong in the block for damage to the checkpoint that it reads.

    Args:
        path: the checkpoint.
        remedy: the rest of the message.

    Raises:
        ValueError: something was wrong.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # zipfile, pickle and torch raise nearly anything for a damaged file
        if is_lost(error):
            raise
        raise invalid("checkpoint", str(path), remedy) from None


def _compare(path: Path, stored: Mapping[str, Any], belongs: Mapping[str, Any]) -> None:
    """Raise unless a checkpoint was saved with all of `belongs`.

    Raises:
        AnotherRunError: it was not.
    """
    for key, here in belongs.items():
        there = stored.get(key)
        if there != here:
            raise another_run(path, f"{key} {_text(there)} there, {_text(here)} here")


def another_run(path: Path, difference: str) -> AnotherRunError:
    """An error that says in what a checkpoint does not fit."""
    remedy = (
        f"belongs to another run ({difference}); put back the file of this run, or move it away "
        "and resume"
    )
    error = AnotherRunError(*invalid("checkpoint", str(path), remedy).args)
    error.difference = difference
    return error


def identity(path: Path) -> dict[str, Any]:
    """The identity of a checkpoint: the `belongs` that it was saved with.

    Raises:
        ValueError: the file is cut off, or no checkpoint.
        OSError: it cannot be read.
    """
    remedy = "is cut off, damaged or no checkpoint of steepest; give a step-*.pt of a run"
    with readable(path, remedy):
        return dict(_read(path, "cpu")[BELONGS])


def _read(path: Path, device: str) -> dict[str, Any]:
    """The content of an undamaged file, or what a folder has beside its tensors.

    Raises:
        Exception: of any kind, for a damaged file.
    """
    if sharded := path.is_dir():
        path, device = path / STATE, "cpu"
    with open_file(path) as file:
        # torch writes checksums into its zip files, and reads over them.
        whole_archive(file)
        file.seek(0)
        content = torch.load(file, map_location=device, weights_only=True)
    check_plain(content, empty=sharded)
    return dict(content)


def _text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:100]}…"
