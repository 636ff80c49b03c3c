"""The derivation: every section is checked, and the notebook is made from the page."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.test_docs import blocks
from tools.notebook import INSTALL, NOTEBOOK, PAGE, notebook

ROOT = Path(__file__).resolve().parent.parent
TEXT = PAGE.read_text(encoding="utf-8")
MADE: dict[str, Any] = json.loads(notebook(TEXT))


def sections(page: str) -> dict[str, str]:
    """The sections of a page by their headings."""
    parts = re.split(r"^## (.+)\n", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def checks(section: str) -> int:
    """How often the code of a section asserts something, by `assert` or `assert_close`."""
    code = re.findall(r"^```python\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    nodes = [node for block in code for node in ast.walk(ast.parse(block))]
    close = [n for n in nodes if isinstance(n, ast.Call) and ast.unparse(n.func) == "close"]
    return len(close) + sum(isinstance(n, ast.Assert) for n in nodes)


def markdown(cells: list[dict[str, Any]]) -> str:
    """All text of a notebook."""
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def formulas(text: str) -> list[str]:
    """The formulas of a page, in its order."""
    prose = re.sub(r"^```\w+\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\$\$.+?\$\$|\$.+?\$", prose, flags=re.DOTALL)


@pytest.mark.parametrize("heading", sections(TEXT))
def test_every_section_is_checked_and_has_a_source(heading: str) -> None:
    section = sections(TEXT)[heading]
    assert checks(section) >= 3
    assert "Source:" in section


def test_a_section_without_a_check_would_be_found() -> None:
    assert checks("```python\nx = 1\nprint(x)\n```\nassert, in words\n") == 0
    assert checks("```python\nclose(1, 1)\nassert True\n```\n") == 2


def test_close_on_the_page_is_the_comparison_that_raises() -> None:
    assert re.findall(r"^close = (.+)$", TEXT, flags=re.MULTILINE) == ["torch.testing.assert_close"]


def test_the_notebook_is_made_from_the_page() -> None:
    written = NOTEBOOK.read_text(encoding="utf-8")
    assert written == notebook(TEXT), "run: python tools/notebook.py --write"


def test_the_notebook_has_the_form_of_nbformat_4_5() -> None:
    assert (MADE["nbformat"], MADE["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in MADE["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", i) for i in ids)
    keys = {"cell_type", "id", "metadata", "source"}
    for cell in MADE["cells"]:
        code = cell["cell_type"] == "code"
        assert set(cell) == (keys | {"execution_count", "outputs"} if code else keys)


def test_it_has_the_code_of_the_page_and_no_results() -> None:
    code = [cell for cell in MADE["cells"] if cell["cell_type"] == "code"]
    assert ["".join(c["source"]) + "\n" for c in code] == blocks(PAGE, "python")
    assert all(c["outputs"] == [] and c["execution_count"] is None for c in code)


def test_the_first_cell_says_how_to_install() -> None:
    first = MADE["cells"][0]
    assert first["cell_type"] == "markdown" and "".join(first["source"]) + "\n" == INSTALL
    assert "pip install" in INSTALL and f"notebooks/{NOTEBOOK.name}" in INSTALL


def test_formulas_are_kept() -> None:
    found = formulas(TEXT)
    assert len(found) > 150
    assert formulas(markdown(MADE["cells"])) == found


def test_links_lead_from_the_folder_of_the_notebook() -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", markdown(MADE["cells"]))
    local = [link for link in links if "://" not in link]
    assert len(local) > 10
    for link in local:
        assert (NOTEBOOK.parent / link.partition("#")[0]).resolve().is_file(), link
    assert len([link for link in local if link.endswith(".png")]) == TEXT.count("(images/")


def test_a_page_changes_the_notebook() -> None:
    assert notebook(TEXT) == notebook(TEXT)
    changed = notebook(TEXT.replace("# From steepest", "# Away from steepest", 1))
    assert changed != notebook(TEXT)


# What the page says, and the claim and the piece of its stored result that it is from.
QUOTED = {
    "630 of 672 cases on the GPT, ×1.73": ("layers-text", "630 of 672", "×1.73"),
    "162 of 168 on the MLP, ×1.84": ("layers-images", "162 of 168", "×1.84"),
    "correlations of +0.77": ("nuclear-rank-text", "+0.77,"),
    "and +0.25": ("nuclear-rank-images", "+0.25,"),
    "at 567 of 637 points (89 %)": ("predicts-text", "567 of 637 (89 %)"),
    'always saying "spectral" is right at 97 %': ("predicts-text", "a constant at 97 %"),
    "exceeded the ratio at 44 % of the points": ("bound-text", "(56 %)"),
}


@pytest.mark.parametrize("said", QUOTED)
def test_measured_numbers_are_those_that_are_stored(said: str) -> None:
    assert said in " ".join(TEXT.split())
    name, *pieces = QUOTED[said]
    stored = json.loads((ROOT / "docs/reproductions/directional-sharpness.json").read_text("utf-8"))
    (claim,) = (c for c in stored["claims"] if c["id"] == name)
    assert all(piece in claim["measured"] for piece in pieces)
