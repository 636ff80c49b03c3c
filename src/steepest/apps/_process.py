"""A process of the command line: what its streams can print, and how it leaves a launch."""

from __future__ import annotations

import atexit
import codecs
import io
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from steepest._common.files import naming
from steepest._common.text import printable
from steepest.apps._interrupt import INTERRUPTED

PRINTABLE = "steepest.printable"
"""The name under which Python's codecs know `_printable`."""

# What tables and messages are written with; other signs of a text become a question mark.
PLAIN: Mapping[str, str] = {
    "‖": "||",
    "×": "x",
    "·": "*",
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "±": "+-",
    "≥": ">=",
    "≤": "<=",
    "→": "->",
    "²": "^2",
    "√": "sqrt",
    "σ": "sigma",
    "₁": "_1",
}

TRACEBACK = 1
UNFLUSHED = 120
"""The exit code that Python itself has for output that could not be written at its end."""


def _printable(error: UnicodeError) -> tuple[str | bytes, int]:
    """A stand-in for a character that the encoding of a stream does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character, place = error.object[error.start], error.start + 1
    if "\udc80" <= character <= "\udcff":
        # A byte of a file name that is not UTF-8, as Python keeps it: it is printed as it was.
        return bytes([ord(character) - 0xDC00]), place
    return PLAIN.get(character, "?"), place


class NamedStream:
    """A stream whose errors say that they are its own, as on a full disk.

    Args:
        stream: the stream.
        name: its name in an error.
    """

    def __init__(self, stream: io.TextIOWrapper, name: str) -> None:
        self._stream = stream
        self._name = Path(name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, as the stream does."""
        with naming(self._name):
            return self._stream.write(text)

    def flush(self) -> None:
        """Hand on what waits, as the stream does."""
        with naming(self._name):
            self._stream.flush()


def print_anything() -> None:
    """Let stdout and stderr print every text, whatever encoding they have, or say which cannot.

    A run of hours must not fail on the `‖W‖` of its last line where the terminal knows ASCII alone.
    """
    codecs.register_error(PRINTABLE, _printable)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=PRINTABLE)
            setattr(sys, name, NamedStream(stream, name))


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun, or another launcher of several processes, has started this one."""
    return {"RANK", "WORLD_SIZE"} <= environment.keys()


def leave_after(call: Callable[[], object]) -> NoReturn:
    """Carry a call out, and end the process with the exit code that Python would give it.

    Functions of `atexit` run, and all is flushed, but Python is not brought down: while it is, a
    thread of gloo may give a tensor back to it, and then ends the whole process with SIGABRT
    (https://github.com/pytorch/pytorch/pull/179291).
    """
    try:
        call()
        code = 0
    except SystemExit as error:
        code = _code(error)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = TRACEBACK
    atexit._run_exitfuncs()
    for stream in (sys.stderr, sys.stdout):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            code = code or UNFLUSHED
    os._exit(code)


def _code(error: SystemExit) -> int:
    """The exit code of `sys.exit(…)`; a text is printed, as Python does it."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(printable(str(error.code)), file=sys.stderr)
    return 1
