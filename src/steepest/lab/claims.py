"""Claims as data: what somebody states, how it is measured here, and what came out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from steepest._files import Record

Verdict = Literal["agrees", "differs", "not testable"]


class UndecidedError(Exception):
    """The results cannot decide a claim; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a claim's measurement gave.

    Args:
        measured: the numbers, as text.
        verdict: whether they are what the claim expects.
    """

    measured: str
    verdict: Verdict

    @classmethod
    def of(cls, holds: bool, measured: str) -> Finding:
        """The verdict "agrees" if the claim holds, else "differs"."""
        return cls(measured=measured, verdict="agrees" if holds else "differs")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One statement that the results of an experiment can confirm or contradict.

    Args:
        id: its name within the reproduction.
        statement: what is said, in a sentence that the measurement decides.
        source: who says so, or what it follows from.
        expected: the number or the outcome that the source leads to.
        check: measures it on the results; it may raise `UndecidedError`.
    """

    id: str
    statement: str
    source: str
    expected: str
    check: Callable[[Sequence[Record]], Finding]

    def judge(self, results: Sequence[Record]) -> Record:
        """The claim with its measurement, as an object of `claims.json`."""
        try:
            finding = self.check(results)
        except UndecidedError as reason:
            finding = Finding(measured=str(reason), verdict="not testable")
        return {
            "id": self.id,
            "source": self.source,
            "statement": self.statement,
            "expected": self.expected,
            "measured": finding.measured,
            "verdict": finding.verdict,
        }


def ledger(claims: Iterable[Record]) -> str:
    """The objects of `claims.json` as a Markdown table.

    Examples:
        >>> row = dict(id="a", source="s", statement="x < 1", expected="yes", measured="2",
        ...            verdict="differs")
        >>> print(ledger([row]).splitlines()[-1])
        | x < 1 | s | yes | 2 | **differs** |
    """
    lines = ["claim | source | expected | measured | verdict", "--- | --- | --- | --- | ---"]
    for claim in claims:
        cells = [claim[k].replace("|", "\\|") for k in ("statement", "source", "expected")]
        measured = claim["measured"].replace("|", "\\|")
        lines.append(" | ".join([*cells, measured, f"**{claim['verdict']}**"]))
    return "".join(f"| {line} |\n" for line in lines)
