"""What other people's set-ups do with the optimizers: the table of docs/meshes.md.

    python tools/foreign_meshes.py [--worlds 2 4] [--only WORDS] [--write]

Runs the rows of tests/sharding/others.py on gloo processes of this machine and prints the table:
the largest relative difference to one process, or the line with which every rank is refused.
`--only` takes the rows with these words in their topic or title; `--write` puts the table into the
page, with the command, the date and the processor.
"""

from __future__ import annotations

import argparse
import datetime as dt
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import torch  # noqa: E402
from preset_table import between  # noqa: E402

from steepest.apps._machine import cpu_name  # noqa: E402
from tests.sharding.others import ROWS, Result, measure  # noqa: E402
from tests.sharding.pool import PoolError, close_all  # noqa: E402

PAGE = ROOT / "docs" / "meshes.md"
BEGIN, END = "<!-- rows: tools/foreign_meshes.py -->", "<!-- end of rows -->"


def results(worlds: Sequence[int], words: str) -> Iterator[list[Result]]:
    """Each row on its numbers of processes.

    Raises:
        SystemExit: at the end, if a row has failed or does otherwise than it says.
    """
    wrong = []
    for place, row in enumerate(ROWS):
        if words not in f"{row.topic} {row.title}":
            continue
        found = []
        for world in (world for world in worlds if world in row.worlds):
            try:
                found.append(measure(place, world))
            except (PoolError, AssertionError) as error:
                wrong.append(f"{row.topic}, {row.title}, {world}: {error}")
                continue
            print(f"{row.topic}, {row.title}, {world}: {said(found[-1])}", flush=True)
            if not as_stated(found[-1]):
                wrong.append(f"{row.topic}, {row.title}, {world}: {said(found[-1])}")
        if found:
            yield found
    if wrong:
        raise SystemExit("otherwise than stated:\n" + "\n".join(wrong))


def as_stated(result: Result) -> bool:
    """Whether a row works as closely, or is refused with the words, as it says."""
    row = result.row
    if row.refused:
        return not result.moved and all(re.search(row.refused, line) for line in result.lines)
    return result.difference <= row.within


def said(result: Result) -> str:
    """What a row comes to, in a cell."""
    return result.lines[0] if result.lines else f"{result.difference:.0e}"


def table(every: Sequence[Sequence[Result]], worlds: Sequence[int]) -> str:
    """The rows as Markdown, topic by topic."""
    lines: list[str] = []
    topic = ""
    for found in every:
        row = found[0].row
        if row.topic != topic:
            topic = row.topic
            names = " | ".join(f"{world} processes" for world in worlds)
            lines += ["", f"## {topic}", "", f"| | {names} |", "| --- |" + " --- |" * len(worlds)]
        cells = {result.world: said(result) for result in found}
        texts = [cells.get(world, "") for world in worlds]
        if row.refused:
            line = next(text for text in texts if text).replace("|", "\\|")
            texts = [f"refused: {line}" if text else "" for text in texts]
            texts = [
                text if i == 0 or text != texts[0] else "the same" for i, text in enumerate(texts)
            ]
        lines.append(f"| {row.title} | {' | '.join(texts)} |")
    return "\n".join(lines[1:])


def stamp(worlds: Sequence[int]) -> str:
    """How, when and on what the table was made."""
    numbers = " ".join(map(str, worlds))
    return (
        f"`python tools/foreign_meshes.py --worlds {numbers} --write`, "
        f"{dt.datetime.now(dt.UTC).date()}, {cpu_name()}, torch {torch.__version__}."
    )


def main() -> None:
    """Run the rows and print or write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--worlds", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--only", default="")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    try:
        every = list(results(given.worlds, given.only))
    finally:
        close_all()
    text = f"{stamp(given.worlds)}\n\n{table(every, given.worlds)}"
    if given.write:
        PAGE.write_text(between(PAGE.read_text(encoding="utf-8"), BEGIN, END, text), "utf-8")
    else:
        print(f"\n{text}")


if __name__ == "__main__":
    main()
