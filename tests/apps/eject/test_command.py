"""`steepest eject`: its flags, the file that it writes, and its refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn
from typer.testing import CliRunner, Result

from steepest.apps.app import app, command_of
from steepest.apps.eject.command import NAMES
from steepest.apps.eject.start import text
from steepest.optim import PRESETS
from tests.apps.eject import written
from tests.test_docs import blocks

ROOT = Path(__file__).resolve().parents[3]
FLAGS = ["name", "--list", "--out", "--force", "--error", "--dtype", "--polar"]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["eject", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_flags_are_frozen_and_documented() -> None:
    shown = command_of("eject")
    assert [o for p in shown.params for o in p.opts] == FLAGS
    page = (ROOT / "docs" / "eject.md").read_text("utf-8")
    assert [f for f in (*FLAGS[1:], *PRESETS) if f"`{f}" not in page] == []


def test_the_page_shows_lines_of_the_file_and_how_to_use_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, use, remark = blocks(ROOT / "docs" / "eject.md", "py")
    content = text("Muon")
    assert step in content and remark in content
    assert "0.01 takes seven steps" in (ROOT / "docs" / "eject.md").read_text("utf-8")
    assert [len(written.ejected("Muon", error=e).SCHEDULE) for e in (0.05, 0.01)] == [6, 7]
    assert call("muon").exit_code == 0
    monkeypatch.syspath_prepend(tmp_path)
    model = nn.ModuleDict({"c_attn": nn.Linear(4, 12), "lm_head": nn.Linear(4, 9)})
    names: dict[str, Any] = {"model": model, "learning_rate": 6e-4, "lr": 3e-4}
    exec(use, names)
    rates = [(g["lr"], g["adamw"], g["split"]) for g in names["optimizer"].param_groups]
    assert rates == [(0.01, False, 3), (pytest.approx(3e-4), True, 1)]


def test_the_file_is_named_after_the_optimizer() -> None:
    result = call("MUON")
    assert (result.exit_code, result.stdout) == (0, "muon.py\n")
    assert [p.name for p in Path().iterdir()] == ["muon.py"]
    assert Path("muon.py").read_text("utf-8") == text("Muon")


def test_a_name_for_the_file_and_the_options(tmp_path: Path) -> None:
    path = tmp_path / "my_muon.py"
    result = call("muon", "--out", path, "--error", 1e-3, "--dtype", "bfloat16")
    assert (result.exit_code, result.stdout) == (0, f"{path}\n")
    content = path.read_text("utf-8")
    assert content == text("Muon", error=1e-3, dtype="bfloat16")
    assert "y.bfloat16()" in content and "--error 0.001 --dtype bfloat16" in content


def test_it_is_printed_where_that_is_asked_for() -> None:
    assert call("scion", "--out", "-").stdout == text("Scion")
    assert not list(Path().iterdir())


def test_a_file_that_exists_stays() -> None:
    Path("lion.py").write_text("mine")
    result = call("lion")
    assert result.exit_code == 2
    assert result.stderr == (
        "steepest: error: --out lion.py: the file exists; give --force to write over it\n"
    )
    assert Path("lion.py").read_text() == "mine"
    assert call("lion", "--force").exit_code == 0
    assert Path("lion.py").read_text("utf-8") == text("Lion")


def test_a_write_that_fails_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("lion.py").write_text("old")

    def full(_: object, __: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    result = call("lion", "--force")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1 and "No space left" in result.stderr
    assert [p.name for p in Path().iterdir()] == ["lion.py"]
    assert Path("lion.py").read_text() == "old"


def test_the_list_has_every_row() -> None:
    result = call("--list")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == list(NAMES)
    assert all(preset.source in result.stdout for preset in PRESETS.values())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), f"name an optimizer: {', '.join(NAMES)}; --list describes them"),
        (("mouon",), f"mouon: did you mean muon? Choose from {', '.join(NAMES)}"),
        (("zebra",), f"zebra: choose from {', '.join(NAMES)}"),
        (("lion", "--error", 0.1), "--error 0.1: Lion computes no polar factors: leave it out"),
        (
            ("sgd", "--polar", "jordan"),
            "--polar jordan: SGD computes no polar factors: leave it out",
        ),
        (
            ("muon", "--polar", "jordan", "--error", 0.1),
            "--error 0.1: it designs the steps, and those of --polar jordan are given",
        ),
        (("muon", "--error", 1), "--error 1: give a number from 1e-6 to 1"),
        (
            ("muon", "--dtype", "float16"),
            "--dtype float16: did you mean bfloat16? Choose from float32, bfloat16",
        ),
    ],
)
def test_a_refusal_is_one_line_and_nothing_is_written(
    arguments: tuple[object, ...], said: str
) -> None:
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"steepest: error: {said}\n"
    assert not list(Path().iterdir())
