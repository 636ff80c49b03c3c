"""A run that is killed, interrupted or out of disk space, as a process of its own where it must."""

from __future__ import annotations

import errno
import os
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from steepest._common.files import Record
from steepest.apps.app import app
from steepest.apps.train import execute
from steepest.apps.train.execute import Stop, resume_command
from steepest.apps.train.metrics import Metrics
from steepest.apps.train.trial import Trainer
from tests.apps.train.tiny import TINY, Invoke, contents, final_state, history, same, words

LONG = ("--steps", "60", "--checkpoint-every", "20", "--eval-every", "20")


# A signal from outside would come at another step on another machine, or after the last one.
SIGNALLED = """
import os, sys
from pathlib import Path
import steepest
from steepest.apps.app import app
from steepest.apps.train.metrics import Metrics

number, step, write = int(sys.argv[1]), int(sys.argv[2]), Metrics.write

def signalled(metrics, record):
    write(metrics, record)
    if record["step"] == step:
        os.kill(os.getpid(), number)

Metrics.write = signalled
sys.argv[:3] = [str(Path(steepest.__file__).with_name("__main__.py"))]
app()
"""


def signalled(number: int, step: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`python -m steepest` as a process that gets a signal when it has recorded a step."""
    words = [sys.executable, "-c", SIGNALLED, int(number), step, *arguments]
    return subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)


def equal(a: Path, b: Path) -> bool:
    return history(a) == history(b) and same(final_state(a), final_state(b))


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the figures are made, which takes longer than the run."""
    monkeypatch.setattr(execute, "write_picture", lambda *_: None)
    monkeypatch.setattr(execute, "write_spectra", lambda *_: [])


def saved_step(trial: Path) -> int:
    """The step of the newest checkpoint."""
    return int(max(trial.glob("step-*.pt")).stem.removeprefix("step-"))


def trained(folder: Path, *flags: str) -> Path:
    """The folder of a run on the text of the tests that nothing disturbs."""
    (folder / "words.txt").write_text(words(4000), encoding="utf-8")
    data = ("--data", f"{folder}/words.txt", "--out", f"{folder}/run")
    done = CliRunner().invoke(app, ["train", *TINY, *flags, *data])
    assert done.exit_code == 0, done.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed trial for comparison, as long as those in processes of their own."""
    run = trained(tmp_path_factory.mktemp("long"), *LONG, "--optimizer", "muon")
    return run / "muon" / "seed-0"


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run for comparison, as long as those in this process."""
    names = ("--optimizer", "sgd", "--optimizer", "adamw")
    return trained(tmp_path_factory.mktemp("short"), *names)


@pytest.mark.slow
def test_a_killed_run_ends_where_an_unbroken_one_ends(
    steepest: Invoke, text_file: Path, tmp_path: Path, whole: Path
) -> None:
    run = tmp_path / "run"
    trial = run / "muon" / "seed-0"
    start = ("train", *TINY, *LONG, "--data", text_file, "--optimizer", "muon", "--out", run)
    assert signalled(signal.SIGKILL, 30, *start).returncode == -signal.SIGKILL
    assert saved_step(trial) == 20
    assert steepest("train", "--resume", run).exit_code == 0
    assert equal(trial, whole)


@pytest.mark.slow
def test_an_interrupted_run_saves_and_says_how_to_go_on(
    steepest: Invoke, text_file: Path, tmp_path: Path, whole: Path
) -> None:
    run = tmp_path / "my run"
    trial = run / "muon" / "seed-0"
    start = ("train", *TINY, *LONG, "--data", text_file, "--optimizer", "muon", "--out", run)
    done = signalled(signal.SIGINT, 25, *start)
    assert (done.returncode, done.stderr) == (130, "")
    assert history(trial)[-1][0] == saved_step(trial) == 25, "saved where it stopped"
    command = shlex.split(done.stdout.splitlines()[-1])
    assert command == [sys.executable, "-m", "steepest", "train", "--resume", str(run)]
    assert steepest(*command[3:]).exit_code == 0
    assert equal(trial, whole)


@pytest.mark.parametrize(
    ("number", "code", "step"),
    [
        *((signal.SIGINT, 130, 0), (signal.SIGTERM, 143, 3), (signal.SIGINT, 130, 5)),
        *((signal.SIGHUP, 129, 3), (signal.SIGUSR1, 128 + signal.SIGUSR1, 3)),
    ],
)
def test_a_signal_stops_the_run_after_the_step(
    tiny: Invoke,
    steepest: Invoke,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    short: Path,
    number: signal.Signals,
    code: int,
    step: int,
) -> None:
    write = Metrics.write

    def signalled(metrics: Metrics, record: Record) -> None:
        write(metrics, record)
        if record["step"] == step:
            signal.raise_signal(number)

    run, names = tmp_path / "run", ("--optimizer", "sgd", "--optimizer", "adamw")
    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "write", signalled)
        result = tiny(*names, "--out", run)
    assert (result.exit_code, result.stderr) == (code, "")
    assert result.stdout.splitlines()[-1].strip() == f"steepest train --resume {run}"
    assert saved_step(run / "sgd" / "seed-0") == max(step, 1)
    assert not (run / "adamw").exists()
    assert not (run / "summary.json").exists()
    assert steepest("train", "--resume", run).exit_code == 0
    for name in ("sgd", "adamw"):
        assert equal(run / name / "seed-0", short / name / "seed-0")


