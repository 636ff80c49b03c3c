"""How a command declares its flags: kinds of values, without torch.

A kind reads the text of a flag, completes it in a shell, and says in one form what is wrong.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import typer

from steepest._common.errors import refusal
from steepest.apps._folder import given_path
from steepest.apps._interrupt import imports

# Ours: more steps, windows or rounds than anybody waits for, and far below what 64 bits hold.
MOST = 10**9
FLAG = "{flag}"
"""The place in a remedy for the flag that the value was given to."""


class RefusedValue(typer.BadParameter):
    """A value that a flag cannot take; the parser of the command line adds which flag.

    Args:
        value: the value as it was written.
        remedy: the advice, in which `FLAG` stands for the flag.
    """

    def __init__(self, value: str, remedy: str) -> None:
        super().__init__(f"{value}: {remedy}")
        self.value, self.remedy = value, remedy


def close(text: str, names: Collection[str]) -> str:
    """The name that was probably meant, empty if none is near.

    Examples:
        >>> close("mouon", ["adamw", "muon"]), close("zebra", ["adamw", "muon"])
        ('muon', '')
    """
    lower = {name.lower(): name for name in names}
    return next((lower[n] for n in get_close_matches(text.lower(), lower, n=1)), "")


def choose(
    text: str, names: Collection[str], *, several: bool = False, known: Collection[str] = ()
) -> str:
    """The advice for a name that is none of these.

    Args:
        text: the name as it was written.
        names: the known names.
        several: whether the flag may be repeated.
        known: the names as they are listed, if they are listed with more than the name.

    Examples:
        >>> choose("mouon", ["muon", "sgd"])
        'did you mean muon? Choose from muon, sgd'
    """
    lower = {name.lower(): name for name in names}
    given = [part.strip().lower() for part in text.split(",")]
    if several and len(given) > 1 and lower.keys() >= set(given):
        return f"repeat the flag: {' '.join(f'{FLAG} {lower[name]}' for name in given)}"
    near = close(text, names)
    rest = f"hoose from {', '.join(known or names)}"
    return f"did you mean {near}? C{rest}" if near else f"c{rest}"


class Kind(ABC):
    """The values of a flag, as a parser for typer."""

    word: ClassVar[str] = "TEXT"

    @property
    def __name__(self) -> str:
        # typer before 0.16 asks every parser for its name.
        return self.word

    def __call__(self, value: Any) -> Any:
        """The value of a text; a default is a value already."""
        return self.read(value) if isinstance(value, str) else value

    @abstractmethod
    def read(self, text: str) -> Any:
        """The value of a text.

        Raises:
            RefusedValue: it is none.
        """

    def complete(self, incomplete: str) -> list[str]:
        """The values that the shell may offer for their beginning."""
        return [name for name in self.names if name.startswith(incomplete.lower())]

    @property
    def names(self) -> Collection[str]:
        """The values that can be listed."""
        return ()


@dataclass(frozen=True)
class Whole(Kind):
    """Whole numbers in a range.

    Examples:
        >>> Whole()("500")
        500
    """

    word: ClassVar[str] = "INTEGER"
    least: int = 1
    most: int = MOST

    def read(self, text: str) -> int:
        """The number of a text."""
        try:
            value = int(text)
        except ValueError:
            raise RefusedValue(text, self._not_whole(text)) from None
        if value < self.least:
            raise RefusedValue(text, f"give a whole number >= {self.least}")
        if value > self.most:
            raise RefusedValue(text, f"give a whole number <= {self.most}")
        return value

    def _not_whole(self, text: str) -> str:
        try:
            number = float(text)
        except ValueError:
            return f"not a number; give a whole number >= {self.least}"
        if number.is_integer() and self.least <= number <= self.most:
            return f"not a whole number; write {FLAG} {int(number)}"
        return f"not a whole number; give one >= {self.least}"


@dataclass(frozen=True)
class Number(Kind):
    """Numbers of a range that a test decides on.

    Args:
        wants: the range in words.
        fits: the test.

    Examples:
        >>> Number("a number > 0", lambda x: x > 0)("0.5")
        0.5
    """

    word: ClassVar[str] = "NUMBER"
    wants: str
    fits: Callable[[float], bool] = math.isfinite

    def read(self, text: str) -> float:
        """The number of a text."""
        try:
            value = float(text)
        except ValueError:
            raise RefusedValue(text, f"not a number; give {self.wants}") from None
        if not self.fits(value):
            raise RefusedValue(text, f"give {self.wants}")
        return value


@dataclass(frozen=True)
class OneOf(Kind):
    """Names out of a table, in upper or lower case.

    Args:
        table: the names; what is added to the table later can be chosen as well.
        several: whether the flag may be repeated.

    Examples:
        >>> OneOf(("muon", "adamw"))("Muon")
        'muon'
    """

    word: ClassVar[str] = "NAME"
    table: Collection[str]
    several: bool = False

    def read(self, text: str) -> str:
        """The name as the table has it."""
        for name in self.table:
            if name.lower() == text.strip().lower():
                return name
        raise RefusedValue(text, choose(text, self.table, several=self.several))

    @property
    def names(self) -> Collection[str]:
        """The names of the table."""
        return self.table


@dataclass(frozen=True)
class Words(Kind):
    """Text that a function looks at.

    Args:
        check: a function that raises the `ValueError` of `invalid` for what is refused.
        known: texts for the shell to offer.
    """

    check: Callable[[str], object] = field(default=str)
    known: Collection[str] = ()

    def read(self, text: str) -> str:
        """The text in lower case."""
        try:
            self.check(text.lower())
        except ValueError as error:
            found = refusal(error)
            raise RefusedValue(text, str(error) if found is None else found.remedy) from None
        return text.lower()

    @property
    def names(self) -> Collection[str]:
        """The texts that are offered."""
        return self.known


@dataclass(frozen=True)
class Place(Kind):
    """Paths, with `~` followed, and otherwise as they were written.

    Examples:
        >>> str(Place()("runs/one"))
        'runs/one'
    """

    word: ClassVar[str] = "PATH"

    def read(self, text: str) -> Path:
        """The path that a user means."""
        try:
            return given_path(text, argument=FLAG)
        except ValueError as error:
            found = refusal(error)
            assert found is not None
            raise RefusedValue(text, found.remedy) from None


def flag(
    text: str,
    *names: str,
    kind: Kind | None = None,
    default: object = None,
    group: str | None = None,
    metavar: str | None = None,
) -> Any:
    """A flag for `Annotated`.

    Args:
        text: its line in the help.
        names: its names, unless they are those of the parameter.
        kind: the kind of its values; None for a switch, or a text that is read later.
        default: the text for its default, where the parameter's own says too little.
        group: the heading in the help that it stands under.
        metavar: the word for its value, unless it is that of the kind.
    """
    return typer.Option(
        *names,
        help=text,
        parser=kind,
        autocompletion=kind.complete if kind and kind.names else None,
        show_default=True if default is None else str(default),
        metavar=metavar or (kind.word if kind else None),
        rich_help_panel=group,
    )


def start(command: str, **values: Any) -> Any:
    """Import `start.py` of a command, and torch with it, and call its function of that name.

    Help, completion and what is wrong with a flag need none of it, and come a second earlier.
    """
    with imports():
        module = import_module(f"steepest.apps.{command}.start")
    return module.start(**values)
