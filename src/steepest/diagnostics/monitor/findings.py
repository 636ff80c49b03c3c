"""The findings of a monitor, layer by layer, and as lines: one cause is one line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from steepest._common.files import Record

NAMED = 3
"""Layers that a line names where none of them is the worst."""


class Observation(NamedTuple):
    """Something that looks wrong in a layer.

    Args:
        layer: its name.
        cause: the name that layers with the same fault and the same remedy share.
        text: the number, in words, of this layer.
        badness: larger for a worse one; None where it is there or not.
        remedy: the thing to do about it; empty in old records, whose text ends with it.
    """

    layer: str
    cause: str
    text: str
    badness: float | None = None
    remedy: str = ""

    @property
    def sentence(self) -> str:
        """The number with its remedy."""
        return f"{self.text}; {self.remedy}" if self.remedy else self.text


def line(found: Sequence[Observation], *, more: bool = False) -> str:
    """Findings of one cause in one line, in the words of the worst of them.

    Args:
        found: one at least.
        more: whether that cause was seen in other layers before.

    Examples:
        >>> line([Observation("a", "x", "off by 2", 2.0)])
        'a: off by 2'
        >>> line([Observation("a", "x", "off by 2", 2.0), Observation("b", "x", "off by 3", 3.0)])
        '2 layers, worst b: off by 3'
        >>> line([Observation("a", "y", "dead"), Observation("b", "y", "dead")], more=True)
        '2 more layers (a, b): dead'
        >>> line([Observation("a", "x", "off by 2", 2.0, "halve it")])
        'a: off by 2; halve it'
    """
    worst = max(found, key=lambda f: 0.0 if f.badness is None else f.badness)
    names = list(dict.fromkeys(f.layer for f in found))
    if len(names) == 1:
        return f"{worst.layer}: {worst.sentence}"
    count = f"{len(names)} {'more ' if more else ''}layers"
    if worst.badness is not None:
        return f"{count}, worst {worst.layer}: {worst.sentence}"
    rest = ", …" if len(names) > NAMED else ""
    return f"{count} ({', '.join(names[:NAMED])}{rest}): {worst.sentence}"


def by_cause(found: Iterable[Observation]) -> dict[str, list[Observation]]:
    """The findings of each cause, in the order in which causes came up."""
    groups: dict[str, list[Observation]] = {}
    for finding in found:
        groups.setdefault(finding.cause, []).append(finding)
    return groups


def as_records(found: Iterable[Observation]) -> list[Record]:
    """Findings as plain data, for a record of the monitor."""
    return [finding._asdict() for finding in found]


def monitor_warnings(records: Iterable[Record]) -> list[tuple[int, str]]:
    """The warnings of a run: a line for each cause, with the step at which it came up.

    A record without findings, as of an older version, keeps its own lines, each once.

    Args:
        records: records of a monitor, in the order of their steps.

    Examples:
        >>> one = {"layer": "a", "cause": "x", "text": "off by 2", "badness": 2.0}
        >>> two = {"layer": "b", "cause": "x", "text": "off by 3", "badness": 3.0}
        >>> monitor_warnings([{"step": 1, "findings": [one]}, {"step": 3, "findings": [two]}])
        [(1, '2 layers, worst b: off by 3')]
        >>> old = {"step": 1, "warnings": ["a: off"]}
        >>> monitor_warnings([old, {**old, "step": 3}])
        [(1, 'a: off')]
    """
    first: dict[str, int] = {}
    found: dict[str, list[Observation]] = {}
    for record in records:
        step, causes = int(record["step"]), by_cause(_findings(record))
        lines = () if causes else record.get("warnings") or ()
        for cause, some in {**causes, **{str(text): [] for text in lines}}.items():
            first.setdefault(cause, step)
            found.setdefault(cause, []).extend(some)
    return [(step, line(found[c]) if found[c] else c) for c, step in first.items()]


def _findings(record: Record) -> list[Observation]:
    """The findings in a record; none in one that has them in another form."""
    try:
        return [Observation(**one) for one in record.get("findings") or ()]
    except TypeError:
        return []
