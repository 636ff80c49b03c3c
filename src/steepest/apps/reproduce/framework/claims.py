"""Claims as data: what somebody states, what decides it, how it is measured, and what came out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from steepest._common.files import Record

ClaimVerdict = Literal["agrees", "differs", "not decided at this scale"]
UNDECIDED: ClaimVerdict = "not decided at this scale"


class UndecidedError(Exception):
    """The results cannot decide a claim; the message says why, and what could."""


def scale(results: Sequence[Record]) -> Record:
    """The settings that the results were measured with.

    Raises:
        UndecidedError: they do not say, as those of an earlier version do not.
    """
    found: Record | None = results[0].get("scale") if results else None
    if found is None:
        raise UndecidedError(
            "the results do not say how large they are; measure them again in another folder"
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Need:
    """The least of something that results must have to decide a claim.

    Args:
        what: the quantity in words, such as "steps of training".
        least: the smallest value that decides.
        has: the value that results have; it may raise `UndecidedError`.
        why: the reason: what a smaller one would say instead of an answer.
    """

    what: str
    least: float
    has: Callable[[Sequence[Record]], float]
    why: str

    @classmethod
    def setting(cls, name: str, least: float, why: str, *, what: str = "") -> Need:
        """A setting of the run, of several values their number.

        Examples:
            >>> need = Need.setting("steps", 100, "nothing has arrived before")
            >>> need.lacking([{"scale": {"steps": 20}}])
            'needs steps ≥ 100 (here 20): nothing has arrived before'
            >>> need.lacking([{"scale": {"steps": 100}}]) is None
            True
        """

        def has(results: Sequence[Record]) -> float:
            value: Any = scale(results)[name]
            return float(value if isinstance(value, int | float) else len(value))

        return cls(what=what or name.replace("_", " "), least=least, has=has, why=why)

    def lacking(self, results: Sequence[Record]) -> str | None:
        """Say what the results lack; None if they have enough."""
        found = self.has(results)
        if found >= self.least:
            return None
        return f"needs {self.what} ≥ {self.least:.4g} (here {found:.4g}): {self.why}"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a claim's measurement.

    Args:
        measured: the numbers, as text.
        verdict: whether they are what the claim expects.
    """

    measured: str
    verdict: ClaimVerdict

    @classmethod
    def of(cls, holds: bool, measured: str) -> Outcome:
        """The verdict "agrees" if the claim holds, else "differs"."""
        return cls(measured=measured, verdict="agrees" if holds else "differs")


Check = Callable[[Sequence[Record]], Outcome]
"""A function that measures a claim on results; it may raise `UndecidedError`."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One statement that the results of an experiment can confirm or contradict.

    Args:
        id: its name within the reproduction.
        statement: the statement, in a sentence that the measurement decides.
        source: the author or paper, or what it follows from; "secondary" where the number or the
            sentence was read in somebody else's account of it.
        expected: the number or the outcome that the source leads to.
        check: the function that measures it on the results; it may raise `UndecidedError`.
        needs: the smallest settings that decide it; none where any run does, as for an inequality
            that holds at every step of every size.
    """

    id: str
    statement: str
    source: str
    expected: str
    check: Check
    needs: tuple[Need, ...] = ()

    def judge(self, results: Sequence[Record]) -> Record:
        """The claim with its measurement, as an object of `claims.json`.

        Below one of its needs nothing is agreed or contradicted, whatever was measured.
        """
        finding = self._found(results)
        return {
            "id": self.id,
            "source": self.source,
            "statement": self.statement,
            "expected": self.expected,
            "measured": finding.measured,
            "verdict": finding.verdict,
        }

    def _found(self, results: Sequence[Record]) -> Outcome:
        try:
            missing = [text for need in self.needs if (text := need.lacking(results))]
        except UndecidedError as reason:
            return Outcome(measured=str(reason), verdict=UNDECIDED)
        try:
            finding = self.check(results)
        except UndecidedError as reason:
            return Outcome(measured="; ".join(missing) or str(reason), verdict=UNDECIDED)
        if not missing:
            return finding
        return Outcome(
            measured=f"{'; '.join(missing)}. Measured: {finding.measured}", verdict=UNDECIDED
        )


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
