"""Results of an experiment as rows to choose from."""

from __future__ import annotations

from collections.abc import Sequence

from steepest._common.files import Record


def of(results: Sequence[Record], experiment: str, **wanted: object) -> list[Record]:
    """The results of an experiment whose fields have these values."""
    fields = {"experiment": experiment, **wanted}
    return [r for r in results if all(r[k] == v for k, v in fields.items() if k in r)]


def distinct(rows: Sequence[Record], name: str) -> list[object]:
    """The values of a field, in the order of their first rows."""
    return list(dict.fromkeys(r[name] for r in rows))
