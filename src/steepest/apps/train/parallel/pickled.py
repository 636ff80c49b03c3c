"""A pickle read as data: no name in it is looked up, and nothing is called.

Python's own unpickler builds objects while it reads, and even one that knows few classes sets their
attributes, hashes nested keys and makes room for whatever a file asks for. This one knows the codes
that plain dataclasses are written with, and gives names, arguments and states as they stand there.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import Any

VALUES = frozenset(
    {
        *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    }
)
CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
IGNORED = frozenset({"PROTO", "FRAME", "STOP"})
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
MARK = object()


class Name(str):
    """The name of a class or a function, with its module; no ordinary text of the file."""

    __slots__ = ()


class Made:
    """An object as a pickle describes it.

    Args:
        name: the name of what would have made it.
        args: the arguments for that.
    """

    __slots__ = ("args", "name", "state")

    def __init__(self, name: str, args: tuple[Any, ...]) -> None:
        self.name, self.args = name, args
        self.state: Any = None  # until there is one


class Reading:
    """The stack of a pickle machine, and what it remembers.

    Args:
        names: the names that may occur, each with its module.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def read(self, raw: bytes) -> Any:
        """The one object of a pickle.

        Raises:
            ValueError: it is damaged, or has a code or a name that does not belong in it.
        """
        try:
            for code, argument, _ in pickletools.genops(raw):
                self._take(code.name, argument)
        except (IndexError, KeyError, TypeError, AttributeError):
            raise ValueError("is no pickle of plain objects") from None
        if len(self._stack) != 1 or self._stack[0] is MARK:
            raise ValueError("is no pickle of plain objects")
        return self._stack[0]

    def _take(self, code: str, argument: Any) -> None:
        """Carry out one code."""
        stack = self._stack
        if code in VALUES:
            stack.append(argument)
        elif code in CONSTANTS:
            stack.append(CONSTANTS[code]())
        elif code in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            self._memo[len(self._memo) if argument is None else argument] = stack[-1]
        elif code in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif code == "MARK":
            stack.append(MARK)
        elif code in TUPLES:
            stack.append(tuple(self._popped(TUPLES[code])))
        elif code == "TUPLE":
            stack.append(tuple(self._marked()))
        elif code in ("APPEND", "APPENDS"):
            self._append(self._marked() if code == "APPENDS" else self._popped(1))
        elif code in ("SETITEM", "SETITEMS"):
            self._set(self._marked() if code == "SETITEMS" else self._popped(2))
        elif code in ("STACK_GLOBAL", "GLOBAL"):
            self._name(argument.split(" ") if argument else self._popped(2))
        elif code in ("NEWOBJ", "REDUCE"):
            self._make()
        elif code == "BUILD":
            self._build()
        elif code not in IGNORED:
            raise ValueError(f"{code} does not belong in a pickle of plain objects")

    def _popped(self, count: int) -> list[Any]:
        """Take so many from the top, the last one last."""
        found = self._stack[-count:]
        if len(found) < count or any(x is MARK for x in found):
            raise IndexError
        del self._stack[-count:]
        return found

    def _marked(self) -> list[Any]:
        """All above the last mark."""
        above = reversed(range(len(self._stack)))
        place = next((i for i in above if self._stack[i] is MARK), None)
        if place is None:
            raise IndexError
        found = self._stack[place + 1 :]
        del self._stack[place:]
        return found

    def _append(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise TypeError
        self._stack[-1].extend(items)

    def _set(self, items: list[Any]) -> None:
        """Set the items of a dictionary; keys are texts or objects, never what nests."""
        target, keys = self._stack[-1], items[::2]
        if type(target) is not dict or len(items) % 2:
            raise TypeError
        if not all(type(k) in (str, int, Made) for k in keys):
            raise TypeError
        target.update(zip(keys, items[1::2], strict=True))

    def _name(self, parts: list[Any]) -> None:
        if not all(type(p) is str for p in parts):
            raise TypeError
        name = ".".join(parts)
        if name not in self._names:
            raise ValueError(f"{name[:200]} does not belong in a table of contents")
        self._stack.append(Name(name))

    def _make(self) -> None:
        name, args = self._popped(2)
        if type(name) is not Name or type(args) is not tuple:
            raise TypeError
        self._stack.append(Made(str(name), args))

    def _build(self) -> None:
        (state,) = self._popped(1)
        made = self._stack[-1]
        if type(made) is not Made or made.state is not None:
            raise TypeError
        made.state = state
