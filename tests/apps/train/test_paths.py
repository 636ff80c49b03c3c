"""Paths as users write them: homes, links that lead nowhere, pipes and devices."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from steepest.apps._folder import held
from tests.apps.train.tiny import Invoke
from tests.refusals import says


@pytest.fixture
def _deadline() -> Iterator[None]:
    """An end for what may never end: reading a pipe or a device."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError("it reads for ever")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def traps(tmp_path: Path) -> Path:
    """A folder with what no flag can take."""
    folder = tmp_path / "traps"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "circle").symlink_to(folder / "circle")
    for name, special in (("run", "config.json"), ("table", "settings.json")):
        (folder / name).mkdir()
        os.mkfifo(folder / name / special)
    (folder / "folders" / "config.json").mkdir(parents=True)
    return folder


LONG = "x" * 300


@pytest.mark.usefixtures("_deadline")
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("train", "--data", "circle"), "--data "),
        (("train", "--data", "circle/below"), "--data "),
        (("train", "--data", "~nobody-here/text"), "--data '~nobody-here/text': there is no user"),
        (("train", "--data", "pipe"), "is a pipe or a device; give a text file or a folder"),
        (("train", "--data", "/dev/zero"), "--data /dev/zero: is a pipe or a device"),
        (("train", "--data", LONG), "File name too long"),
        (("train", "--out", "circle"), "--out circle: its symbolic links lead in a circle"),
        (("train", "--out", "circle/below"), "--out circle/below: its symbolic links lead"),
        (("train", "--out", "~nobody-here/x"), "--out '~nobody-here/x': there is no user nobody"),
        (("train", "--out", "pipe"), "--out pipe: exists already, as a file"),
        (("train", "--out", "/dev/zero"), "--out /dev/zero: exists already, as a file"),
        (("train", "--out", LONG), "File name too long"),
        (("train", "--out", "pipe/below"), "Not a directory"),
        (("train", "--resume", "circle"), "--resume circle: its symbolic links lead in a"),
        (("train", "--resume", "pipe"), "--resume pipe: is a pipe or a device; give the"),
        (("train", "--resume", "run"), "--resume run: its config.json is no regular"),
        (("train", "--resume", "table"), "--resume table: its config.json is missing"),
        (("train", "--resume", "folders"), "--resume folders: its config.json is no regular"),
        (("train", "--resume", "/dev/zero"), "--resume /dev/zero: is a pipe or a device"),
        (("train", "--resume", "~nobody-here"), "--resume '~nobody-here': there is no user nobody"),
        (("train", "--resume", LONG), ""),
        (("diagnose", "circle"), "error: circle: its symbolic links lead in a circle"),
        (("diagnose", "~nobody-here"), "error: '~nobody-here': there is no user nobody-here"),
        (("diagnose", "pipe"), "pipe: is a pipe or a device; give the folder of a run"),
        (("diagnose", "/dev/zero"), "/dev/zero: is a pipe or a device; give the folder of a run"),
        (("diagnose", "run"), "run: its config.json is no regular file"),
        (("diagnose", "folders"), "folders: its config.json is no regular file"),
        (("diagnose", "table"), "table: has no config.json"),
        (("diagnose", "table", "--out", "circle"), "--out circle: its symbolic links lead"),
        (("diagnose", "table", "--out", "~nobody-here"), "--out '~nobody-here': there is no user"),
        (("diagnose", LONG), "File name too long"),
        (("bench", "--table", "pipe"), "--table pipe: is a pipe or a device"),
        (("bench", "--table", "/dev/zero"), "--table /dev/zero: is a pipe or a device"),
        (("bench", "--table", "circle"), "--table circle: its symbolic links lead"),
        (("bench", "--table", "~nobody-here"), "--table '~nobody-here': there is no user"),
        (("bench", "--quick", "--out", "circle"), "--out circle: its symbolic links lead"),
        (("bench", "--quick", "--out", "~nobody-here"), "--out '~nobody-here': there is no user"),
        (("bench", "--quick", "--out", "pipe"), "--out pipe: a file of that name exists"),
        (("reproduce", "lr-transfer", "--quick", "--out", "table"), "--out table: holds something"),
        (("reproduce", "lr-transfer", "--quick", "--out", LONG), "File name too long"),
        (("reproduce", "--all", "--out", "circle"), "--out circle: its symbolic links lead"),
        (("reproduce", "--all", "--out", "~nobody-here"), "--out '~nobody-here': there is no"),
        (("compare", "--quick", "--out", "circle"), "--out circle: its symbolic links lead"),
        (("compare", "--quick", "--out", "~nobody-here"), "--out '~nobody-here': there is no user"),
        (("gallery", "--out", "circle"), "--out circle: its symbolic links lead in a circle"),
        (("gallery", "--out", "~nobody-here"), "--out '~nobody-here': there is no user nobody"),
        (("gallery", "--out", "/dev/zero"), "--out /dev/zero: a file of that name exists"),
        (("plan", "--out", LONG), "File name too long"),
        (("plan", "--out", "circle"), "--out circle: its symbolic links lead in a circle"),
        (("plan", "--out", "~nobody-here"), "--out '~nobody-here': there is no user nobody-here"),
        (("eject", "muon", "--out", "circle"), "--out circle: its symbolic links lead in a circle"),
        (("eject", "muon", "--out", "~nobody-here"), "--out '~nobody-here': there is no user"),
        (("eject", "muon", "--out", "pipe", "--force"), "--out pipe: is a pipe or a device"),
        (("eject", "muon", "--out", "/dev/null", "--force"), "--out /dev/null: is a pipe or"),
        (("eject", "muon", "--out", LONG), "File name too long"),
    ],
    ids=lambda value: " ".join(value).replace(LONG, "long") if isinstance(value, tuple) else "",
)
def test_a_path_that_leads_nowhere_is_one_line(
    steepest: Invoke,
    traps: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    part: str,
) -> None:
    monkeypatch.chdir(traps)
    before = sorted(traps.rglob("*"))
    says(steepest(*arguments), part)
    assert sorted(traps.rglob("*")) == before


