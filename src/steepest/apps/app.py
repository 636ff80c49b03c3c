"""The commands of `steepest` as one application, each imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from steepest.apps._command import Command, UsageError, describe, one_line
from steepest.apps._flags import close
from steepest.apps._interrupt import imports
from steepest.apps._terminal import USAGE

# The first line of each command's docstring, which a test compares: a list of commands imports
# none of them.
COMMANDS = {
    "train": "Train a character GPT with each optimizer and compare them.",
    "compare": "Compare all optimizers, each tuned with one budget; the same command goes on.",
    "reproduce": "Measure published claims again; the same command goes on after an interruption.",
    "gallery": "Draw norms, their duals and their duality maps as pictures.",
    "diagnose": "Show what is wrong with a run and what to change, or compare two runs, on one "
    "page.",
    "bench": "Time polar methods and optimizer steps on the matrices of real models, with their "
    "errors.",
    "eject": "Write an optimizer as one file that needs torch alone, to read, to edit and to keep.",
    "plan": "Predict what Muon and AdamW cost on many devices, and which mesh to take.",
}

# Rich's markup would turn `operator:A:B` into an emoji, and leave out what stands in brackets.
PLAIN: dict[str, Any] = {"pretty_exceptions_enable": False, "rich_markup_mode": None}


def command_of(name: str) -> Any:
    """Import a command: the function of its name in `command.py` of the folder of its name.

    `EXAMPLES` beside it are shown below its flags, and `LOWER` where memory runs out.
    """
    module = import_module(f"steepest.apps.{name}.command")
    function = getattr(module, name)
    alone = typer.Typer(add_completion=False, **PLAIN)
    alone.command(name=name, cls=Command)(function)
    command: Any = get_command(alone)
    command.examples = getattr(module, "EXAMPLES", ())
    command.lower = getattr(module, "LOWER", "")
    describe(command, function)
    return command


class Commands(TyperGroup):
    """A group whose commands are imported one by one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands.update(dict.fromkeys(COMMANDS))  # type: ignore[arg-type]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name, None if there is none."""
        name = cmd_name.lower()
        if name in COMMANDS and self.commands[name] is None:
            with imports():
                self.commands[name] = command_of(name)
        return self.commands.get(name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command, or say which one was probably meant."""
        if not args[0].startswith("-") and args[0].lower() not in COMMANDS:
            near = close(args[0], COMMANDS)
            known = f"did you mean {near}? " if near else ""
            raise UsageError(f"{args[0]}: {known}There are the commands {', '.join(COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what stands before the command; the help if nothing stands there."""
        with one_line(ctx):
            if not args and not ctx.resilient_parsing:
                typer.echo(ctx.get_help(), err=True)
                raise typer.Exit(USAGE)
            rest: list[str] = super().parse_args(ctx, args)
            return rest

    def invoke(self, ctx: Any) -> Any:
        """Import the command, read its flags, and carry it out."""
        with one_line(ctx):
            return super().invoke(ctx)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write names and sentences without importing a command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(cls=Commands, context_settings={"max_content_width": 100}, **PLAIN)


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
