"""Helpers that every report shares: a table as text, and numbers that JSON has."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any
from unicodedata import category
from zlib import crc32

# Control characters, formats, halves of a pair, and separators of lines and paragraphs.
UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
JOINERS = "\u200c\u200d"
"""The formats that words of some scripts, and some emoji, are written with."""


def printable(text: str, *, keep: str = "") -> str:
    r"""Text that does nothing to a terminal: what is not seen stands as an escape of Python.

    Such are control characters, marks that turn the direction of what follows, and halves of a
    character, as names of files have that are not UTF-8.

    Args:
        text: any text.
        keep: characters that stay all the same, such as a newline.

    Examples:
        >>> print(printable("a\x1b[31mb\u202ec"))
        a\x1b[31mb\u202ec
    """
    if text.isprintable():
        return text
    stays = JOINERS + keep
    return "".join(
        c if c in stays or category(c) not in UNSEEN else c.encode("unicode_escape").decode()
        for c in text
    )


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[str] = ()
) -> str:
    """Rows under their headings, columns as wide as they need.

    Args:
        headings: one for each column.
        rows: the cells of each row as text, as many as headings; what is not seen of them stands
            as an escape.
        left: headings of the columns that begin on the left; the others end on the right.

    Examples:
        >>> print(table(("layer", "rank"), [("head", "3"), ("embedding", "12")], left={"layer"}))
        layer      rank
        head          3
        embedding    12
    """
    lines = [tuple(map(printable, line)) for line in (headings, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if heading in left else cell.rjust(width)
            for heading, cell, width in zip(headings, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def changed_fields(value: Any, *always: str) -> str:
    """A dataclass as its constructor is called: with the fields that are not at their default.

    Args:
        value: an instance of a dataclass.
        always: names of fields that are shown at their default too.

    Examples:
        >>> from steepest.polar import Zolotarev
        >>> changed_fields(Zolotarev(order=3), "lower")
        'Zolotarev(order=3, lower=0.001)'
    """
    given = [
        f"{f.name}={getattr(value, f.name)!r}"
        for f in fields(value)
        if f.repr and (f.name in always or getattr(value, f.name) != f.default)
    ]
    return f"{type(value).__name__}({', '.join(given)})"


def fingerprint(value: Any) -> str:
    """Eight digits that tell nested numbers and texts apart, for a short text of a long value.

    Numbers count with ten digits: the last ones of what is computed differ between processors.

    Examples:
        >>> fingerprint((1.0, 2.0)) == fingerprint((1.0, 2.0 + 1e-15)) != fingerprint((1.0, 2.1))
        True
    """

    def plain(x: Any) -> str:
        if isinstance(x, tuple | list):
            return f"({','.join(map(plain, x))})"
        return f"{x:.10g}" if isinstance(x, float) else repr(x)

    return f"{crc32(plain(value).encode()):08x}"


def for_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with None for inf and NaN, which JSON has not.

    Examples:
        >>> for_json({"rank": 2.0, "radius": math.inf})
        {'rank': 2.0, 'radius': None}
    """
    return {k: None if _is_wild(v) else v for k, v in values.items()}


def _is_wild(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