def test_a_signal_in_the_last_step_of_all_comes_too_late_to_stop_anything(
    tiny: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = Trainer.evaluate

    def signalled(trainer: Trainer) -> float:
        if trainer.step == 12:
            signal.raise_signal(signal.SIGINT)
        return evaluate(trainer)

    monkeypatch.setattr(Trainer, "evaluate", signalled)
    assert tiny("--optimizer", "sgd", "--out", tmp_path / "run").exit_code == 0
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises, also where a shell has started the tests in the background and ignores it."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


@pytest.mark.usefixtures("interruptible")
def test_a_second_signal_is_not_held_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Stop() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert stop.signal == signal.SIGINT


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let every write past `size` bytes of a file fail, as on a full disk: the last one in part."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# A checkpoint has 60 kB, a line of metrics some 200 bytes, and config.json about 1 kB.
@pytest.mark.parametrize(
    ("size", "every", "file"), [(20_000, 5, "step-000005.pt"), (2500, 100, "metrics.jsonl")]
)
def test_a_write_that_fails_is_one_line_and_the_run_goes_on_later(
    tiny: Invoke, steepest: Invoke, tmp_path: Path, size: int, every: int, file: str
) -> None:
    flags = ("--optimizer", "muon", "--steps", 30, "--checkpoint-every", every)
    assert tiny(*flags, "--out", tmp_path / "whole").exit_code == 0
    run = tmp_path / "run"
    with largest_file(size):
        result = tiny(*flags, "--out", run)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert f"{run / 'muon' / 'seed-0' / file}: File too large" in result.stderr
    assert result.stderr.rstrip().endswith(f"train --resume {run}")
    assert not [name for name in contents(run) if name.endswith(".tmp")]
    assert steepest("train", "--resume", run).exit_code == 0
    assert equal(run / "muon" / "seed-0", tmp_path / "whole" / "muon" / "seed-0")


@pytest.mark.parametrize("fatal", range(1, 14))
def test_a_full_disk_at_any_moment_loses_nothing(
    tiny: Invoke,
    steepest: Invoke,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    short: Path,
    fatal: int,
) -> None:
    run = tmp_path / "run"
    calls: list[int] = []
    fsync = os.fsync

    def full(file: int) -> None:
        calls.append(file)
        if len(calls) >= fatal and not Path(f"/proc/self/fd/{file}").is_dir():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        result = tiny("--optimizer", "sgd", "--out", run)
    kept = contents(run)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "No space left on device" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    if "config.json" not in kept:
        assert "--resume" not in result.stderr
        return
    assert steepest("train", "--resume", run).exit_code == 0
    assert equal(run / "sgd" / "seed-0", short / "sgd" / "seed-0")


@pytest.mark.parametrize("program", ["steepest", "some/bin/steepest"])
def test_the_command_to_go_on_is_that_of_the_user(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [program, "train"])
    assert resume_command(Path("my runs/1")) == f"{program} train --resume 'my runs/1'"


def test_the_command_to_go_on_names_the_interpreter_of_a_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["/lib/steepest/__main__.py", "train"])
    command = shlex.split(resume_command(Path("runs/1")))
    assert command == [sys.executable, "-m", "steepest", "train", "--resume", "runs/1"]
