"""The command `steepest`: how it starts, and what it says where it cannot."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from steepest.apps import cli
from steepest.apps.app import COMMANDS, app, command_of

ROOT = Path(__file__).resolve().parents[2]


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "steepest", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"steepest {version('steepest')}\n")


def test_the_help_needs_no_torch() -> None:
    code = "import sys; sys.argv[1:] = ['--help']; from steepest.apps import cli\n"
    code += "try: cli.main()\nfinally: print('torch' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "False\n")
    assert "train" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_has_the_first_line_of_each_command(name: str) -> None:
    assert (command_of(name).help or "").partition("\n")[0] == COMMANDS[name]


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


@pytest.mark.parametrize("extra", ["train", "reproduce", "bench"])
def test_each_extra_brings_what_the_command_line_needs(extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
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
    assert f"pip install {' '.join(gone)}, or in a checkout: pip install '.[train]'" in shown.err


def test_what_is_to_be_installed_can_be() -> None:
    # The package is on no index: from a checkout it is `.`, and what it needs has its own names.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    rows = [*project["dependencies"], *(row for extra in extras.values() for row in extra)]
    known = {re.split(r"[^\w-]", row)[0] for row in rows}
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    found = 0
    for path in files:
        text = path.read_text(encoding="utf-8")
        for rest in text.split("pip install ")[1:]:
            found += 1
            extra = re.match(r"'\.\[([\w,]+)\]'", rest)
            name = re.match(r"\{|\.\s|[\w-]+", rest)
            shown = f"{path.name}: pip install {rest.partition(chr(10))[0]}"
            if extra:
                assert set(extra[1].split(",")) <= extras.keys(), shown
            else:
                assert name, shown
                assert name[0].strip() in {"{", ".", *known}, shown
    assert found > 5


def test_a_wrong_flag_is_refused_with_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["steepest", "train", "--lerning-rate", "1"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    assert "--lerning-rate" in capsys.readouterr().err


def squeezed(text: str) -> str:
    """A text without what breaks its lines."""
    return "".join(text.split())


@pytest.mark.parametrize("name", ["", *COMMANDS])
@pytest.mark.parametrize("columns", ["60", "100", "200"])
def test_the_help_is_what_was_written(name: str, columns: str) -> None:
    whole = command_of(name) if name else get_command(app)
    arguments = [name, "--help"] if name else ["--help"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": columns})
    assert result.exit_code == 0
    # Emojis lie beyond the plane of all other characters.
    assert max(map(ord, result.output)) < 0x10000
    shown = squeezed(result.output)
    assert squeezed(whole.help) in shown
    texts = [text for p in whole.params if (text := getattr(p, "help", None))]
    assert texts
    for text in texts:
        assert squeezed(text) in shown, text
    for sentence in () if name else COMMANDS.values():
        assert squeezed(sentence) in shown
