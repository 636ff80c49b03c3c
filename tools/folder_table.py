"""The table of folders in docs/architecture.md, from `LAYERS` of tests/layers.py and docstrings.

python tools/folder_table.py          print it
python tools/folder_table.py --write  put it into the page
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- folders: tools/folder_table.py -->", "<!-- end of folders -->"

sys.path.insert(0, str(ROOT))
from tests.layers import LAYERS  # noqa: E402


def table() -> str:
    """A row for each folder and each file of the root, from the bottom to the top."""
    home = ROOT / "src" / "steepest"
    names = dict.fromkeys(name.split(".")[0] for row in LAYERS for name in row)
    lines = ["| | what is in it | lines |", "| --- | --- | ---: |"]
    for name in filter(None, names):
        folder = home / name
        files = sorted(folder.rglob("*.py")) if folder.is_dir() else [home / f"{name}.py"]
        first = folder / "__init__.py" if folder.is_dir() else files[0]
        said = (ast.get_docstring(ast.parse(first.read_text("utf-8"))) or "").partition("\n")[0]
        count = sum(len(file.read_text("utf-8").splitlines()) for file in files)
        shown = f"{name}/" if folder.is_dir() else f"{name}.py"
        lines.append(f"| `{shown}` | {said} | {round(count, -2) or count} |")
    return "\n".join(lines)


def replaced(text: str) -> str:
    """`text` with the present table between its two marks."""
    marks = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", flags=re.DOTALL)
    if len(marks.findall(text)) != 1:
        raise SystemExit(f"the page needs one pair of marks: {BEGIN} … {END}")
    return marks.sub(lambda _: f"{BEGIN}\n{table()}\n{END}", text)


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table())
