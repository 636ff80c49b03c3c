"""Helpers that every report shares: a table as text, and numbers that JSON has."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[str] = ()
) -> str:
    """Rows under their headings, columns as wide as they need.

    Args:
        headings: one for each column.
        rows: the cells of each row as text, as many as headings.
        left: headings of the columns that begin on the left; the others end on the right.

    Examples:
        >>> print(table(("layer", "rank"), [("head", "3"), ("embedding", "12")], left={"layer"}))
        layer      rank
        head          3
        embedding    12
    """
    lines = [tuple(headings), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if heading in left else cell.rjust(width)
            for heading, cell, width in zip(headings, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def for_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with None for inf and NaN, which JSON has not.

    Examples:
        >>> for_json({"rank": 2.0, "radius": math.inf})
        {'rank': 2.0, 'radius': None}
    """
    return {k: None if _is_wild(v) else v for k, v in values.items()}


def _is_wild(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