def test_the_home_of_the_user_is_a_place_for_every_command(
    tiny: Invoke, steepest: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    assert tiny("--optimizer", "sgd", "--out", "~/run").exit_code == 0
    assert steepest("train", "--resume", "~/run").exit_code == 0
    page = ("--out", "~/page.html", "--windows", 1)
    assert steepest("diagnose", "~/run", *page).exit_code == 0
    assert steepest("eject", "muon", "--out", "~/muon.py").exit_code == 0
    assert steepest("gallery", "--only", "balls", "--out", "~/pictures").exit_code == 0
    found = {path.name for path in home.iterdir()}
    assert found == {"run", "page.html", "muon.py", "pictures"}
    for arguments in (("bench", "--quick"), ("compare",), ("reproduce", "quadratics"), ("plan",)):
        with held(home / "run"):
            says(steepest(*arguments, "--out", "~/run"), f"{home / 'run'}: process {os.getpid()} ")
    assert not list(here.iterdir()), "a folder of the name ~ is nobody's wish"


@pytest.mark.usefixtures("_deadline")
def test_paths_of_a_diagnosis_are_looked_at_as_well(
    steepest: Invoke, run: Path, traps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(traps)
    for data in ("circle", "~nobody-here/text", "pipe", "/dev/zero", LONG):
        said = steepest("diagnose", run, "--data", data)
        assert (said.exit_code, said.stderr.count("\n")) == (2, 1), said.stderr
    for out in ("pipe", "/dev/null"):
        says(steepest("diagnose", run, "--out", out), f"--out {out}: is a pipe or a device")
    assert Path("/dev/null").is_char_device()


@pytest.mark.usefixtures("_deadline")
def test_a_pipe_in_the_place_of_a_checkpoint_is_one_line(steepest: Invoke, run: Path) -> None:
    path = run / "sgd" / "seed-0" / "step-000012.pt"
    path.unlink()
    os.mkfifo(path)
    says(steepest("train", "--resume", run), f"{path}: is no regular file")
