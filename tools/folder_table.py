"""The table of folders in docs/architecture.md, from `LAYERS` of tests/layers.py and docstrings.

python tools/folder_table.py          print it
python tools/folder_table.py --write  put it into the page
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- folders: tools/folder_table.py -->", "<!-- end of folders -->"

sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
from preset_table import between, print_or_write  # noqa: E402

from tests.layers import LAYERS  # noqa: E402


def table() -> str:
    """A row for each folder and each file of the root, from the bottom to the top."""
    home = ROOT / "src" / "steepest"
    names = dict.fromkeys(name.split(".")[0] for row in LAYERS for name in row)
    lines = ["| | what is in it |", "| --- | --- |"]
    for name in filter(None, names):
        package = (home / name).is_dir()
        file = home / name / "__init__.py" if package else home / f"{name}.py"
        said = (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").partition("\n")[0]
        lines.append(f"| `{name}{'/' if package else '.py'}` | {said} |")
    return "\n".join(lines)


def replaced(text: str) -> str:
    """`text` with the present table between its two marks."""
    return between(text, BEGIN, END, table())


if __name__ == "__main__":
    print_or_write(table(), BEGIN, END, [PAGE])
