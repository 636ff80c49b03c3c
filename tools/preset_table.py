"""The table of named optimizers in README.md and docs/choosing.md, from `steepest.optim.PRESETS`.

python tools/preset_table.py          print it
python tools/preset_table.py --write  put it into both
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from steepest.optim import PRESETS, Preset

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "choosing.md")
BEGIN, END = "<!-- presets: tools/preset_table.py -->", "<!-- end of presets -->"


def _average(row: Preset) -> str:
    if row.betas is not None:
        return f"{row.betas[1]:g}, u from {row.betas[0]:g}"
    if not row.momentum:
        return "none"
    return f"{row.momentum:g}" + (", Nesterov" if row.nesterov else "")


def table() -> str:
    """The rows as Markdown."""
    lines = [
        "| name | norm | momentum | scale | decay | source |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in PRESETS.items():
        scale = {"unit": "1", "dual": "‖u‖†"}[row.scale] + (f"; {row.note}" if row.note else "")
        decay = f"{row.weight_decay:g}"
        cells = (
            f"`{name}`",
            f"`{row.norm.with_polar(None)}`".replace("'", '"'),
            _average(row),
            scale,
            decay,
            row.source,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def between(text: str, begin: str, end: str, content: str) -> str:
    """`text` with other lines between two marks, of which it has one pair."""
    marks = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", flags=re.DOTALL)
    if len(marks.findall(text)) != 1:
        raise SystemExit(f"each page needs one pair of marks: {begin} … {end}")
    return marks.sub(lambda _: f"{begin}\n{content}\n{end}", text)


def replaced(text: str) -> str:
    """`text` with the present table between its two marks."""
    return between(text, BEGIN, END, table())


def print_or_write(content: str, begin: str, end: str, pages: Sequence[Path]) -> None:
    """Print a table or, with `--write` on the command line, put it into pages between its marks."""
    if "--write" not in sys.argv[1:]:
        print(content)
        return
    for page in pages:
        text = between(page.read_text(encoding="utf-8"), begin, end, content)
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    print_or_write(table(), BEGIN, END, PAGES)
