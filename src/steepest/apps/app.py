"""The commands of `steepest` as one application, each imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

# The first line of each command's docstring, which a test compares: importing a command imports
# torch, and a list of commands needs none.
COMMANDS = {
    "train": "Train a character GPT with each optimizer and compare them.",
    "reproduce": "Measure published claims again; the same command goes on after an interruption.",
    "gallery": "Draw norms, their duals and their duality maps as pictures.",
    "diagnose": "Show what a training has done: spectra, ranks, sharpness, activations, in one "
    "page.",
    "bench": "Time polar methods and optimizer steps on the matrices of real models, with their "
    "errors.",
    "plan": "Predict what Muon and AdamW cost on many devices, and which mesh to take.",
}

# Rich's markup would turn `operator:A:B` into an emoji, and leave out what stands in brackets.
PLAIN: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
}


def command_of(name: str) -> Any:
    """Import a command: the function of its name in `command.py` of the folder of its name."""
    alone = typer.Typer(**PLAIN)
    alone.command()(getattr(import_module(f"steepest.apps.{name}.command"), name))
    return get_command(alone)


class Commands(TyperGroup):
    """A group whose commands are imported one by one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands.update(dict.fromkeys(COMMANDS))  # type: ignore[arg-type]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name, None if there is none."""
        if cmd_name in COMMANDS and self.commands[cmd_name] is None:
            self.commands[cmd_name] = command_of(cmd_name)
        return self.commands.get(cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write names and sentences without importing a command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(
    cls=Commands, no_args_is_help=True, context_settings={"max_content_width": 100}, **PLAIN
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
