"""Files that a crash cannot leave half written, and that are what they seem to be.

What is written replaces its place: of a link there, or of one more name of the same file, the
target is left alone. What is read is a regular file, so that nothing waits for a FIFO or a device.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

Record = dict[str, Any]
"""A line of a file of records: numbers and texts by name."""

# Ours, far above what a run writes: a file of a stranger is refused before it fills the memory.
MOST = 2**30
"""The most bytes of a file that is read as a whole."""
LONGEST = 2**26
"""The most bytes of JSON: of a file, or of a line of records."""

# Windows has neither.
NEVER_A_LINK: int = getattr(os, "O_NOFOLLOW", 0)
NEVER_WAIT: int = getattr(os, "O_NONBLOCK", 0)
BINARY: int = getattr(os, "O_BINARY", 0)

# Windows has none.
fcntl: ModuleType | None = import_module("fcntl") if find_spec("fcntl") else None
LOCKS = fcntl is not None


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name a path in an error of the block that names none, as those of reads and writes do not.

    Raises:
        OSError: the error, with the path.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


class _NamedFile(io.FileIO):
    """A file of which every error has the name, and not only that of opening it."""

    def __init__(self, path: Path, handle: int, mode: str) -> None:
        super().__init__(handle, mode)
        self._path = path

    def readinto(self, buffer: Any) -> Any:
        with naming(self._path):
            return super().readinto(buffer)

    def readall(self) -> Any:
        with naming(self._path):
            return super().readall()

    def write(self, data: Any) -> Any:
        with naming(self._path):
            return super().write(data)


def lock(handle: int, *, wait: bool) -> bool:
    """Lock a file until it is closed; False where another process has it.

    Raises:
        OSError: nobody can: the system, or the file system, has no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_atomic(path: Path, content: bytes) -> None:
    """Write `path` so that at every moment it holds its old content or all of the new.

    Raises:
        OSError: the disk is full or the folder cannot be written; `path` is as it was.
    """
    _remove_leftovers(path)
    try:
        temporary, file = _temporary(path)
        try:
            with file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                if LOCKS:  # as long as it is locked, no one takes it for a leftover
                    temporary.replace(path)
            if not LOCKS:
                temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        # A failed write names no file by itself, and the user needs to know which disk is full.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    sync_folder(path.parent)


def _prefix(path: Path) -> str:
    """The begin of the names of temporary files for a path; long names have to leave room."""
    return f".{path.name[:40]}."


def _temporary(path: Path) -> tuple[Path, BinaryIO]:
    """A new file beside a path, with a name that nobody could have planted, locked."""
    while True:
        temporary = path.with_name(f"{_prefix(path)}{secrets.token_hex(8)}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NEVER_A_LINK | BINARY
        handle = os.open(temporary, flags, 0o666)
        with suppress(OSError):  # without locks, what a kill leaves here stays
            lock(handle, wait=True)
        if os.fstat(handle).st_nlink:
            return temporary, os.fdopen(handle, "wb")
        os.close(handle)  # another process has removed it, before it was locked


def _remove_leftovers(path: Path) -> None:
    """Remove what kills have left of earlier files for a path; what is being written is locked."""
    left = re.compile(re.escape(_prefix(path)) + r"[0-9a-f]{16}\.tmp")
    with suppress(OSError):
        for entry in list(os.scandir(path.parent)):
            if left.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):
                    handle = os.open(entry.path, os.O_RDONLY | NEVER_A_LINK | NEVER_WAIT | BINARY)
                    try:
                        if lock(handle, wait=False):
                            Path(entry.path).unlink()
                    finally:
                        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut, where the system can sync a folder."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        OSError: it cannot be read, or is a folder, a FIFO, a socket or a device.
    """
    _accept(path, path.stat().st_mode)  # first, since opening a device may do something
    handle = os.open(path, os.O_RDONLY | NEVER_WAIT | BINARY)
    return io.BufferedReader(_regular(path, handle, "rb"))


def open_append(path: Path) -> BinaryIO:
    """Open a regular file for writing at its end; it is made if it is missing.

    Raises:
        OSError: it cannot be written, or is a link or no regular file.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | NEVER_A_LINK | NEVER_WAIT | BINARY
    return io.BufferedWriter(_regular(path, os.open(path, flags, 0o666), "ab"))


def _regular(path: Path, handle: int, mode: str) -> _NamedFile:
    try:
        _accept(path, os.fstat(handle).st_mode)
    except OSError:
        os.close(handle)
        raise
    return _NamedFile(path, handle, mode)


def _accept(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "is no regular file", str(path))


def read_file(path: Path, *, most: int = MOST) -> bytes:
    """The content of a regular file.

    Args:
        path: the file.
        most: the most bytes that such a file can have.

    Raises:
        OSError: it cannot be read, is no regular file, or larger.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"has {size} bytes, of at most {most}", str(path))
        return file.read(size)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: it is no JSON.
        OSError: it cannot be read, is no regular file, or too large.
    """
    try:
        return json.loads(read_file(path, most=LONGEST))
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deeply") from None


def new_folder(path: Path) -> None:
    """Make an empty folder in the place of whatever is there; a link is removed, not followed.

    Raises:
        OSError: it cannot be made.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)
    path.mkdir(parents=True)


def refuse_links(root: Path, *folders: Path) -> None:
    """Raise if on the way from a folder down to one of these there is a link.

    Raises:
        OSError: there is one; files would be written, or removed, somewhere else.
    """
    for folder in folders:
        for part in (folder, *folder.parents):
            if part == root:
                break
            if part.is_symlink():
                raise OSError(errno.ELOOP, "is a link; put a folder in its place", str(part))


def write_json(path: Path, data: Any) -> None:
    """Write indented JSON atomically."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    # Names of files may hold halves of a character, which JSON has as escapes.
    write_atomic(path, f"{text}\n".encode(errors="backslashreplace"))


def json_line(record: Record) -> bytes:
    """A record as one line of a JSONL file."""
    return f"{json.dumps(record, allow_nan=False)}\n".encode()


def read_lines(path: Path) -> Iterator[Record]:
    """The records of a JSONL file up to the first line that is cut off; none without the file.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    if not path.exists():
        return
    with open_file(path) as file:
        while line := file.readline(LONGEST):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                return
            if not line.endswith(b"\n") or not isinstance(record, dict):
                return
            yield record
