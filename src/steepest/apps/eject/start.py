"""Carry out `steepest eject`: choose the polar factors, put the file together, write it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import steepest
from steepest._common.errors import invalid
from steepest._common.files import naming, write_atomic
from steepest._common.text import table
from steepest.apps._console import Terminal
from steepest.apps._folder import given_path, is_special
from steepest.apps._terminal import say
from steepest.apps.eject.command import DESIGNED, DTYPES, ERROR, JORDAN
from steepest.apps.eject.render import rendered
from steepest.apps.eject.rows import IN_WORDS, ejected
from steepest.apps.eject.schedules import chosen
from steepest.optim import PRESETS

STDOUT = "-"
VERSION = f"steepest {steepest.__version__}"


def start(
    *,
    name: str | None,
    out: str | None,
    force: bool,
    error: float | None,
    dtype: str | None,
    polar: str,
) -> None:
    """Carry out `steepest eject`.

    Args:
        name: the row of the table, in lower case; None lists them.
        out: the file, "-" for stdout; None is named after the row.
        force: whether to write over a file that exists.
        error: the largest |σ − 1| of designed polar factors; None is 0.05.
        dtype: the type of polar factors; None is float32, or torch's with its own steps.
        polar: "designed" or "jordan".

    Raises:
        ValueError: an option that the row has no use for, or a file that exists.
        OSError: the file could not be written.
    """
    console = Terminal()
    if name is None:
        cells = [
            (each.lower(), IN_WORDS[ejected(each).row.direction], row.source)
            for each, row in PRESETS.items()
        ]
        shown = table(("name", "norm", "source"), cells, left={"name", "norm", "source"})
        say(console, *shown.split("\n"))
        return
    path = Path(f"{name}.py") if out is None else given_path(out, argument="out")
    if out != STDOUT and path.exists() and not force:
        raise invalid("out", str(path), "the file exists; give --force to write over it")
    if out != STDOUT and is_special(path):
        raise invalid("out", str(path), f"is a pipe or a device; give a file, or {STDOUT}")
    content = text(name, error=error, dtype=dtype, polar=polar)
    if out == STDOUT:
        # Python reads UTF-8, whatever the terminal does.
        sys.stdout.flush()
        with naming(Path("stdout")):
            sys.stdout.buffer.write(content.encode())
            sys.stdout.buffer.flush()
        return
    write_atomic(path, content.encode())
    say(console, str(path))


def text(
    name: str, *, error: float | None = None, dtype: str | None = None, polar: str = DESIGNED
) -> str:
    """The file of a row.

    Args:
        name: the row of the table, in upper or lower case.
        error: the largest |σ − 1| of designed polar factors; None is 0.05.
        dtype: the type of polar factors; None is float32, or torch's with its own steps.
        polar: "designed" or "jordan".

    Raises:
        ValueError: an option that the row has no use for.
    """
    half = (dtype or DTYPES[polar == JORDAN]) == DTYPES[1]
    one = ejected(next(row for row in PRESETS if row.lower() == name.lower()), half=half)
    options = {"error": error, "dtype": dtype, "polar": None if polar == DESIGNED else polar}
    given = {key: value for key, value in options.items() if value is not None}
    if given and not one.stacked:
        key, value = next(iter(given.items()))
        raise invalid(key, value, f"{one.name} computes no polar factors: leave it out")
    if error is not None and polar == JORDAN:
        raise invalid(
            "error", error, f"it designs the steps, and those of polar={JORDAN} are given"
        )
    steps = chosen(polar, ERROR if error is None else error)
    flags = " ".join(f"--{key} {shlex.quote(str(value))}" for key, value in given.items())
    command = f"`{f'steepest eject {name.lower()} {flags}'.rstrip()}`, {VERSION}"
    return rendered(one, steps.schedule, steps.remark, command)
