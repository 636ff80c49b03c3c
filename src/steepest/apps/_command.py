"""A command as click has it: its help in groups, and one line for whatever goes wrong in it."""

from __future__ import annotations

import errno
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand

from steepest._common.errors import Refusal, refusal
from steepest.apps._flags import FLAG, Kind, RefusedValue, close
from steepest.apps._terminal import (
    INTERRUPTED,
    OUT_OF_MEMORY,
    fail,
    is_out_of_memory,
    os_text,
)

# typer may have its own click, and then none else is installed.
UsageError: Any = typer.BadParameter.__mro__[1]

WORDS: dict[type, str] = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}
"""The word for a value in the help, where a flag has no better one."""


def names_of(param: Any) -> str:
    """The name of a flag, or of an argument as the usage has it."""
    return str(param.opts[0] if param.opts[0].startswith("-") else param.metavar or param.name)


def is_argument(param: Any) -> bool:
    """Whether a value stands without a flag."""
    return bool(param.param_type_name == "argument")


def _flag_of(argument: str, params: Sequence[Any]) -> str | None:
    """The flag of an argument of Python's, None if the command has none for it."""
    wanted = "--" + argument.replace("_", "-")
    for param in params:
        own = (param.name, param.metavar) if is_argument(param) else (param.name,)
        if wanted in param.opts or argument in own:
            return names_of(param)
    return None


def shown(value: object) -> str:
    """A value as it is written on a command line.

    Examples:
        >>> shown(0.5), shown("a b"), shown(None)
        ('0.5', "'a b'", '')
    """
    if value is None or isinstance(value, bool):
        return ""
    return shlex.quote(value) if isinstance(value, str) else str(value)


def worded(found: Refusal, params: Sequence[Any]) -> str:
    """A refusal of Python's with flags in the place of arguments: `--eval-every 0: …`."""
    flag = _flag_of(found.argument, params)
    values = found.value if isinstance(found.value, list | tuple) else [found.value]
    # A value without a flag stands for itself.
    name = "" if flag == found.argument else flag or found.argument
    given = " ".join(f"{name} {shown(v)}".strip() for v in values)

    def named(match: re.Match[str]) -> str:
        other = _flag_of(match[1], params)
        return f"{other} {match[2]}" if other else match[0]

    remedy = re.sub(r"(?<![\w-])([a-z_]+)=([^\s,;]+)", named, found.remedy)
    return f"{given or flag}: {remedy.replace(FLAG, flag or found.argument)}"


def usage(error: Any, ctx: Any) -> str:
    """The fault of a call of the command of this context, before it has begun."""
    ctx, param = error.ctx or ctx, getattr(error, "param", None)
    params = ctx.command.get_params(ctx)
    if isinstance(error, RefusedValue) and param is not None:
        name = names_of(param)
        given = shown(error.value) if is_argument(param) else f"{name} {shown(error.value)}"
        return f"{given}: {error.remedy.replace(FLAG, name)}"
    if hasattr(error, "possibilities"):
        flags = [o for p in params for o in (*p.opts, *p.secondary_opts) if o.startswith("--")]
        near = close(error.option_name, flags)
        known = f"; did you mean {near}?" if near else ""
        return f"{error.option_name}: there is no such flag{known} ({_help(ctx)} lists all)"
    text = error.format_message().rstrip(".")
    if hasattr(error, "option_name"):
        return f"{error.option_name}: give it a value ({_help(ctx)})"
    if param is not None:
        return f"{names_of(param)}: {error.message or 'is missing'} ({_help(ctx)})"
    return f"{text[:1].lower()}{text[1:]} ({_help(ctx)})"


def _help(ctx: Any) -> str:
    return f"{ctx.command_path} --help"


def interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error, such as one out of an import that it has cut short."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def one_line(ctx: Any, *, lower: str = "") -> Iterator[None]:
    """Say in one line what goes wrong in the block, and leave with the exit code for it.

    Args:
        ctx: click's context of the command.
        lower: the flags that make the command need less memory.

    Raises:
        typer.Exit: something was wrong.
    """
    try:
        yield
    except typer.Exit:
        raise
    except UsageError as error:
        raise fail(usage(error, ctx)) from None
    except KeyboardInterrupt:
        raise fail("stopped", INTERRUPTED) from None
    except Exception as error:
        if interrupted(error):
            raise fail("stopped", INTERRUPTED) from None
        if is_out_of_memory(error):
            kept = f"; {error}" if isinstance(error, MemoryError) and str(error) else ""
            advice = (f"; lower {lower}" if lower else "") + kept
            raise fail(f"out of memory{advice}", OUT_OF_MEMORY) from None
        if isinstance(error, OSError) and error.errno != errno.EPIPE:
            raise fail(os_text(error)) from None
        if isinstance(error, ValueError):
            found = refusal(error)
            text = str(error) if found is None else worded(found, ctx.command.get_params(ctx))
            raise fail(text) from None
        raise


class Command(TyperCommand):
    """A command whose flags stand in groups, with examples below them."""

    lower = ""
    examples: Sequence[tuple[str, str]] = ()
    kinds: Mapping[str, Kind] = {}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; words that no argument takes are refused by name."""
        ctx.allow_extra_args = True
        with one_line(ctx):
            rest: list[str] = super().parse_args(ctx, args)
            if rest and not ctx.resilient_parsing:
                raise UsageError(self._superfluous(rest[0]), ctx)
            return rest

    def _superfluous(self, word: str) -> str:
        """Say how to write a word that has no flag."""
        for param in self.params:
            kind = self.kinds.get(param.name)
            if kind is not None and word.lower() in kind.names:
                return f"{word}: write {names_of(param)} {word.lower()}"
        return f"{word}: {self.name} takes no such argument; each value follows its flag"

    def invoke(self, ctx: Any) -> Any:
        """Carry the command out."""
        with one_line(ctx, lower=self.lower):
            return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the flags, a section for each group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                names, text = record
                if is_argument(param):
                    names = names_of(param)
                said = getattr(param, "show_default", None)
                if isinstance(said, str):
                    # typer puts what is said of a default into parentheses.
                    text = text.replace(f"[default: ({said})", f"[default: {said}")
                heading = "Arguments" if is_argument(param) else "Options"
                group = getattr(param, "rich_help_panel", None) or heading
                groups.setdefault(group, []).append((names, text))
        if groups.keys() - {"Arguments", "Options"}:
            groups["Other"] = groups.pop("Options")
        for group, rows in groups.items():
            with formatter.section(group):
                # A narrow terminal leaves more of each line to the text.
                formatter.write_dl(rows, col_max=min(30, formatter.width // 3))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples as they are to be typed."""
        if self.examples:
            with formatter.section("Examples"):
                for line, text in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}$ steepest {line}\n")
                    formatter.indent()
                    formatter.write_text(text)
                    formatter.dedent()


def describe(command: Any, function: Any) -> None:
    """Tell a command of the kinds of its values, and give each a word in the help.

    Args:
        command: the command that typer has made of the function.
        function: the function, its flags declared in annotations.
    """
    kinds, plain = {}, get_type_hints(function)
    for name, hint in get_type_hints(function, include_extras=True).items():
        for part in getattr(hint, "__metadata__", ()):
            if isinstance(getattr(part, "parser", None), Kind):
                kinds[name] = part.parser
    command.kinds = kinds
    for param in command.params:
        words = [word for t, word in WORDS.items() if t in _inside(plain[param.name])]
        if param.metavar is None and words and param.param_type_name == "option":
            param.metavar = words[0]


def _inside(hint: Any) -> list[Any]:
    """The types that a union or a list is made of: `list[int] | None` has int."""
    return [hint, *(t for part in get_args(hint) for t in _inside(part))]
