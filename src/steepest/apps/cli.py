"""The command line. Every subject brings its own commands; this file puts them together."""

from __future__ import annotations

import sys
from importlib.util import find_spec

NEEDED = ("typer", "rich", "jinja2", "matplotlib", "tensorboard")
MISSING, INTERRUPTED = 2, 130


def main() -> None:
    """Run `steepest`; without the packages of the extra `train`, say in one line how to get them.

    Raises:
        SystemExit: with the exit code of the command.
    """
    try:
        _main()
    except KeyboardInterrupt:
        # Later ones are the commands' own; this one has come while modules were imported.
        raise SystemExit(INTERRUPTED) from None


def _main() -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"steepest: error: the command line needs {', '.join(missing)}; "
            f"pip install {' '.join(missing)}, or in a checkout: pip install '.[train]'",
            file=sys.stderr,
        )
        raise SystemExit(MISSING)
    # Only here, because these modules import the packages that have just been looked for.
    from steepest.apps.app import app

    app(prog_name="steepest")
