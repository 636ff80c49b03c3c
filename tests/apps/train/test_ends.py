"""Ends of a run: real torchrun, kills at random moments, signals, terminals that know little."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from steepest.apps import cli
from steepest.apps.train import memory
from steepest.apps.train.execute import Stop
from steepest.apps.train.given import DEFAULT
from steepest.apps.train.parallel.team import Launch, launch
from tests.apps.train.launched import LIMIT, command, environment, launched, recorded, wait_for
from tests.apps.train.tiny import TINY, Invoke, history
from tests.refusals import says
from tools.clean_exits import ENDINGS, end, is_clean
from tools.kill_resume import killed


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDINGS)
def test_a_launched_run_ends_with_its_exit_code(name: str) -> None:
    # `python tools/clean_exits.py` counts a hundred.
    for _ in range(2):
        ended = end(name)
        assert is_clean(ended, ENDINGS[name]), ended


@pytest.mark.slow
@pytest.mark.parametrize(("parallel", "kills"), [(None, 12), ("fsdp", 4)])
def test_killed_at_any_moment_a_run_ends_bit_for_bit(parallel: str | None, kills: int) -> None:
    # `python tools/kill_resume.py` takes a hundred.
    done, _, wrong = killed(kills, parallel=parallel, seed=1)
    assert (done, wrong) == (kills, [])


@pytest.mark.slow
def test_a_launched_run_that_is_told_to_end_saves_first(tmp_path: Path) -> None:
    flags = ("--parallel", "ddp", "--optimizer", "adamw", "--steps", 100_000)
    ended = launched(tmp_path, *flags, "--checkpoint-every", 1000, at=20, number=signal.SIGUSR1)
    number = int(128 + signal.SIGUSR1)
    assert set(ended.codes) == {number}, ended.text
    assert "--parallel ddp --resume" in ended.text
    trial = tmp_path / "run" / "adamw" / "seed-0"
    saved = max(int(path.stem.removeprefix("step-")) for path in trial.glob("step-*.dcp"))
    assert history(trial)[-1][0] == saved


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at the terminals of Linux")
def test_a_closed_terminal_costs_nothing(text_file: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    flags = ("train", *TINY, "--steps", 100_000, "--checkpoint-every", 1000, "--optimizer", "sgd")
    call = command(*flags, "--data", text_file, "--out", tmp_path / "run")
    # `setsid --ctty` makes the terminal that of the process, which then hears of its end.
    process = subprocess.Popen(
        ["setsid", "--ctty", *call], stdin=theirs, stdout=theirs, stderr=theirs, env=environment()
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    try:
        wait_for(lambda: recorded(tmp_path / "run") > 20, process)  # type: ignore[arg-type]
        os.close(ours)
        assert process.wait(LIMIT) == 128 + signal.SIGHUP
    finally:
        process.kill()
    trial = tmp_path / "run" / "sgd" / "seed-0"
    saved = max(int(path.stem.removeprefix("step-")) for path in trial.glob("step-*.pt"))
    assert history(trial)[-1][0] == saved


def test_a_signal_that_may_come_again_changes_nothing_more() -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)}
    with Stop() as stop:
        for number in before:
            for _ in range(2):
                signal.raise_signal(number)
            assert stop()
            assert stop.signal == number
    assert {n: signal.getsignal(n) for n in before} == before


def test_who_ignores_a_closed_terminal_goes_on_doing_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does it
    try:
        with Stop() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_output_to_a_closed_terminal_goes_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    isatty = os.isatty
    kept = os.dup(1)
    os.dup2(theirs, 1)
    os.close(theirs)
    try:
        # One of this process that is not its own terminal, so that it hears of no end.
        monkeypatch.setattr(os, "isatty", lambda stream: stream == 1 and isatty(stream))
        with Stop():
            os.close(ours)
            with pytest.raises(OSError, match="Input/output error"):
                os.write(1, b"text")
            signal.raise_signal(signal.SIGHUP)
            assert os.write(1, b"text") == 4
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        ({"RANK": "x"}, "RANK x: this variable of the environment is to be a whole number from 0"),
        ({"RANK": "2"}, "RANK 2: this variable of the environment is to be a whole number from 0"),
        ({"RANK": "-1"}, "RANK -1: "),
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE x: "),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE 0: "),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE ''"),
        ({"LOCAL_RANK": "1.5"}, "LOCAL_RANK 1.5: "),
        ({"LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "2"}, "LOCAL_RANK 2: "),
        ({"TORCHELASTIC_RESTART_COUNT": "many"}, "TORCHELASTIC_RESTART_COUNT many: "),
    ],
    ids=str,
)
def test_an_environment_that_no_launcher_sets_is_one_line(
    tiny: Invoke,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    part: str,
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", **variables}.items():
        monkeypatch.setenv(name, value)
    says(tiny("--parallel", "ddp", "--out", tmp_path / "run"), part, "unset it")
    assert not (tmp_path / "run").exists()


def test_a_launcher_that_sets_only_two_names_is_one() -> None:
    found = launch({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"})
    assert found == Launch(rank=1, world=2, local_rank=1)


@pytest.mark.parametrize("size", [("width", 2_000_000), ("layers", 10**9)], ids=str)
def test_what_no_process_can_draw_is_refused_for_many_of_them(size: tuple[str, int]) -> None:
    name, value = size
    config = replace(DEFAULT, model=replace(DEFAULT.model, **{name: value}))
    with pytest.raises(ValueError, match=rf"^{name}={value}: .* GB of memory"):
        memory.check(config, 80, alone=False)
    memory.check(DEFAULT, 80, alone=False)


def narrow(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[Callable[..., object], Callable[[], bytes]]:
    """The command line with an stdout of this encoding, and what was printed there."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)

    def call(*arguments: object) -> object:
        monkeypatch.setattr("sys.argv", ["steepest", *map(str, arguments)])
        monkeypatch.setattr("sys.stdout", stream)
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return exit_.value.code

    return call, raw.getvalue


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_command_prints_where_there_is_only_some_of_unicode(
    encoding: str, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    call, printed = narrow(encoding, monkeypatch)
    flags = (*TINY, "--monitor-every", 4, "--data", text_file, "--out", "run")
    for arguments in (
        ("train", *flags),
        *((("diagnose", "run", "--windows", 1),) if encoding == "ascii" else ()),
        ("plan", "--model", "gpt2-small", "--devices", 8),
        ("eject", "--list"),
        ("reproduce", "--list"),
        *((name, "--help") for name in ("train", "compare", "bench", "diagnose")),
    ):
        assert call(*arguments) in (0, None), arguments
    sign = "‖W‖" if encoding == "utf-8" else "||W||"
    assert f"largest {sign}/radius".encode(encoding) in printed()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_an_ejected_file_is_python_wherever_it_is_printed(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call, printed = narrow(encoding, monkeypatch)
    assert call("eject", "muon", "--out", "muon.py") in (0, None)
    before = printed()
    assert call("eject", "muon", "--out", "-") in (0, None)
    assert printed()[len(before) :] == (tmp_path / "muon.py").read_bytes()
