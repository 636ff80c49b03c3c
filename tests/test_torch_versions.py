"""The supported range of torch is one range wherever it is stated, and the tool that runs it."""

from __future__ import annotations

import re
import signal
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
    assert f"torch {first.major}.{first.minor} to {last.major}.{last.minor}." in text
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
    """Every folder of tests but that of the applications and that of the frameworks."""
    files = (p.relative_to(ROOT / "tests") for p in (ROOT / "tests").rglob("test_*.py"))
    folders = {p.parts[0] for p in files if len(p.parts) > 1}
    core = {name.removeprefix("tests/") for name in torch_versions.CORE}
    assert {name for name in core if not name.endswith(".py")} == folders - {"apps", "frameworks"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["2.14"], "'2.14' is not a release of torch: write it as 2.14.1"),
        (["2.14.1;true"], "is not a release"),
        (["--index-url=x"], "unrecognized arguments"),
        (["2.14.1", "--tests", "tests/nowhere"], "'tests/nowhere' is not in"),
        (["2.14.1", "--folder", "nowhere"], "--folder=nowhere: it is not a folder"),
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


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that is there at once: this one."""
    monkeypatch.setattr(torch_versions, "install", lambda torch, folder: Path(sys.executable))
    monkeypatch.setattr(torch_versions, "NEEDED_GIB", 0)


@pytest.mark.parametrize(
    ("slow", "found"),
    [
        (False, "1 passed, 0 failed, 0 errors, 1 skipped"),
        (True, "1 passed, 1 failed, 0 errors, 1 skipped"),
    ],
)
def test_the_counts_are_those_of_pytest(slow: bool, found: str, tmp_path: Path) -> None:
    file = tmp_path / "test_some.py"
    file.write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_not(): pytest.skip('no')\n"
        "@pytest.mark.slow\n"
        "def test_bad(): assert False\n",
        encoding="utf-8",
    )
    outcome = torch_versions.run(Path(sys.executable), tmp_path, [str(file)], slow)
    assert outcome == (found, not slow)


@pytest.mark.usefixtures("at_once")
def test_the_environment_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch_versions, "run", lambda *_: ("1 passed", True))
    assert torch_versions.main(["2.14.1", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("torch 2.14.1: 1 passed; ")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("at_once")
def test_one_release_that_fails_fails_all_and_may_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = iter([("1 passed", True), ("1 failed", False)])
    monkeypatch.setattr(torch_versions, "run", lambda *_: next(outcomes))
    assert torch_versions.main(["--folder", str(tmp_path), "--keep"]) == 1
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert [line.split(";")[0] for line in lines] == [
        f"torch {version}: {found}"
        for version, found in zip(torch_versions.TESTED, ("1 passed", "1 failed"), strict=True)
    ]
    assert sorted(tmp_path.iterdir()) == sorted(Path(line.split(", in ")[1]) for line in lines)


@pytest.mark.usefixtures("at_once")
def test_what_pip_cannot_install_is_a_failure_and_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def install(torch: str, folder: Path) -> Path:
        raise subprocess.CalledProcessError(1, ["python", "-m", "pip"])

    monkeypatch.setattr(torch_versions, "install", install)
    assert torch_versions.main(["2.14.1", "--folder", str(tmp_path)]) == 1
    assert "nothing was run: pip ended with code 1" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_two_signals_in_a_row_leave_nothing(tmp_path: Path) -> None:
    """`timeout` sends one to the process and one to its group."""
    code = f"""
import time
from tools import torch_versions as tool

def install(torch, folder):
    print("installing", flush=True)
    time.sleep(60)

def rmtree(folder, remove=tool.shutil.rmtree):
    print("removing", flush=True)
    time.sleep(1)
    remove(folder)

tool.install, tool.shutil.rmtree, tool.NEEDED_GIB = install, rmtree, 0
tool.main(["2.14.1", "--folder", {str(tmp_path)!r}])
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for word in ("installing", "removing"):
            while word not in process.stdout.readline():
                assert process.poll() is None
            process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())
