"""The facts of a release: what disagrees is an error, what is missing is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tools.release_check import ROOT, URLS, disagreements, missing

FILES = ("pyproject.toml", "CITATION.cff", "CHANGELOG.md", "README.md")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in FILES:
        shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


def write(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "old"),
    [("CITATION.cff", "version: 0.1.0"), ("CHANGELOG.md", "## [0.1.0]")],
)
def test_another_version_is_an_error(root: Path, name: str, old: str) -> None:
    assert disagreements(root) == []
    write(root / name, (old, old.replace("0.1.0", "0.2.0")))
    (line,) = disagreements(root)
    assert line.startswith(f"{name}: ") and "0.1.0" in line


def test_the_version_of_the_project_decides(root: Path) -> None:
    write(root / "pyproject.toml", ('version = "0.1.0"', 'version = "0.2.0"'))
    assert [line.partition(":")[0] for line in disagreements(root)] == list(FILES[1:3])


def test_nothing_is_made_up_before_a_release() -> None:
    """An address of the project is a fact that only whoever publishes it can state."""
    named = {line.split(": ")[1].split(" = ")[0] for line in missing() if "urls" in line}
    assert named in (set(), set(URLS))
    for name in FILES[:2]:
        assert "example.com" not in (ROOT / name).read_text(encoding="utf-8")


def test_a_complete_release_misses_nothing(root: Path) -> None:
    if not missing(root):
        pytest.skip("this is a release")
    urls = "\n".join(f'{name} = "https://one.test/{name}"' for name in URLS)
    write(
        root / "pyproject.toml",
        ("[project.scripts]", f"[project.urls]\n{urls}\n\n[project.scripts]"),
    )
    cited = 'version: 0.1.0\nrepository-code: "https://one.test"\ndate-released: 2027-01-01'
    write(root / "CITATION.cff", ("version: 0.1.0", cited))
    write(root / "CHANGELOG.md", ("- unreleased", "- 2027-01-01"))
    (root / "README.md").write_text("![a](https://one.test/a.png)\n", encoding="utf-8")
    assert missing(root) == disagreements(root) == []


@pytest.mark.parametrize(
    ("name", "old", "said"),
    [
        ("CHANGELOG.md", "- unreleased", "CHANGELOG.md: ## [0.1.0] - YYYY-MM-DD"),
        ("README.md", "https://one.test/", "README.md: 1 pictures"),
    ],
)
def test_what_is_missing_is_named(root: Path, name: str, old: str, said: str) -> None:
    (root / "README.md").write_text(f"![a]({'' if name == 'README.md' else old}a.png)\n", "utf-8")
    assert any(line.startswith(said) for line in missing(root))
