"""The commands of `steepest` as one application."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from steepest.apps.bench.command import bench
from steepest.apps.diagnose.command import diagnose
from steepest.apps.gallery.command import gallery
from steepest.apps.plan.command import plan
from steepest.apps.reproduce.command import reproduce
from steepest.apps.train.command import train

# Rich's markup would turn `operator:A:B` into an emoji, and leave out what stands in brackets.
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 100},
)


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


for command in (train, reproduce, gallery, diagnose, bench, plan):
    # What is not given as short is cut off after a line.
    app.command(short_help=(command.__doc__ or "").partition("\n")[0])(command)
