"""The commands of `steepest` as one application."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from steepest.bench.command import bench
from steepest.diagnose.command import diagnose
from steepest.gallery.command import gallery
from steepest.lab.command import reproduce
from steepest.plan.command import plan
from steepest.train.command import train

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


def _version(wanted: bool) -> bool:
    if wanted:
        print(f"steepest {version('steepest')}")
        raise typer.Exit
    return wanted


@app.callback()
def steepest(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Steepest descent in the norm of your choice."""


app.command()(train)
app.command()(reproduce)
app.command()(gallery)
app.command()(diagnose)
app.command()(bench)
app.command()(plan)
