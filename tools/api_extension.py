"""Choose and write out what the API pages show; `mkdocs.yml` names this file to Griffe."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from typing import Any

import griffe

CONSTANT = re.compile(r"\b[A-Z][A-Z_]{2,}\b")


class WithoutOverrides(griffe.Extension):
    """Take out of each class the methods and properties that one of its bases has.

    Otherwise every norm repeats `dual`, `couples`, `axes` and the rest of `Norm`, whose laws say
    all there is to say about them.
    """

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Go through a package once it is loaded."""
        # All of them first: a member that is gone would no longer hide those that override it.
        hidden = [
            (each, name)
            for each in _classes(pkg)
            for name, member in each.members.items()
            # A field of a dataclass is an argument as well.
            if member.is_function or "property" in member.labels
            if not name.startswith("_") and any(name in base.members for base in each.mro())
        ]
        for each, name in hidden:
            each.del_member(name)


class WithDefaults(griffe.Extension):
    """Write out the constants that are defaults: a reader of `betas = LION_BETAS` wants numbers."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Go through a package once it is loaded."""
        for function in _functions(pkg):
            for parameter in function.parameters:
                text = str(parameter.default)
                if CONSTANT.search(text):
                    names = vars(importlib.import_module(function.module.path))
                    parameter.default = repr(eval(text, dict(names)))


def _classes(inside: griffe.Object) -> Iterator[griffe.Class]:
    """The classes that a package defines, however deep."""
    for member in inside.members.values():
        if isinstance(member, griffe.Class):
            yield member
        if isinstance(member, griffe.Object):
            yield from _classes(member)


def _functions(inside: griffe.Object) -> Iterator[griffe.Function]:
    """The functions and methods that a package defines."""
    for member in inside.members.values():
        if isinstance(member, griffe.Function):
            yield member
        elif isinstance(member, griffe.Object):
            yield from _functions(member)
