"""Patterns of names, or types: the first that matches wins, and each has to decide something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Generic, TypeVar

from steepest._common.errors import invalid

K = TypeVar("K", bound="str | type")
T = TypeVar("T")


class Patterns(Generic[K, T]):
    """Patterns of names, or types, with a value each; the first that matches wins.

    Args:
        argument: name of the argument they came from, for errors.
        patterns: the patterns, in the order of precedence.
        what: the kind of thing that a pattern has to match, for errors.
        listing: the call that lists the names, for errors.
    """

    def __init__(
        self,
        argument: str,
        patterns: Mapping[K, T],
        what: str,
        listing: str = "print(route(model))",
    ) -> None:
        self._argument = argument
        self._patterns = patterns
        self._what = what
        self._listing = listing
        self._matched: set[K] = set()
        self._used: set[K] = set()

    def first(self, names: Sequence[str], kind: type = object) -> tuple[K, T] | None:
        """The first pattern that matches one of the names, or the type, with its value."""
        hits = [p for p in self._patterns if _fits(p, names, kind)]
        self._matched.update(hits)
        self._used.update(hits[:1])
        return (hits[0], self._patterns[hits[0]]) if hits else None

    def check(self) -> None:
        """Raises if a pattern decided nothing."""
        for pattern in self._patterns:
            if pattern not in self._matched:
                raise invalid(
                    self._argument,
                    pattern,
                    f"matches no {self._what}; {self._listing} lists"
                    " the names, and * stands for any part of one",
                )
            if pattern not in self._used:
                raise invalid(
                    self._argument,
                    pattern,
                    f"earlier patterns take every {self._what} it matches; put it before them",
                )


def _fits(pattern: str | type, names: Sequence[str], kind: type) -> bool:
    """Whether a pattern matches one of the names, or a type is that of the thing."""
    if isinstance(pattern, type):
        return issubclass(kind, pattern)
    return any(fnmatchcase(name, pattern) for name in names)
