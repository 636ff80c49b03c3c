"""What every command shares: values of flags, one line for what is wrong, and the help."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from steepest._common.errors import Refusal, invalid, refusal
from steepest.apps import _command
from steepest.apps._flags import Number, OneOf, RefusedValue, Whole, Words
from steepest.apps.app import COMMANDS, app, command_of

# Their flags are declared without torch; a command that is not among them imports it.
LIGHT = ("train", "compare", "reproduce", "gallery", "bench", "eject", "plan", "diagnose")
HEAVY = ("torch", "matplotlib", "numpy", "rich", "jinja2", "tensorboard")
USAGE = (
    *((name, "--help") for name in LIGHT),
    *((name, "--no-such-flag") for name in LIGHT),
    ("--version",),
    ("--help",),
    (),
    ("trian",),
    ("train", "--optimizer", "mouon"),
    ("train", "--lr", "0.1"),
    ("train", "--norm", "schatten"),
    ("train", "--weight-decay", "muon=100"),
    ("train", "--width", "130"),
    ("plan", "--model", "gpt9"),
    ("plan", "--mesh", "pipe=2"),
    ("plan", "--set", "outer=-1"),
    ("bench", "--set", "gpt"),
    ("bench", "--calibrate", "--steps"),
    ("gallery", "--only", "bals"),
    ("eject",),
    ("eject", "mouon"),
    ("eject", "muon", "--error", "2"),
    ("reproduce",),
    ("reproduce", "--list"),
    ("reproduce", "dream"),
    ("reproduce", "quadratics", "--jobs", "0"),
    ("compare", "--optimizer", "mouon"),
    ("compare", "--seed", "2147483648"),
)


@pytest.mark.parametrize(
    "calls", [USAGE[i : i + 7] for i in range(0, len(USAGE), 7)], ids=lambda c: f"{len(c)} calls"
)
def test_help_and_usage_errors_import_nothing_heavy(calls: tuple[tuple[str, ...], ...]) -> None:
    # In one process: what one call imported, the next would find.
    code = (
        "import sys\nfrom steepest.apps.cli import main\n"
        f"for call in {calls!r}:\n"
        "    sys.argv[1:] = call\n"
        "    try: main()\n"
        "    except SystemExit: pass\n"
        f"    found = [n for n in {HEAVY!r} if n in sys.modules]\n"
        "    assert not found, (call, found)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("steepest tr", "train"),
        ("steepest train --opti", "--optimizer"),
        ("steepest train --optimizer mu", "muon"),
        ("steepest train --norm scha", "schatten:4"),
        ("steepest train --lr mu", "muon="),
        ("steepest train --schedule c", "cosine"),
        ("steepest train --parallel d", "ddp"),
        ("steepest train --device cu", "cuda"),
        ("steepest train --dtype b", "bfloat16"),
        ("steepest reproduce lr", "lr-transfer"),
        ("steepest plan --model llama-8", "llama-8b"),
        ("steepest plan --device h2", "h200"),
        ("steepest plan --set out", "outer="),
        ("steepest bench --set vit", "vit-64"),
        ("steepest gallery --only ba", "balls"),
        ("steepest eject mu", "muon"),
        ("steepest eject muon --polar jo", "jordan"),
        ("steepest compare --optimizer sc", "scion"),
        ("steepest compare --task di", "digits"),
    ],
)
def test_the_shell_completes_values(line: str, expected: str) -> None:
    env = {
        **os.environ,
        "_STEEPEST_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
    }
    code = (
        "import sys\nfrom steepest.apps.cli import main\n"
        "try: main()\nfinally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env
    )
    assert done.stderr == ""
    assert expected in done.stdout.split()


def interrupting(folder: Path, module: str, number: str) -> dict[str, str]:
    """An environment in which the import of a module sends a signal to its process."""
    (folder / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            sys.meta_path.remove(self)\n"
        f"            os.kill(os.getpid(), signal.{number})\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


@pytest.mark.parametrize("module", ["typer", "steepest.apps.app", "torch"])
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_while_modules_are_imported_leaves_no_traceback(
    tmp_path: Path, module: str, number: str
) -> None:
    call = [sys.executable, "-m", "steepest", "plan"]
    env = interrupting(tmp_path, module, number)
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=env)
    assert done.stderr in ("", "steepest: error: stopped\n", "steepest: stopped\n")
    assert done.stdout == ""
    # A shell shows 143 for a process that SIGTERM has ended.
    assert done.returncode == (130 if number == "SIGINT" else -signal.SIGTERM)


@pytest.mark.parametrize("name", [n for n in COMMANDS if n != "plan"])
def test_ctrl_c_while_a_command_imports_torch(tmp_path: Path, name: str) -> None:
    script = "import sys; sys.argv[0] = 'steepest'; from steepest.apps.cli import main; main()"
    needed = {"reproduce": ["lr-transfer"], "eject": ["muon"], "diagnose": [str(tmp_path)]}
    arguments = needed.get(name, [])
    call = [sys.executable, "-c", script, name, *arguments]
    env = interrupting(tmp_path, "torch", "SIGINT")
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=env, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (130, "")
    assert "Traceback" not in done.stderr and done.stderr.count("\n") <= 1
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".py"] in ([], ["__pycache__"])


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_are_calls_that_are_understood(name: str) -> None:
    command = command_of(name)
    assert name not in LIGHT or len(command.examples) >= 2
    for line, text in command.examples:
        words = line.split()
        assert words[0] == name and text.endswith(".")
        with command.make_context(name, words[1:]):
            pass


@pytest.mark.parametrize("name", LIGHT)
def test_the_help_has_words_for_values_and_plain_defaults(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "100"}).output
    assert "Examples:" in shown
    assert "[default: (" not in shown and "<" not in shown
    # typer's runner has 80 columns, whatever is asked for.
    needed = ["here"] if name == "diagnose" else []
    with command_of(name).make_context(name, needed, terminal_width=60) as ctx:
        narrow = ctx.get_help()
    assert max(map(len, narrow.partition("Examples:")[0].splitlines())) <= 60
    if len(command_of(name).params) > 8:
        assert shown.count(":\n") >= 4


def refused(call: Any) -> str:
    with pytest.raises(RefusedValue) as caught:
        call()
    return str(caught.value.remedy)


def test_whole_numbers() -> None:
    assert Whole()("12") == 12 and Whole()(12) == 12
    assert refused(lambda: Whole()("1e3")) == "not a whole number; write {flag} 1000"
    assert refused(lambda: Whole()("0.5")) == "not a whole number; give one >= 1"
    assert refused(lambda: Whole()("1e99")) == "not a whole number; give one >= 1"
    assert refused(lambda: Whole(0)("x")) == "not a number; give a whole number >= 0"
    assert refused(lambda: Whole(most=8)("9")) == "give a whole number <= 8"
    assert refused(lambda: Whole()("nan")) == "not a whole number; give one >= 1"


def test_names_are_looked_up_when_they_are_asked_for() -> None:
    table = {"Muon": 1}
    kind = OneOf(table, several=True)
    assert kind("MUON") == "Muon"
    table["sgd"] = 2
    assert kind("sgd") == "sgd"
    assert refused(lambda: kind("sgd,MUON")) == "repeat the flag: {flag} sgd {flag} Muon"
    assert refused(lambda: kind("mun")) == "did you mean Muon? Choose from Muon, sgd"


def test_text_is_checked_by_a_function() -> None:
    def check(text: str) -> None:
        raise invalid("norm", text, "no")

    assert refused(lambda: Words(check)("A")) == "no"
    assert Words()("MUON=1") == "muon=1"
    assert refused(lambda: Number("x > 0", lambda x: x > 0)("-1")) == "give x > 0"


def test_an_error_keeps_its_parts() -> None:
    error = invalid("eval_every", 0, "give heads=2")
    assert refusal(error) == Refusal("eval_every", 0, "give heads=2")
    assert refusal(ValueError("plain")) is None
    params = [
        SimpleNamespace(name="eval_every", opts=["--eval-every"], param_type_name="option"),
        SimpleNamespace(name="heads", opts=["--heads"], param_type_name="option"),
    ]
    found = refusal(error)
    assert found is not None
    assert _command.worded(found, params) == "--eval-every 0: give --heads 2"
    assert _command.worded(Refusal("p", 0.5, "give p >= 1"), params) == "p 0.5: give p >= 1"


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried …")],
)
def test_memory_that_runs_out_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def start(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("steepest.apps.train.command.start", start)
    result = CliRunner().invoke(app, ["train"], catch_exceptions=False)
    assert result.exit_code == 3
    assert result.stderr == (
        "steepest: error: out of memory; lower --batch, --width, --layers or --context\n"
    )


def test_what_ctrl_c_has_cut_short_is_no_error() -> None:
    error = ImportError("numpy")
    error.__cause__ = RuntimeError("half of a module")
    error.__cause__.__context__ = KeyboardInterrupt()
    assert _command.interrupted(error)
    assert not _command.interrupted(ImportError("numpy"))


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("steepest.apps.train.command.start", start)
    with pytest.raises(RuntimeError, match="a bug"):
        CliRunner().invoke(app, ["train"], catch_exceptions=False)
