"""Folders that one process at a time works in, and paths as a user writes them."""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from steepest._common.errors import invalid
from steepest._common.files import NEVER_A_LINK, lock, naming, open_file
from steepest._common.text import printable

LOCK = ".lock"
"""The file in a folder that is locked while a process works there."""

CIRCLE = "its symbolic links lead in a circle; give another path"
OTHER_FOLDER = "give another folder, or wait until it has ended"
# What the system says where it has no locks: some network file systems.
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
PAUSE = 0.1
LONGEST = 512
"""Bytes of a lock that are read: a number and the name of a host."""


def is_empty(folder: Path) -> bool:
    """Whether a folder has nothing in it; a lock that a kill has left does not count."""
    return all(path.name == LOCK for path in folder.iterdir())


def is_special(path: Path) -> bool:
    """Whether something other than a file or a folder is there: a pipe, a device or a socket.

    Reading it may never end, and what is written in its place would remove it.
    """
    return path.exists() and not path.is_file() and not path.is_dir()


def given_path(text: str, *, argument: str) -> Path:
    """The path that a user means, with `~` followed, and otherwise as it was written.

    Raises:
        ValueError: `~` is that of nobody, or symbolic links lead in a circle.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        user = text.partition("/")[0][1:]
        wrong = f"there is no user {user}" if user else "nothing says which folder ~ is"
        raise invalid(argument, text, f"{wrong}; write the path out") from None
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise invalid(argument, text, CIRCLE) from None
    return path


def user_path(text: str, *, argument: str) -> Path:
    """The absolute path that a user means, with `~` and symbolic links followed.

    Raises:
        ValueError: `~` is that of nobody, or the links lead in a circle.
    """
    try:
        return given_path(text, argument=argument).resolve()
    except (RuntimeError, OSError):  # Python before 3.13 says the first of a circle
        raise invalid(argument, text, CIRCLE) from None


@contextmanager
def held(
    folder: Path,
    *,
    argument: str = "out",
    remedy: str = OTHER_FOLDER,
    new: bool = False,
    patience: float = 0.0,
) -> Iterator[None]:
    """Work in a folder, which is made if it is missing, and keep other processes out of it.

    The lock ends with the process, however that ends. A folder that was made here and in which
    nothing has been put is removed again.

    Args:
        folder: the folder.
        argument: the argument that it was given as, for the message.
        remedy: the advice where another process is at work.
        new: whether to make the folder, and to refuse one that exists.
        patience: seconds to wait for another process to end.

    Raises:
        FileExistsError: `new`, and it exists.
        ValueError: another process is at work in it, or a file is in its place.
        OSError: it cannot be made or written.
    """
    made = _make(folder, argument, new=new)
    try:
        with _locked(folder, argument, remedy, patience):
            yield
    finally:
        if made:
            with suppress(OSError):  # as soon as something is in it
                folder.rmdir()


def _make(folder: Path, argument: str, *, new: bool) -> bool:
    """Make a folder; False if it was there."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        if new:
            raise
        if not folder.is_dir():
            remedy = "a file of that name exists; give a folder"
            raise invalid(argument, str(folder), remedy) from None
        return False
    return True


@contextmanager
def _locked(folder: Path, argument: str, remedy: str, patience: float) -> Iterator[None]:
    path, end, handle = folder / LOCK, time.monotonic() + patience, None
    try:
        while (handle := _lock(path)) is None:
            if time.monotonic() >= end:
                raise invalid(argument, str(folder), f"{_holder(path)} is at work there; {remedy}")
            time.sleep(PAUSE)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        print(
            f"steepest: note: {printable(str(folder))} is on a file system without locks: nothing "
            "keeps a second process out of it",
            file=sys.stderr,
        )
    try:
        yield
    finally:
        if handle is not None:
            # Removed while it is locked: another that waits for it looks whether it is there.
            with suppress(OSError):
                path.unlink()
            os.close(handle)


def _lock(path: Path) -> int | None:
    """A handle that holds the lock of a file; None while another process holds it.

    Raises:
        OSError: the file cannot be made, or cannot be locked on this system.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | NEVER_A_LINK, 0o666)
        try:
            with naming(path):
                mine = lock(handle, wait=False)
        except OSError:
            os.close(handle)
            with suppress(OSError):  # no lock, so that nobody else has it
                path.unlink()
            raise
        if mine and _is_at(handle, path):
            _sign(handle)
            return handle
        os.close(handle)
        if not mine:
            return None


def _is_at(handle: int, path: Path) -> bool:
    """Whether a path still has the file that was opened there."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    return False


def _sign(handle: int) -> None:
    """Write into a lock who holds it, for the message of the other."""
    with suppress(OSError):  # a full disk
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()} {socket.gethostname()}\n".encode())


def _holder(path: Path) -> str:
    """The process that holds a lock, in words."""
    with suppress(OSError, ValueError):
        with open_file(path) as file:
            number, host = file.read(LONGEST).decode().split()
        return f"process {int(number)} on {printable(host)}"
    return "another process"
