"""Bring a finished comparison into the documentation.

    steepest compare
    python tools/compare_table.py comparisons/standard

keeps the table of the folder, with the settings, the machine and the day it comes from, in
`docs/comparison/`, draws `docs/images/compare.png` from it, and fills the results of
`docs/compare.md`. Without a folder it draws and fills what is stored. A test compares the page with
these files.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools")]
from ledger import DOCS, REGION, alternative, keep, kept, origin, read  # noqa: E402

from steepest.apps._figures import plot_style, png  # noqa: E402
from steepest.apps.compare.picture import draw  # noqa: E402
from steepest.apps.compare.report import markdown  # noqa: E402

PAGE = DOCS / "compare.md"
ROWS, ORIGIN = DOCS / "comparison" / "rows.json", DOCS / "comparison" / "origin.json"
PICTURE = DOCS / "images" / "compare.png"


def collect(folder: Path) -> None:
    """Keep the table of a folder and where it comes from."""
    known = read(folder / "settings.json")
    day = datetime.fromtimestamp((folder / "comparison.json").stat().st_mtime, UTC).date()
    stored = {"parts": [], "day": str(day), **{k: known[k] for k in ("settings", "machine")}}
    keep(ROWS, read(folder / "comparison.json"))
    text = json.dumps(stored, indent=2, ensure_ascii=False)
    ORIGIN.write_text(f"{text}\n", encoding="utf-8")


def results() -> str:
    """The picture, the tables and their origin as Markdown."""
    if not ROWS.exists():
        return "\nNo results yet.\n\n"
    shown = f"![{alternative(draw)}](images/{PICTURE.name})"
    line = origin(read(ORIGIN), "windows")
    return f"\n{shown}\n\n{markdown(kept(ROWS), heading='###')}\n{line}\n\n"


def filled(page: str) -> str:
    """A page with the results that are stored."""
    return REGION.sub(lambda m: f"{m[1]}{results()}{m[3]}", page)


def main() -> None:
    """Store what a folder has, and fill the page."""
    if len(sys.argv) > 1:
        collect(Path(sys.argv[1]))
    if ROWS.exists():
        with plot_style():
            PICTURE.write_bytes(png(draw(kept(ROWS))))
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
