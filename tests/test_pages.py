"""What is said in several places is said alike, and what the pages name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from steepest import norms, polar
from steepest.maps import Scalar
from steepest.optim import SteepestOptimizer
from tests.navigation import GROUPS

ROOT = Path(__file__).resolve().parent.parent


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def part(text: str, heading: str) -> str:
    """What stands under a heading, down to the next one of its level or above."""
    level = heading.partition(" ")[0]
    after = text.partition(f"{heading}\n")[2]
    assert after, f"no heading {heading}"
    return re.split(rf"^#{{1,{len(level)}}} ", after, maxsplit=1, flags=re.MULTILINE)[0]


def flat(text: str) -> str:
    """Without line breaks."""
    return " ".join(text.split())


def lists(text: str, link: str) -> dict[str, list[tuple[str, str]]]:
    """(title, page) of each link, by the bold word that begins a line before them."""
    found = {}
    for piece in re.split(r"^(?=\*\*)", text, flags=re.MULTILINE)[1:]:
        group, _, links = piece.removeprefix("**").partition("**")
        found[group] = re.findall(link, links, flags=re.MULTILINE)
    return found


def test_the_readme_lists_the_pages_of_the_navigation() -> None:
    # **Group**: [Title](docs/page.md) · [Title](docs/other.md)
    listed = part(read("README.md"), "## Documentation")
    assert lists(listed, r"\[([^\]]+)\]\(docs/([\w./]+\.md)\)") == GROUPS


def test_the_home_page_lists_the_pages_of_the_navigation() -> None:
    listed = part(read("docs/index.md"), "## All pages")
    assert lists(listed, r"^- \[([^\]]+)\]\(([\w./]+)\): \S") == GROUPS


def test_the_navigation_calls_pages_by_their_titles() -> None:
    titles = [item for pages in GROUPS.values() for item in pages if item[0] != "Home"]
    wrong = [page for title, page in titles if not read(f"docs/{page}").startswith(f"# {title}\n")]
    assert not wrong


def test_the_home_page_shows_what_its_code_prints(capsys: pytest.CaptureFixture[str]) -> None:
    page = read("docs/index.md")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (shown,) = re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL)
    exec(compile(code, "index.md", "exec"), {})
    assert capsys.readouterr().out.rstrip() == shown.rstrip()


def test_the_site_refers_to_nothing_that_it_does_not_have() -> None:
    for path in (ROOT / "docs").rglob("*.md"):
        assert "README" not in path.read_text(encoding="utf-8"), f"{path.name}: not on the site"


@pytest.mark.parametrize(
    ("heading", "base"),
    [
        ("### A polar method", polar.PolarMethod),
        ("### A norm", norms.Norm),
        ("### A convex map", Scalar),
        ("### An optimizer", SteepestOptimizer),
    ],
)
def test_recipes_name_what_a_subclass_has_to_write(heading: str, base: type) -> None:
    recipe = part(read("CONTRIBUTING.md"), heading)
    missing = [n for n in base.__abstractmethods__ if f"`{n}`" not in recipe]
    assert not missing, f"{heading} does not name {missing}"


def test_recipes_name_files_and_names_that_exist() -> None:
    text = read("CONTRIBUTING.md")
    places = re.findall(r"`((?:src|tests|docs|tools)/[\w./-]*)`", text)
    assert len(places) > 20
    assert not [p for p in places if not (ROOT / p).exists()]
    # "`NAME` in `file`" is a name of that file.
    pairs = re.findall(r"`([A-Za-z_]\w*)`\s+(?:in|of)\s+`((?:src|tests)/[\w./]+\.py)`", text)
    assert len(pairs) > 10
    wrong = [(n, p) for n, p in pairs if not re.search(rf"\b{n}\b", read(p))]
    assert not wrong
