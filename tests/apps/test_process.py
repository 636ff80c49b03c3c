"""What a process of the command line prints where it can print little, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from steepest.apps import cli
from steepest.apps._process import PLAIN, is_launched

LAUNCHED = {"RANK": "0", "WORLD_SIZE": "2"}

# The end of a module that is run as the command is, with something left to write at every place.
LEAVING = """
import atexit, logging, sys
from steepest.apps._process import leave_after

class Late:
    def __del__(self):
        print("Python was brought down")

kept = Late()
atexit.register(print, "at exit")
sys.stderr.write("unfinished line")

def call():
    print("printed", end="")
    {end}

leave_after(call)
"""


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A process of this Python's."""
    own = {**os.environ, **environment}
    return subprocess.run([sys.executable, *arguments], capture_output=True, check=False, env=own)


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("pass", 0, b""),
        ("sys.exit()", 0, b""),
        ("sys.exit(2)", 2, b""),
        ("sys.exit(300)", 44, b""),
        ("sys.exit('why')", 1, b"why\n"),
        ("raise KeyboardInterrupt", 130, b""),
        ("raise RuntimeError('why')", 1, b"RuntimeError: why\n"),
    ],
)
def test_a_process_leaves_with_its_exit_code_and_everything_written(
    end: str, code: int, said: bytes
) -> None:
    done = python("-c", LEAVING.format(end=end))
    assert done.returncode == code
    assert done.stdout == b"printedat exit\n", "and nothing of the interpreter's own end"
    assert done.stderr.startswith(b"unfinished line")
    assert done.stderr.endswith(said)
    assert (b"Traceback" in done.stderr) == ("RuntimeError" in end)


def test_output_that_cannot_be_written_is_an_error() -> None:
    done = subprocess.run(
        ["bash", "-c", 'exec "$0" -c "$1" > /dev/full', sys.executable, LEAVING.format(end="pass")],
        capture_output=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )
    assert done.returncode == 120


@pytest.mark.parametrize("launched", [True, False])
def test_only_a_process_of_a_launcher_leaves_python_as_it_is(launched: bool) -> None:
    code = "import runpy, sys; from steepest.apps import _process\n"
    code += "_process.os._exit = lambda code: (print('left at once'), sys.exit(code))\n"
    code += "sys.argv[1:] = ['--version']; runpy.run_module('steepest', run_name='__main__')"
    # runpy puts no module of that name into the table, so the script itself has `main` in it.
    code = "from steepest.apps.cli import main\n" + code
    environment = LAUNCHED if launched else {}
    done = python("-c", code, **environment)
    assert done.returncode == 0, done.stderr
    assert (b"left at once" in done.stdout) == launched
    assert done.stdout.startswith(b"steepest ")


def test_whoever_calls_the_command_line_from_python_lives_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["steepest", "--version"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert not exit_.value.code
    assert capsys.readouterr().out.startswith("steepest ")


def test_a_launcher_is_known_by_both_of_its_names() -> None:
    assert is_launched(LAUNCHED)
    assert not is_launched({"RANK": "0"})
    assert not is_launched({})


ANYTHING = """
import sys
from steepest.apps._process import print_anything
print_anything()
print(sys.argv[1])
print(sys.argv[1], file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("encoding", "text", "printed"),
    [
        ("ascii", "‖W‖/radius × 2 – σ₁", b"||W||/radius x 2 - sigma_1"),
        ("latin-1", "‖W‖ × 2", "||W|| × 2".encode("latin-1")),
        ("ascii", "Привет", b"??????"),
        ("utf-8", "‖W‖ × 😀", "‖W‖ × 😀".encode()),
        ("ascii", b"file \xff.txt".decode("utf-8", "surrogateescape"), b"file \xff.txt"),
        ("utf-8", b"file \xff.txt".decode("utf-8", "surrogateescape"), b"file \xff.txt"),
    ],
)
def test_every_text_can_be_printed_in_every_encoding(
    encoding: str, text: str, printed: bytes
) -> None:
    done = python("-c", ANYTHING, text, PYTHONIOENCODING=encoding, PYTHONUTF8="1")
    assert (done.returncode, done.stdout) == (0, printed + b"\n"), done.stderr
    assert done.stderr == printed + b"\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "words",
    [("--version",), ("--help",), ("plan",), ("plan", "--help"), ("eject", "muon", "--out", "-")],
)
def test_a_full_disk_below_stdout_is_named(words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "steepest", *words]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    said = b"steepest: error: stdout: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, said)


def test_what_stands_for_a_sign_can_be_printed_everywhere() -> None:
    assert "".join(PLAIN.values()).isascii()
    assert not any(sign.isascii() for sign in PLAIN)
