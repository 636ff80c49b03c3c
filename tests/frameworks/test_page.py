"""The page on frameworks shows the code and the rows that are tested; no framework is needed."""

import ast
import re
from pathlib import Path

import pytest

from tests.frameworks.rows import FRAMEWORKS, ROWS
from tools import frameworks_page

HERE = Path(__file__).resolve().parent
SOURCES = {path.name: path.read_text(encoding="utf-8") for path in sorted(HERE.glob("test_*.py"))}


def marked(source):
    """The rows that the tests of a file show."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.row":
            yield from (ast.literal_eval(argument) for argument in node.args)


def test_every_row_has_a_test_and_every_test_a_row():
    found = {name for source in SOURCES.values() for name in marked(source)}
    assert found == ROWS.keys()


def test_the_page_is_made_of_the_recipes_and_the_rows():
    text = frameworks_page.PAGE.read_text(encoding="utf-8")
    assert frameworks_page.replaced(text) == text, "python tools/frameworks_page.py --write"


@pytest.mark.parametrize("path", frameworks_page.recipes(), ids=lambda path: path.stem)
def test_every_recipe_is_on_the_page_and_in_a_test(path):
    assert frameworks_page.begin(path.name) in frameworks_page.PAGE.read_text(encoding="utf-8")
    users = [*HERE.glob("test_*.py"), *HERE.glob("scripts/*.py"), *HERE.glob("recipes/*.py")]
    texts = [p.read_text(encoding="utf-8") for p in users]
    used = re.compile(rf"recipes\.{path.stem} import|recipes import .*\b{path.stem}\b")
    assert any(used.search(text) for text in texts)


def test_every_framework_is_pinned():
    pins = (HERE / "constraints.txt").read_text(encoding="utf-8").lower().splitlines()
    names = {line.partition("==")[0].replace("_", "-") for line in pins if "==" in line}
    wanted = {name.replace("_", "-") for name in FRAMEWORKS.values()}
    assert wanted <= names
    asked = (HERE / "requirements.txt").read_text(encoding="utf-8").lower().splitlines()
    asked += (HERE / "without-requirements.txt").read_text(encoding="utf-8").lower().splitlines()
    named = {line.partition("[")[0].strip().replace("_", "-") for line in asked}
    assert wanted <= named


def test_the_page_counts_the_rows_and_names_the_versions_that_are_pinned():
    text = " ".join(frameworks_page.PAGE.read_text(encoding="utf-8").split())
    assert f"All {len(ROWS)} rows passed" in text
    pins = (HERE / "constraints.txt").read_text(encoding="utf-8").lower().splitlines()
    versions = dict(line.split("==") for line in pins if "==" in line and line[0] != "#")
    for shown, package in {**FRAMEWORKS, "torch": "torch"}.items():
        name = package if package in versions else package.replace("_", "-")
        assert f"{shown} {versions[name]}" in text, shown
