"""Checkpoints of several processes: each writes what it holds, and any number read it again.

A checkpoint is a folder. Its tensors are in the format of torch.distributed.checkpoint (DCP), which
brings every process the parts that it needs, however many there were. All else is in one file: the
same tree of plain data with an empty tensor, on the meta device, in the place of each tensor.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.tensor import DTensor, distribute_tensor

from steepest._common.errors import invalid
from steepest._common.files import new_folder, open_file, read_file
from steepest.apps.train.parallel.contents import read_contents
from steepest.apps.train.parallel.team import Team, is_lost
from steepest.apps.train.plain import mapped, tensors

METADATA = ".metadata"  # the name that DCP gives to its table of contents

Like = Callable[[str], Tensor | None]
"""The parameter that a tensor of a checkpoint belongs to, by its place in the tree."""


def frame(tree: Any) -> Any:
    """The tree with tensors that have a shape and a type and no content."""
    return mapped(tree, lambda _, x: torch.empty(x.shape, dtype=x.dtype, device="meta"))


def placed(tree: Any, like: Like) -> Any:
    """A tree of whole tensors, cut as the parameters are that they belong to."""

    def cut(place: str, whole: Tensor) -> Tensor:
        parameter = like(place)
        if not isinstance(parameter, DTensor) or parameter.shape != whole.shape:
            return whole
        mesh, placements = parameter.device_mesh, parameter.placements
        return distribute_tensor(whole, mesh, placements, src_data_rank=None)

    return mapped(tree, cut)


def _room(place: str, shape: Tensor, like: Like) -> Tensor:
    """A tensor for DCP to read into: cut as its parameter, or whole and on the host."""
    parameter = like(place)
    if isinstance(parameter, DTensor) and parameter.shape == shape.shape:
        return torch.zeros_like(parameter, dtype=shape.dtype, requires_grad=False)
    return torch.zeros(shape.shape, dtype=shape.dtype)


def write(folder: Path, tree: Any, team: Team) -> dict[str, str]:
    """Write the tensors of a tree into a folder that no process has begun to fill.

    Returns:
        The fingerprint of each file.

    Raises:
        OSError: a process could not write.
    """
    team.first(lambda: new_folder(folder))
    try:
        with _as_one_process_would(folder):
            state_dict_saver.save(
                tensors(tree),
                storage_writer=FileSystemWriter(folder),
                no_dist=team.mesh is None,
            )
    except (OSError, RuntimeError) as error:
        if is_lost(error):
            raise
        if team.leads:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise
        # torch's C++ writer says with this type that a file does not grow.
        said = str(error).splitlines()[0]
        raise OSError(errno.EIO, f"could not be written ({said})", str(folder)) from None
    names = team.first(lambda: sorted(p.name for p in folder.iterdir()))
    mine = names[team.rank :: team.size]
    own = team.agreed(lambda: {name: fingerprint(folder / name) for name in mine})
    return {name: mark for marks in team.gathered(own) for name, mark in marks.items()}


def read(folder: Path, empty: Any, marks: Mapping[str, str], *, like: Like, team: Team) -> Any:
    """The tree that `write` got, cut for this process.

    Args:
        folder: the folder with the tensors.
        empty: the `frame` of the tree.
        marks: the fingerprints of the files.
        like: the function that says how each tensor is cut.
        team: all its processes call this.

    Raises:
        ValueError: a file has changed or is missing, or the table of contents is none.
        OSError: a file cannot be read.
    """
    mine = sorted(marks.items())[team.rank :: team.size]

    def check() -> None:
        if METADATA not in marks:
            raise invalid("checkpoint", str(folder / METADATA), "is damaged")
        for name, mark in mine:
            path = folder / name
            # Only what is directly in it: a name may be a way to somewhere else.
            if Path(name).name != name or not path.is_file() or fingerprint(path) != mark:
                raise invalid("checkpoint", str(path), "is damaged")

    team.agreed(check)
    reader = _Reader(folder, set(marks) - {METADATA}, tensors(empty))
    # DCP would read it as well, and of what is wrong there it prints a traceback.
    team.agreed(reader.read_metadata)
    tree = mapped(empty, lambda place, shape: _room(place, shape, like))
    with _as_one_process_would(folder):
        state_dict_loader.load(
            tensors(tree),
            storage_reader=reader,
            no_dist=team.mesh is None,
        )
    return tree


def fingerprint(path: Path) -> str:
    """A fingerprint of a file's content."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()  # type: ignore[arg-type]


@contextmanager
def _as_one_process_would(folder: Path) -> Iterator[None]:
    """DCP gathers the errors of all processes; raise the first. Quiet, where it warns of itself."""
    try:
        with warnings.catch_warnings():
            # Where there is no group; and of its own code, in torch 2.10.
            for message in ("torch.distributed is disabled", "TypedStorage is deprecated"):
                warnings.filterwarnings("ignore", message, UserWarning, r"torch\.")
            yield
    except CheckpointException as error:
        first, _ = next(iter(error.failures.values()))
        if isinstance(first, OSError):
            raise OSError(first.errno, first.strerror or str(first), str(folder)) from None
        raise first from None


class _RegularFiles(FileSystem):
    """The files that a checkpoint is read from: none that would wait, as a FIFO does."""

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Iterator[BinaryIO]:  # type: ignore[override]
        with open_file(Path(path)) as stream:
            yield stream


class _Reader(FileSystemReader):
    """DCP's reader, which unpickles its table of contents; here that is read as data.

    Args:
        folder: the folder of the checkpoint.
        names: the names of the files with tensors.
        wanted: the tensors that it holds, of which shape and type count.

    Raises:
        ValueError: the table of contents is none, or not of these tensors in these files.
    """

    def __init__(self, folder: Path, names: Collection[str], wanted: Mapping[str, Tensor]) -> None:
        super().__init__(folder)
        self.fs = _RegularFiles()
        self._folder, self._names, self._wanted = folder, names, wanted
        self._contents: Metadata | None = None

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        if self._contents is None:
            try:
                self._contents = read_contents(
                    read_file(self._folder / METADATA),
                    files={name: (self._folder / name).stat().st_size for name in self._names},
                    tensors=self._wanted,
                )
            except ValueError as error:
                raise invalid("checkpoint", str(self._folder), str(error)) from None
        return self._contents
