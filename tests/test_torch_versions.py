"""The supported range of torch is one range wherever it is stated, and the tool that runs it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tools import torch_versions

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / "tools" / "torch_versions.py"

# GHSA-63cw-57p8-fm3p: the first release in which torch.load(weights_only=True) is mended.
SAFE = Version("2.10.0")


def admitted() -> SpecifierSet:
    """The range in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [Requirement(line) for line in project["dependencies"]]
    return next(r.specifier for r in listed if r.name == "torch")


def pinned() -> str:
    """The release in constraints.txt."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return re.findall(r"^torch==(.*)$", text, re.MULTILINE)[0]


def test_the_range_is_what_was_run() -> None:
    """Its first release and one of its last minor version, and nothing that is not safe to load."""
    first, last = (Version(v) for v in torch_versions.TESTED)
    low, high = (next(s for s in admitted() if s.operator == op) for op in (">=", "<"))
    assert Version(low.version) == first >= SAFE
    assert Version(high.version) == Version(f"{last.major}.{last.minor + 1}")
    assert len(admitted()) == 2
    for version in (*torch_versions.TESTED, pinned(), torch.__version__):
        assert version in admitted()


def test_the_documentation_says_the_same() -> None:
    first, last = (Version(v) for v in torch_versions.TESTED)
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert f"torch {first.major}.{first.minor} to {last.major}.{last.minor} and jaxtyping" in text
    run = re.search(r"run under ([\d., and]+)\.\n", text)
    assert run and re.findall(r"\d+\.\d+\.\d+", run[1]) == [str(first), pinned(), str(last)]
    for path in [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]:
        floors = re.findall(r"torch (?:≥|>=) ?([\d.]+\d)", path.read_text(encoding="utf-8"))
        assert all(Version(v) == Version(f"{first.major}.{first.minor}") for v in floors), path


def test_everything_but_torch_is_asked_for() -> None:
    wanted = torch_versions.requirements()
    assert {"tensorboard", "jaxtyping", "hypothesis", "pytest"} <= {
        Requirement(r).name for r in wanted
    }
    assert "torch" not in {Requirement(r).name for r in wanted}
    lines = ("torch==2.13.0", "torch", "torch>=2.10,<2.15", "torch ; python_version > '3'")
    assert all(map(torch_versions.is_torch, lines))


def test_the_core_is_all_of_the_library() -> None:
    """Every folder of tests is of the core or of an application."""
    folders = {p.parent.name for p in (ROOT / "tests").glob("*/test_*.py")}
    applications = {"train", "lab", "gallery", "diagnose", "bench", "plan"}
    core = {name.removeprefix("tests/") for name in torch_versions.CORE}
    assert {name for name in core if not name.endswith(".py")} == folders - applications


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["2.14"], "'2.14' is no release of torch: write it as 2.14.1"),
        (["2.14.1;true"], "is no release"),
        (["--index-url=x"], "unrecognized arguments"),
        (["2.14.1", "--tests", "tests/nowhere"], "'tests/nowhere' is not in"),
        (["2.14.1", "--folder", "nowhere"], "--folder=nowhere: it is no folder"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_made(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-I", TOOL, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that is there at once: the tests run with this Python."""

    def install(torch: str, folder: Path) -> Path:
        (folder / "venv").mkdir()
        return Path(sys.executable)

    monkeypatch.setattr(torch_versions, "install", install)
    monkeypatch.setattr(torch_versions, "NEEDED_GIB", 0)


@pytest.mark.parametrize("keep", [False, True])
def test_counts_are_printed_and_the_environment_is_gone(
    keep: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(tmp_path, monkeypatch)
    chosen = "tests/test_checking.py::test_shapes_and_their_names_are_checked"
    flags = ["2.14.1", "--folder", str(tmp_path), "--tests", chosen, *(["--keep"] if keep else [])]
    assert torch_versions.main(flags) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("torch 2.14.1: 1 passed, 0 failed, 0 errors, 0 skipped; ")
    assert len(list(tmp_path.iterdir())) == keep


def test_a_failure_fails_and_the_environment_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(tmp_path, monkeypatch)
    nothing = "tests/test_checking.py::test_that_is_not_there"
    flags = ["2.14.1", "--folder", str(tmp_path), "--tests", nothing]
    assert torch_versions.main(flags) == 1

    def failing(torch: str, folder: Path) -> Path:
        raise subprocess.CalledProcessError(1, ["python", "-m", "pip"])

    monkeypatch.setattr(torch_versions, "install", failing)
    assert torch_versions.main(flags) == 1
    assert "nothing was run: pip ended with code 1" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
