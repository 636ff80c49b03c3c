"""The command `steepest`: how it starts, and what it says where it cannot."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

from steepest import cli


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "steepest", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"steepest {version('steepest')}\n")


def test_the_script_calls_main() -> None:
    (script,) = entry_points(group="console_scripts", name="steepest")
    assert script.load() is cli.main


def test_without_a_command_the_help_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["steepest"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    shown = capsys.readouterr()
    assert "train" in shown.out + shown.err


@pytest.mark.parametrize("extra", ["train", "lab", "bench"])
def test_each_extra_brings_what_the_command_line_needs(extra: str) -> None:
    path = Path(__file__).resolve().parent.parent / "pyproject.toml"
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[^\w-]", r)[0] for r in project["optional-dependencies"][extra]}
    assert set(cli.NEEDED) <= names


@pytest.mark.parametrize("gone", [["typer"], ["rich", "tensorboard"]])
def test_missing_packages_are_one_line_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gone: list[str]
) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name in gone else object())
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert ", ".join(gone) in shown.err
    assert "pip install 'steepest[train]'" in shown.err


def test_a_wrong_flag_is_refused_with_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["steepest", "train", "--lerning-rate", "1"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    assert "--lerning-rate" in capsys.readouterr().err
