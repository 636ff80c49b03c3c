"""The tables of named optimizers in README.md and docs/, from `steepest.optim.PRESETS`.

python tools/preset_table.py          print them
python tools/preset_table.py --write  put them into the pages
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from steepest.optim import FAMILY, PRESETS, Preset
from steepest.optim.choices import SLOTS
from steepest.optim.summary import FACTORS
from steepest.retractions import Sphere
from steepest.transforms import Composed

ROOT = Path(__file__).resolve().parent.parent
README, CHOOSING, SUCCESSORS = (
    ROOT / "README.md",
    ROOT / "docs" / "choosing.md",
    ROOT / "docs" / "family.md",
)
PAGES = (README, CHOOSING, SUCCESSORS)
BEGIN, END = "<!-- presets: tools/preset_table.py -->", "<!-- end of presets -->"
FAMILY_BEGIN, FAMILY_END = "<!-- family: tools/preset_table.py -->", "<!-- end of family -->"


def _average(row: Preset) -> str:
    if row.betas is not None:
        return f"{row.betas[1]:g}, u from {row.betas[0]:g}"
    if not row.momentum:
        return "none"
    return f"{row.momentum:g}" + (", Nesterov" if row.nesterov else "")


def _factor(row: Preset) -> str:
    """The factor of the learning rate by the shape of a matrix."""
    if isinstance(row.retraction, Sphere):
        return "lr"
    return f"lr·{FACTORS[row.adjust_lr_fn or 'original']}"


def _lines(head: str, rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    rule = f"|{' --- |' * (head.count('|') - 1)}"
    return "\n".join([head, rule, *(f"| {' | '.join(cells)} |" for cells in rows)])


def table() -> str:
    """The rows of norm, momentum and scale alone."""
    rows = []
    for name, row in ((n, r) for n, r in PRESETS.items() if n not in FAMILY):
        note = _factor(row) if name == "Muon" else row.note
        scale = {"unit": "1", "dual": "‖u‖†"}[row.scale] + (f"; {note}" if note else "")
        norm = f"`{row.norm.with_polar(None)}`".replace("'", '"')
        rows.append((f"`{name}`", norm, _average(row), scale, f"{row.weight_decay:g}", row.source))
    return _lines("| name | norm | momentum | scale | decay | source |", rows)


def family() -> str:
    """The rows with maps beside the polar factor, or with another way to step."""
    rows = []
    for name in FAMILY:
        row = PRESETS[name]
        maps = {slot: getattr(row, slot) for slot in SLOTS}
        told = "; ".join(f"{slot} `{map!r}`" for slot, map in maps.items() if map is not None)
        rows.append((f"`{name}`", told, _factor(row), f"{row.weight_decay:g}", row.source))
    return _lines("| name | beside the polar factor | factor | decay | source |", rows)


def names() -> str:
    """The same rows in few words: the classes of the maps."""
    rows = []
    for name in FAMILY:
        used = (m for slot in SLOTS if (m := getattr(PRESETS[name], slot)) is not None)
        parts = (each for m in used for each in (m.maps if isinstance(m, Composed) else (m,)))
        rows.append((f"`{name}`", ", ".join(f"`{type(each).__name__}`" for each in parts)))
    return _lines("| name | Muon with |", rows)


def between(text: str, begin: str, end: str, content: str) -> str:
    """`text` with other lines between two marks, of which it has one pair."""
    marks = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", flags=re.DOTALL)
    if len(marks.findall(text)) != 1:
        raise SystemExit(f"each page needs one pair of marks: {begin} … {end}")
    return marks.sub(lambda _: f"{begin}\n{content}\n{end}", text)


def replaced(text: str) -> str:
    """`text` with the present tables between their marks, of those that it has."""
    if BEGIN in text:
        text = between(text, BEGIN, END, table())
    if FAMILY_BEGIN in text:
        short = BEGIN in text  # a page with both has less room for the second
        text = between(text, FAMILY_BEGIN, FAMILY_END, names() if short else family())
    return text


def print_or_write(content: str, begin: str, end: str, pages: Sequence[Path]) -> None:
    """Print a table or, with `--write` on the command line, put it into pages between its marks."""
    if "--write" not in sys.argv[1:]:
        print(content)
        return
    for page in pages:
        text = between(page.read_text(encoding="utf-8"), begin, end, content)
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if "--write" not in sys.argv[1:]:
        print(f"{table()}\n\n{family()}")
    else:
        for page in PAGES:
            page.write_text(replaced(page.read_text(encoding="utf-8")), encoding="utf-8")
