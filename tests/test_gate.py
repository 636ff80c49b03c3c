"""The gate leaves nothing out: each of its tools sees every file that it is there for.

Tools come with lists of folders that they pass over, and `dist` is in several of them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from fnmatch import fnmatch

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from mypy.main import process_options

from tests.test_house import ROOT, tracked

FILES = {path.relative_to(ROOT).as_posix() for path in tracked() if path.is_file()}
PYTHON = {name for name in FILES if name.endswith(".py")}

pytestmark = pytest.mark.skipif(not FILES, reason="needs a checkout: git lists the files")

# What an unpacked sdist does not need: CI's own script, and what git ignores.
NOT_IN_SDIST = {".ci/run", ".gitignore"}


def without_root(lines: str) -> set[str]:
    """Paths of a tool's output, inside the checkout."""
    return {os.path.relpath(line, ROOT) for line in lines.splitlines()}


def test_ruff_reads_every_file() -> None:
    command = [sys.executable, "-m", "ruff", "check", "--show-files", "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    shown = {name for name in without_root(done.stdout) if name.endswith(".py")}
    untracked = ["git", "ls-files", "--others", "--exclude-standard", "*.py"]
    new = subprocess.run(untracked, cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown == PYTHON | set(new.stdout.splitlines())


def test_mypy_reads_the_package_and_the_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    sources, options = process_options([])
    assert options.strict_equality  # the settings of this checkout, and not mypy's own
    read = {os.path.relpath(source.path, ROOT) for source in sources if source.path}
    assert read >= {name for name in PYTHON if name.startswith(("src/", "tools/"))}


def test_pytest_collects_every_test_and_every_example(pytestconfig: pytest.Config) -> None:
    passed_over = pytestconfig.getini("norecursedirs")
    folders = {part for name in PYTHON for part in name.split("/")[:-1]}
    assert not [f for f in folders if any(fnmatch(f, pattern) for pattern in passed_over)]
    assert pytestconfig.getini("testpaths") == ["tests"]
    for name in (n for n in PYTHON if n.startswith("tests/")):
        text = (ROOT / name).read_text(encoding="utf-8")
        if re.search(r"^(async )?def test_", text, flags=re.MULTILINE):
            own = name.rpartition("/")[2]
            assert any(fnmatch(own, p) for p in pytestconfig.getini("python_files")), name


@pytest.mark.parametrize(
    "targets", [["test"], ["test-rest", "coverage"], ["test-slow"]], ids=" ".join
)
def test_make_runs_every_file_of_tests(targets: list[str]) -> None:
    command = ["make", "--dry-run", "-o", ".venv/.installed", *targets]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.replace("\\\n", " ").splitlines()
    calls = [line.split()[1:] for line in lines if " -m pytest" in line]
    assert calls
    left = {n for n in PYTHON if re.fullmatch(r"tests/(.+/)?test_\w+\.py", n)}
    assert left
    for words in calls:
        given = [w for w in words if w.startswith("tests")] or ["tests"]
        ignored = [w.removeprefix("--ignore=") for w in words if w.startswith("--ignore=")]
        left = {n for n in left if not within(n, given) or within(n, ignored)}
    assert not left, f"make {' '.join(targets)} leaves out {sorted(left)}"


def test_every_night_runs_what_is_slow() -> None:
    command = ["make", "--dry-run", "-o", ".venv/.installed", "nightly"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    tests = [line for line in lines if " -m pytest" in line]
    assert len(tests) == 2 and all(line.endswith(" -m slow") for line in tests)
    tools = [line.partition(" tools/")[2] for line in lines if " tools/" in line]
    assert {tool.split()[0] for tool in tools} == {
        *("kill_resume.py", "clean_exits.py", "long_run.py")
    }
    assert "kill_resume.py 100 --parallel fsdp" in tools
    # A tool that refused its arguments would end the night at once.
    for tool in tools:
        name, *words = tool.split()
        told = (ROOT / "tools" / name).read_text(encoding="utf-8")
        assert all(word in told for word in words if word.startswith("--")), tool


def test_the_gate_runs_no_test_twice() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^check: static test-rest coverage ", makefile, flags=re.MULTILINE)
    command = ["make", "--dry-run", "-o", ".venv/.installed", "test-rest"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    given = [w for w in done.stdout.split() if w.startswith("tests/")]
    assert not [w for w in given if not (ROOT / w).exists()]
    # A folder that is traced is here by those of its files only that are not.
    traced = re.findall(r"^COVERED := (.*)$", makefile, flags=re.MULTILINE)[0].split()
    untraced = [w for w in given if within(w, traced)]
    assert untraced and all(w.endswith(".py") for w in untraced)


def within(name: str, places: Sequence[str]) -> bool:
    """Whether a file is one of these, or below one."""
    return any(name == place or name.startswith(f"{place}/") for place in places)


def test_git_ignores_nothing_that_belongs_to_the_tree() -> None:
    command = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not done.stdout
    # Nor would it in a folder of the package that is called like one of these.
    names = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    anywhere = {name for name in names if not name.startswith(("/", "."))}
    assert anywhere == {"__pycache__/", "*.egg-info/"}


def test_sdist_and_wheel_hold_every_file() -> None:
    packed = {file.relative_path for file in SdistBuilder(str(ROOT)).recurse_included_files()}
    packed.add("pyproject.toml")  # hatchling adds it by itself
    assert packed >= FILES - NOT_IN_SDIST
    inside = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert inside >= {name.removeprefix("src/") for name in FILES if name.startswith("src/")}
