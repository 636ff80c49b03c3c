"""Patterns of parameter names: the first that matches wins, and each has to decide something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Generic, TypeVar

from steepest._types import invalid

T = TypeVar("T")


class Patterns(Generic[T]):
    """Patterns of parameter names with a value each; the first that matches wins.

    Args:
        argument: name of the argument they came from, for errors.
        patterns: the patterns, in the order of precedence.
        what: what a pattern has to match, for errors.
    """

    def __init__(self, argument: str, patterns: Mapping[str, T], what: str) -> None:
        self._argument = argument
        self._patterns = patterns
        self._what = what
        self._matched: set[str] = set()
        self._used: set[str] = set()

    def first(self, names: Sequence[str]) -> tuple[str, T] | None:
        """The first pattern that matches one of the names, with its value."""
        hits = [p for p in self._patterns if any(fnmatchcase(name, p) for name in names)]
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
                    f"matches no {self._what}; print(route(model)) lists"
                    " the names, and * stands for any part of one",
                )
            if pattern not in self._used:
                raise invalid(
                    self._argument,
                    pattern,
                    "earlier patterns take every parameter it matches; put it before them",
                )
