"""The generated parts of docs/frameworks.md: recipes and rows of tests/frameworks.

python tools/frameworks_page.py          print the table
python tools/frameworks_page.py --write  put recipes and table into the page
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from preset_table import between  # noqa: E402

from tests.frameworks.rows import ROWS  # noqa: E402

PAGE = ROOT / "docs" / "frameworks.md"
RECIPES = ROOT / "tests" / "frameworks" / "recipes"
BEGIN, END = "<!-- rows: tests/frameworks/rows.py -->", "<!-- end of rows -->"
END_OF_RECIPE = "<!-- end of {} -->"


def recipes() -> list[Path]:
    """The files that hold a recipe."""
    return [path for path in sorted(RECIPES.glob("*.py")) if path.name != "__init__.py"]


def begin(name: str) -> str:
    """The mark before a recipe."""
    return f"<!-- recipe: tests/frameworks/recipes/{name} -->"


def shown(path: Path) -> str:
    """The code of a recipe, without the docstring of its file and imports of other recipes."""
    source = path.read_text(encoding="utf-8")
    first = ast.parse(source).body[0]
    lines = source.splitlines(keepends=True)[first.end_lineno :]
    code = "".join(line for line in lines if not line.startswith("from tests.")).strip()
    return f"```py\n{code}\n```"


def table() -> str:
    """The rows as Markdown."""
    lines = ["| framework | use | what to write |", "| --- | --- | --- |"]
    lines += [f"| {row.framework} | {row.use} | {row.answer} |" for row in ROWS.values()]
    return "\n".join(lines)


def replaced(text: str) -> str:
    """The page with the present recipes and the present table."""
    text = between(text, BEGIN, END, table())
    for path in recipes():
        if begin(path.name) in text:
            end = END_OF_RECIPE.format(path.name)
            text = between(text, begin(path.name), end, shown(path))
    return text


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table())
