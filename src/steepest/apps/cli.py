"""The command line. Every subject brings its own commands; this file puts them together."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from steepest.apps._interrupt import INTERRUPTED, imports
from steepest.apps._process import is_launched, leave_after, print_anything

NEEDED = ("typer", "rich", "jinja2", "matplotlib", "tensorboard")
MISSING = 2


def main() -> None:
    """Run `steepest`; without the packages of the extra `train`, say in one line how to get them.

    Raises:
        SystemExit: with the exit code of the command; a process of a launcher ends with it at once.
    """
    print_anything()
    # `python -m steepest` and the installed script have this very function; whatever else calls it,
    # such as a test, is to live on.
    if is_launched() and getattr(sys.modules["__main__"], "main", None) is main:
        leave_after(_command)
    _command()


def _command() -> None:
    with imports():
        missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"steepest: error: the command line needs {', '.join(missing)}; "
            f"pip install {' '.join(missing)}, or in a checkout: pip install '.[train]'",
            file=sys.stderr,
        )
        raise SystemExit(MISSING)
    # Only here, because these modules import the packages that have just been looked for.
    with imports():
        from steepest.apps.app import app

    try:
        app(prog_name="steepest")
    except KeyboardInterrupt:  # between two places that catch it
        raise SystemExit(INTERRUPTED) from None
