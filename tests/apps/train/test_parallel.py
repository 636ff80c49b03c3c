"""Several processes train as one does, and go on from each other's checkpoints."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest

from steepest.apps.train.parallel.team import Launch, launched_workers
from tests.apps.train.processes import EXACT, Signal, launch_store, started
from tests.apps.train.tiny import TINY, Invoke, history, words


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Muon of the processes, also in this one."""
    monkeypatch.setattr("steepest.Muon", EXACT)


def agree(run: Path, other: Path, *names: str, steps: int = 12) -> None:
    """Raise unless two runs have every step once, and the same losses up to rounding."""
    for name in names:
        a, b = history(run / name / "seed-0"), history(other / name / "seed-0")
        assert [r[0] for r in a] == [r[0] for r in b] == list(range(steps + 1))
        for one, two in zip(a, b, strict=True):
            for mine, its in zip(one[1:3], two[1:3], strict=True):
                assert mine is its or mine == pytest.approx(its, rel=1e-9), f"{name}, step {one[0]}"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of 4 000 characters."""
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(words(4000), encoding="utf-8")
    return path


def recorded(run: Path) -> int:
    """How many steps a run has recorded."""
    path = run / "adamw" / "seed-0" / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def alone(steepest: Invoke, tmp_path: Path, text: Path, optimizer: str, *flags: str) -> list[str]:
    """Train with one process into `one`; the command, for others."""
    common = [str(f) for f in ("train", *TINY, *flags, "--optimizer", optimizer, "--data", text)]
    assert steepest(*common, "--out", tmp_path / "one").exit_code == 0
    return common


def test_two_processes_train_as_one_and_one_goes_on_for_them(
    steepest: Invoke, text: Path, tmp_path: Path
) -> None:
    common = alone(steepest, tmp_path, text, "muon")  # and AdamW on what Muon leaves
    run = tmp_path / "fsdp"
    flags = (*common, "--parallel", "fsdp", "--out", run)
    with started(2, tmp_path, *flags) as processes:
        assert processes.codes() == [0, 0], processes.out(0) + processes.out(1)
        assert (str(run) in processes.out(0), processes.out(1)) == (True, "")
    agree(run, tmp_path / "one", "muon")
    # One process and another layout go on from what FSDP has saved at step 10.
    shutil.rmtree(tmp_path / "fsdp" / "muon" / "seed-0" / "step-000012.dcp")
    shutil.copytree(tmp_path / "fsdp", tmp_path / "again")
    assert steepest("train", "--resume", tmp_path / "fsdp").exit_code == 0
    agree(tmp_path / "fsdp", tmp_path / "one", "muon")
    flags = ("train", "--resume", tmp_path / "again", "--parallel", "tp")
    with started(2, tmp_path, *flags) as processes:
        assert processes.codes() == [0, 0], processes.out(0)
    agree(tmp_path / "again", tmp_path / "one", "muon")


def test_what_maps_keep_goes_on_as_the_processes_cut_it(
    steepest: Invoke, text: Path, tmp_path: Path
) -> None:
    """Larger than a parameter, or a number for each row: every process gets its part."""
    common = alone(steepest, tmp_path, text, "soapmuon")
    run = tmp_path / "fsdp"
    with started(2, tmp_path, *common, "--parallel", "fsdp", "--out", run) as processes:
        assert processes.codes() == [0, 0], processes.out(0) + processes.out(1)
    shutil.rmtree(run / "soapmuon" / "seed-0" / "step-000012.dcp")
    flags = ("train", "--resume", run, "--parallel", "fsdp")
    with started(2, tmp_path, *flags) as processes:
        assert processes.codes() == [0, 0], processes.out(0)
    a, b = history(run / "soapmuon" / "seed-0"), history(tmp_path / "one" / "soapmuon" / "seed-0")
    assert len(a) == len(b) == 13
    for one, two in zip(a[1:], b[1:], strict=True):
        assert one[1] == pytest.approx(two[1], rel=1e-4), f"step {one[0]}"


def test_a_process_that_dies_costs_the_steps_since_the_last_checkpoint(
    steepest: Invoke, text: Path, tmp_path: Path
) -> None:
    long = ("--steps", "60", "--checkpoint-every", "20", "--eval-every", "20")
    common = alone(steepest, tmp_path, text, "adamw", *long)
    flags = (*common, "--parallel", "ddp", "--out", tmp_path / "two", "--timeout", 30)
    store = launch_store()
    dies = started(2, tmp_path, *flags, last=Signal(signal.SIGKILL, 30), store=store)
    with dies as processes:
        assert processes.codes() == [2, -signal.SIGKILL]
        assert "another process of this run is gone" in processes.out(0)
    # torchrun starts the same command again; and it stops on all processes for a signal to one.
    again = started(2, tmp_path, *flags, attempt=1, last=Signal(signal.SIGINT, 45), store=store)
    with again as processes:
        assert processes.codes() == [130, 130], processes.out(0)
        command = processes.out(0).splitlines()[-1]
        assert "--nproc-per-node 2 -m steepest train --parallel ddp --resume" in command
    assert recorded(tmp_path / "two") == 46, "step 0 to 45: both have stopped after the same one"
    assert steepest("train", "--resume", tmp_path / "two").exit_code == 0
    agree(tmp_path / "two", tmp_path / "one", "adamw", steps=60)


@pytest.mark.parametrize(
    ("world", "flags", "message"),
    [
        (1, ("--parallel", "fsdp"), "torchrun --nproc-per-node 2 -m steepest train"),
        (2, (), "2 processes would each train alone"),
        (2, ("--parallel", "zero"), "choose from none, ddp, fsdp, tp, fsdp"),
        (3, ("--parallel", "ddp"), "--batch 4: .* give a multiple of 3"),
        (3, ("--parallel", "tp"), "--heads 2: .* give a multiple of 3"),
        (3, ("--parallel", "fsdp+tp"), "--parallel fsdp.tp: 3 processes cannot form groups of 2"),
    ],
)
def test_what_cannot_be_shared_is_one_line(
    tiny: Invoke,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    world: int,
    flags: tuple[str, ...],
    message: str,
) -> None:
    if world > 1:
        monkeypatch.setenv("WORLD_SIZE", str(world))
        monkeypatch.setenv("RANK", "0")
    result = tiny(*flags, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert re.search(message, result.stderr), result.stderr
    assert not (tmp_path / "run").exists()
    if world > 1:
        # The first process has spoken; if nobody ends this one while it waits, it says the same.
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setattr("steepest.apps.train.start.GRACE", 0.0)
        other = tiny(*flags, "--out", tmp_path / "run")
        assert (other.exit_code, other.stdout, other.stderr) == (2, "", result.stderr)


@pytest.mark.slow
def test_torchrun_starts_again_what_was_killed_and_every_layout_agrees(
    steepest: Invoke, text: Path, tmp_path: Path
) -> None:
    long = ("--steps", "60", "--checkpoint-every", "10", "--eval-every", "20")
    common = alone(steepest, tmp_path, text, "adamw", *long)
    for world, parallel in ((4, "ddp"), (4, "fsdp"), (2, "tp"), (4, "fsdp+tp")):
        run = tmp_path / parallel
        launcher = [sys.executable, "-m", "torch.distributed.run", "--max-restarts", "1"]
        flags = [*common, "--parallel", parallel, "--out", run]
        command = [*launcher, "--nproc-per-node", world, "-m", "steepest", *flags]
        with subprocess.Popen([str(c) for c in command]) as torchrun:
            while recorded(run) < 15:
                assert torchrun.poll() is None
                time.sleep(0.01)
            workers = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
            os.kill(int(workers[-1]), signal.SIGKILL)
            assert torchrun.wait(240) == 0
        agree(run, tmp_path / "one", "adamw", steps=60)


def test_the_group_of_the_last_exchange_is_gone_before_python_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment = {"MASTER_ADDR": "localhost", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with launched_workers("ddp", device="cpu", started=Launch(run_id="one")) as team:
        assert team.gathered("said") == ["said"]
        assert team.group is not None
        group = weakref.ref(team.group)
    # A group that is gone has waited for its threads, of which none may need Python any more.
    assert group() is None
