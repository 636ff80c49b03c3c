"""Results as tables: in the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import JustifyMethod
from rich.table import Table

from steepest.apps.bench.measure import MEASURED, ContenderRow, Result
from steepest.apps.bench.sets import SETS

SHORT = 24  # characters, as many as a bar's place in the picture has
ONCE = "one step"
"""The words in the place of the quartiles, for a contender that was too slow for more."""
HEADINGS = ("contender", "ms", "quartiles", "× as fast", "× floor", "error")


def title(name: str) -> str:
    """The title of a set; a set that no longer exists keeps its name.

    Examples:
        >>> title("gpt-128")
        'GPT, width 128, 4 blocks'
    """
    return SETS[name].title if name in SETS else name


def number(value: float | None, digits: int = 3) -> str:
    """A value with so many digits; a dash for none.

    Examples:
        >>> [number(v) for v in (None, 0.04412, 3.14159, 123.456, 12345.6)]
        ['–', '0.0441', '3.14', '123', '12346']
    """
    if value is None:
        return "–"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:.0f}"
    return f"{value:#.{digits}g}" if abs(value) >= 1e-2 else f"{value:.1e}".replace("e-0", "e-")


def cells(row: ContenderRow) -> list[str]:
    """A measured row under `HEADINGS`."""
    return [
        row.name,
        number(row.ms),
        ONCE if row.once else f"{number(row.ms_low)}–{number(row.ms_high)}",
        number(row.speed),
        number(row.floors),
        number(row.error, 2),
    ]


def table(result: Result) -> Table:
    """A result for the terminal."""
    head = f"{title(result.set)}: {result.bench}"
    note = f"× as fast as {result.baseline}; error on {result.data}"
    out = Table(
        title=head,
        caption=note,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for k, heading in enumerate(HEADINGS):
        justify: JustifyMethod = "right" if k else "left"
        out.add_column(heading, justify=justify, no_wrap=k > 0, overflow="fold")
    for row in result.rows:
        if row.status == MEASURED:
            out.add_row(*cells(row))
    return out


def absences(result: Result) -> list[str]:
    """A line for each contender without a time."""
    return [f"{r.name}: {r.message}" for r in result.rows if r.status != MEASURED]


def reason(row: ContenderRow) -> str:
    """The reason why a contender has no time, in a few words; the whole message is in the JSON.

    Examples:
        >>> absent = "left out by --quick: it compiles first"
        >>> reason(ContenderRow(name="heavyball", note="", status="absent", message=absent))
        'left out by --quick'
    """
    text = row.message if len(row.message) < SHORT else row.message.split(":")[0]
    return text if 0 < len(text) < SHORT else row.status


def markdown(results: Sequence[Result]) -> str:
    """The speeds of one bench, a column for each set: × as fast as the baseline, and the error."""
    names = list(dict.fromkeys(row.name for r in results for row in r.rows))
    lines = [
        f"| {results[0].bench} | {' | '.join(r.set for r in results)} |",
        f"| --- |{' ---: |' * len(results)}",
    ]
    for name in names:
        found = [next((row for row in r.rows if row.name == name), None) for r in results]
        lines.append(f"| {name} | {' | '.join(map(_cell, found))} |")
    return "\n".join(lines)


def _cell(row: ContenderRow | None) -> str:
    """Speed, milliseconds and error of one contender on one set."""
    if row is None:
        return ""
    if row.status != MEASURED:
        return reason(row)
    error = "" if row.error is None else f", {number(row.error, 2)}"
    speed = "" if row.speed is None else f"**{number(row.speed)}×**, "
    return f"{speed}{number(row.ms)} ms{f' ({ONCE})' if row.once else ''}{error}"
