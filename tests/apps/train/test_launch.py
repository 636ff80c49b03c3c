"""What torchrun starts again goes on in the folder of its own launch, and in no other."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from steepest.apps.train.parallel.team import Launch, shared_token
from tests.apps.train.launched import LIMIT, environment
from tests.apps.train.processes import kept, launch_store
from tests.apps.train.tiny import TINY, Invoke, contents, history, read_json
from tests.refusals import says

Attempt = Callable[..., None]
SGD = ("--optimizer", "sgd")


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    """Make this process the only one of a launch, at its first attempt or a later one."""
    monkeypatch.chdir(tmp_path)
    alive = []  # a store that nothing holds is gone

    def become(store: TCPStore, number: int = 0, *, run_id: str = "none") -> None:
        alive.append(store)
        own = {"RANK": 0, "WORLD_SIZE": 1, "TORCHELASTIC_RUN_ID": run_id}
        for name, value in {**own, **kept(store), "TORCHELASTIC_RESTART_COUNT": number}.items():
            monkeypatch.setenv(name, str(value))

    return become


@pytest.mark.parametrize("out", [("--out", "run"), ()], ids=["out", "no out"])
def test_a_launch_goes_on_in_its_own_folder(
    tiny: Invoke, attempt: Attempt, out: tuple[str, ...]
) -> None:
    attempt(launch_store())
    assert tiny(*SGD, "--out", "runs/9999").exit_code == 0  # newer by its name, and another's
    store = launch_store()
    attempt(store)
    assert tiny(*SGD, *out).exit_code == 0
    places = {*Path().glob("run"), *Path("runs").iterdir()} - {Path("runs/9999")}
    (place,) = places
    whole = history(place / "sgd" / "seed-0")
    (place / "sgd" / "seed-0" / "step-000012.pt").unlink()
    other = contents(Path("runs/9999"))
    attempt(store, 1)
    assert tiny(*SGD, *out).exit_code == 0
    assert history(place / "sgd" / "seed-0") == whole
    assert {*Path().glob("run"), *Path("runs").iterdir()} == {place, Path("runs/9999")}
    assert contents(Path("runs/9999")) == other


@pytest.mark.parametrize("run_id", ["none", "job"])
@pytest.mark.parametrize("finished", [True, False])
def test_the_folder_of_another_launch_is_refused_at_every_attempt(
    tiny: Invoke, attempt: Attempt, run_id: str, finished: bool
) -> None:
    attempt(launch_store(), run_id=run_id)
    assert tiny(*SGD, "--out", "run").exit_code == 0
    if not finished:
        (Path("run") / "sgd" / "seed-0" / "step-000012.pt").unlink()
    before = contents(Path("run"))
    store = launch_store()
    for number in range(3):
        attempt(store, number, run_id=run_id)
        says(tiny(*SGD, "--out", "run"), "--out run: exists already, as a folder with files in it")
        assert contents(Path("run")) == before


def test_without_out_a_launch_takes_no_folder_of_another(tiny: Invoke, attempt: Attempt) -> None:
    attempt(launch_store())
    assert tiny(*SGD, "--steps", 4).exit_code == 0
    (first,) = Path("runs").iterdir()
    before = contents(first)
    attempt(launch_store(), 1)  # the one before has ended before it made a folder
    assert tiny(*SGD).exit_code == 0
    assert len(list(Path("runs").iterdir())) == 2
    assert contents(first) == before


@pytest.mark.parametrize("said", ["none", "", None, 0, [], "0" * 32])
@pytest.mark.parametrize("shared", [True, False])
def test_no_other_word_in_the_folder_makes_it_that_of_the_launch(
    tiny: Invoke,
    attempt: Attempt,
    monkeypatch: pytest.MonkeyPatch,
    said: object,
    shared: bool,
) -> None:
    assert tiny(*SGD, "--out", "run").exit_code == 0
    stored = read_json(Path("run") / "config.json")
    assert stored["machine"]["launch"] == ""
    stored["machine"]["launch"] = said
    (Path("run") / "config.json").write_text(json.dumps(stored), encoding="utf-8")
    attempt(launch_store(), 1)
    if not shared:  # as TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 has it
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    says(tiny(*SGD, "--out", "run"), "--out run: exists already, as a folder with files in it")


def test_all_processes_of_a_launch_have_one_token_and_other_launches_another() -> None:
    started = Launch(run_id="none", max_restarts=1)
    tokens = []
    for store in (launch_store(), launch_store()):
        where = {name: str(value) for name, value in kept(store).items()}
        found = {shared_token(started, where) for _ in range(3)}
        assert len(found) == 1
        tokens += found
        assert shared_token(Launch(run_id="none"), where) == "", "nothing is started again"
    assert len(set(tokens)) == 2
    assert all(re.fullmatch(r"[0-9a-f]{32}", token) for token in tokens)


@pytest.mark.slow
def test_torchrun_itself_is_refused_the_folder_of_another_launch(
    text_file: Path, tmp_path: Path
) -> None:
    flags = ("train", *TINY, *SGD, "--data", text_file, "--parallel", "ddp", "--out", "run")
    found = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launcher = ("--nproc-per-node", 1, "--max-restarts", 1, "--master-port", port)
        call = [sys.executable, "-m", "torch.distributed.run", *launcher, "-m", "steepest", *flags]
        found.append(
            subprocess.run(
                [str(word) for word in call],
                cwd=tmp_path,
                env=environment(),
                capture_output=True,
                text=True,
                timeout=LIMIT,
                check=False,
            )
        )
        if len(found) == 1:
            before = contents(tmp_path / "run")
    first, second = found
    assert (first.returncode, second.returncode) == (0, 1), second.stderr
    assert "sgd" in first.stdout
    assert second.stdout == "", "no table of a run that was not carried out"
    assert second.stderr.count("--out run: exists already") == 2, "once for each attempt"
    assert re.search(r"exitcode\s*:\s*2\b", second.stderr)
    assert contents(tmp_path / "run") == before
