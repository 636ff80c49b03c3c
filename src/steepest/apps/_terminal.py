"""The lines that every command says in one way: errors, durations, and how to call it again."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from steepest._common.errors import invalid
from steepest._common.text import printable
from steepest.apps._interrupt import INTERRUPTED as INTERRUPTED

if TYPE_CHECKING:
    from rich.console import Console

USAGE = 2
OUT_OF_MEMORY = 3


def fail(message: object, code: int = USAGE) -> typer.Exit:
    """Say in one line on stderr what is wrong; raise the result to leave with this exit code."""
    text = printable(" ".join(str(message).split()))
    print(f"steepest: error: {text}", file=sys.stderr)
    return typer.Exit(code)


def os_text(error: OSError) -> str:
    """An error of the system with the file that it is about."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


def make_folder(out: Path) -> None:
    """Make the folder of `--out`, if it is missing.

    Raises:
        ValueError: a file is in its place.
        OSError: it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise invalid("out", str(out), "a file of that name exists; give a folder") from None


def say(console: Console, *lines: str) -> None:
    """Print lines as they are: paths and samples are not markup, and each stays one line.

    Characters that would do something to a terminal are shown as escapes, a newline among them.
    """
    for line in lines:
        console.print(printable(line), markup=False, emoji=False, highlight=False, soft_wrap=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory has run out, on the host or on a GPU.

    Examples:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
        (True, False)
    """
    # torch's allocator of the host raises a plain RuntimeError.
    words = ("out of memory", "can't allocate memory", "not enough memory")
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(w in text for w in words)
    )


def program() -> str:
    """The call of this program, as the start of a command that a user can paste."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m steepest"
    found = shutil.which(called.name)
    if found is not None and Path(found).resolve() == called.resolve():
        return called.name
    return shlex.quote(str(called))


def clock(seconds: float) -> str:
    """A duration as people read it.

    Examples:
        >>> clock(75), clock(3700)
        ('1:15', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
