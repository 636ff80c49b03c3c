"""The table of docs/meshes.md: other people's set-ups, run on several processes.

    python tools/foreign_meshes.py [--worlds 2 4] [--only WORDS] [--go-on LOG] [--write]

Runs the rows of tests/sharding/others.py on gloo processes of this machine and prints the table:
the largest relative difference to one process, or the line with which every rank is refused.
`--only` takes the rows with these words in their topic or title, `--go-on` those that an earlier
run has not printed; `--write` puts the table into the
page, with the command, the date and the processor.
"""

from __future__ import annotations

import argparse
import datetime as dt
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import torch  # noqa: E402
from preset_table import between  # noqa: E402

from steepest.apps._machine import cpu_name  # noqa: E402
from tests.sharding.others import ROWS, Result, measure  # noqa: E402
from tests.sharding.others_row import Row  # noqa: E402
from tests.sharding.pool import PoolError, close_all  # noqa: E402

PAGE = ROOT / "docs" / "meshes.md"
BEGIN, END = "<!-- rows: tools/foreign_meshes.py -->", "<!-- end of rows -->"

Cells = tuple[Row, dict[int, str]]
"""A row, with what it has come to by the number of processes."""


def results(worlds: Sequence[int], words: str, known: Mapping[str, str]) -> Iterator[Cells]:
    """The cells of each row, by the number of processes.

    Args:
        worlds: The numbers of processes.
        words: Words of the topic or the title of the rows that are wanted.
        known: Cells of an earlier run, by what was printed before them.

    Raises:
        SystemExit: at the end, if a row has failed or does otherwise than it says.
    """
    wrong = []
    for place, row in enumerate(ROWS):
        if words not in f"{row.topic} {row.title}":
            continue
        cells = {}
        for world in (world for world in worlds if world in row.worlds):
            name = f"{row.topic}, {row.title}, {world}"
            if name not in known:
                try:
                    found = measure(place, world)
                except (PoolError, AssertionError) as error:
                    wrong.append(f"{name}: {error}")
                    continue
                if not as_stated(found):
                    wrong.append(f"{name}: {said(found)}")
                    continue
            cells[world] = known[name] if name in known else said(found)
            print(f"{name}: {cells[world]}", flush=True)
        if cells:
            yield row, cells
    if wrong:
        raise SystemExit("otherwise than stated:\n" + "\n".join(wrong))


def printed(path: Path) -> dict[str, str]:
    """The cells that an earlier run has printed."""
    names = {f"{row.topic}, {row.title}, {world}" for row in ROWS for world in row.worlds}
    pairs = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name = next((name for name in names if line.startswith(f"{name}: ")), None)
        if name is not None:
            pairs[name] = line.removeprefix(f"{name}: ")
    return pairs


def as_stated(result: Result) -> bool:
    """Whether a row works as closely, or is refused with the words, as it says."""
    row = result.row
    if row.refused:
        return not result.moved and all(re.search(row.refused, line) for line in result.lines)
    return result.difference <= row.within


def said(result: Result) -> str:
    """The result of a row, as a cell."""
    return result.lines[0] if result.lines else f"{result.difference:.0e}"


def table(every: Sequence[Cells], worlds: Sequence[int]) -> str:
    """The rows as Markdown, topic by topic."""
    lines: list[str] = []
    topic = ""
    for row, cells in every:
        if row.topic != topic:
            topic = row.topic
            names = " | ".join(f"{world} processes" for world in worlds)
            lines += ["", f"## {topic}", "", f"| | {names} |", "| --- |" + " --- |" * len(worlds)]
        texts = [cells.get(world, "") for world in worlds]
        if row.refused:
            texts = [f"refused: {text}" if text else "" for text in texts]
            first = next(i for i, text in enumerate(texts) if text)
            texts[first + 1 :] = ["refused alike" if text else "" for text in texts[first + 1 :]]
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
    parser.add_argument("--go-on", type=Path, metavar="LOG", help="what an earlier run printed")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    try:
        known = printed(given.go_on) if given.go_on else {}
        every = list(results(given.worlds, given.only, known))
    finally:
        close_all()
    text = f"{stamp(given.worlds)}\n\n{table(every, given.worlds)}"
    if given.write:
        PAGE.write_text(between(PAGE.read_text(encoding="utf-8"), BEGIN, END, text), "utf-8")
    else:
        print(f"\n{text}")


if __name__ == "__main__":
    main()
