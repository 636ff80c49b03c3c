"""Two runs never share a folder, and what lies in one may be another's or damaged."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

import steepest as package
from steepest.apps._folder import LOCK, held
from steepest.apps.train import run as run_folder
from steepest.apps.train.config import Config
from steepest.apps.train.run import new_folder
from tests.apps.train.launched import LIMIT, command, environment
from tests.apps.train.tiny import TINY, Invoke, contents, history, read_json
from tests.refusals import says


def changed(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what `config.json` holds."""
    stored = read_json(run / "config.json")
    change(stored)
    (run / "config.json").write_text(json.dumps(stored), encoding="utf-8")


def test_runs_of_the_same_second_get_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # As two processes see it that have both looked before either has made its folder.
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda p: p.parent.name != "runs" and exists(p))
    with ExitStack() as stack:
        places = [stack.enter_context(new_folder(None)) for _ in range(3)]
        assert len(set(places)) == 3
        assert all((place / LOCK).is_file() for place in places)
    assert not list((tmp_path / "runs").iterdir()), "nothing was put into them"


def test_a_folder_in_which_another_run_begins_is_refused(tiny: Invoke, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with held(out):
        says(tiny("--out", out), f"--out {out}: process {os.getpid()} on ", "give another folder")
        assert set(contents(out)) == {LOCK}
    assert tiny("--optimizer", "sgd", "--out", out).exit_code == 0


def test_a_run_that_another_process_carries_out_is_not_resumed(
    steepest: Invoke, run: Path, tmp_path: Path
) -> None:
    with held(run):
        before = contents(run)
        says(steepest("train", "--resume", run), f"--resume {run}: process ", "wait until it has")
        assert contents(run) == before
        # Looking at it is no work in it.
        page = tmp_path / "page.html"
        assert steepest("diagnose", run, "--out", page, "--windows", 1).exit_code == 0
    assert steepest("train", "--resume", run).exit_code == 0
    assert LOCK not in contents(run)


def test_what_a_kill_has_left_of_a_start_is_an_empty_folder(tiny: Invoke, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).write_text("1 elsewhere\n")
    assert tiny("--optimizer", "sgd", "--out", tmp_path / "run").exit_code == 0
    assert LOCK not in contents(tmp_path / "run")


@pytest.mark.parametrize(
    "arguments",
    [
        ("reproduce", "lr-transfer", "--quick"),
        ("compare", "--quick"),
        ("bench", "--quick"),
        ("bench", "--calibrate"),
        ("gallery", "--only", "balls"),
        ("plan",),
    ],
    ids=" ".join,
)
def test_every_folder_of_results_belongs_to_one_process(
    steepest: Invoke, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    out = tmp_path / "results"
    with held(out):
        says(steepest(*arguments, "--out", out), f"--out {out}: process {os.getpid()} on ")
        assert set(contents(out)) == {LOCK}


def test_a_run_that_another_has_overtaken_names_the_folder(
    tiny: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, begun, read = tmp_path / "run", list[Any](), run_folder._read
    flags = ("--optimizer", "sgd", "--out", out)

    def slowly(config: Config) -> Any:
        if not begun:
            begun.append(out)
            assert tiny(*flags, "--lr", 0.02).exit_code == 0
            begun.append(contents(out))
        return read(config)

    monkeypatch.setattr(run_folder, "_read", slowly)
    says(tiny(*flags, "--lr", 0.01), f"--out {out}: exists already, as a folder with files in it")
    assert contents(out) == begun[1]


@pytest.mark.slow
@pytest.mark.parametrize("out", [True, False])
def test_two_runs_at_once(text_file: Path, tmp_path: Path, out: bool) -> None:
    flags = ("train", *TINY, "--steps", 100, "--optimizer", "adamw", "--data", text_file)
    where = ("--out", "run") if out else ()
    calls = [command(*flags, "--lr", lr, *where) for lr in (0.01, 0.02)]
    running = [
        subprocess.Popen(c, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True)
        for c in calls
    ]
    errors = [process.communicate(timeout=LIMIT)[1] for process in running]
    codes = [process.returncode for process in running]
    if out:
        assert sorted(codes) == [0, 2]
        (said,) = filter(None, errors)
        assert said.startswith("steepest: error: --out run: ") and said.count("\n") == 1
        places = {tmp_path / "run": (0.01, 0.02)[codes.index(0)]}
    else:
        assert (codes, errors) == ([0, 0], ["", ""])
        found = sorted((tmp_path / "runs").iterdir())
        assert len(found) == 2
        places = {
            p: read_json(p / "config.json")["config"]["optimizers"]["adamw"]["lr"] for p in found
        }
        assert set(places.values()) == {0.01, 0.02}
    for place, lr in places.items():
        records = history(place / "adamw" / "seed-0")
        assert [r[0] for r in records] == list(range(101))
        assert max(r[3] for r in records[1:]) == lr, "its own rate, after the warm-up"


def test_a_run_goes_on_on_another_device(
    steepest: Invoke, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "sgd" / "seed-0" / "step-000012.pt").unlink()
    whole = history(run / "sgd" / "seed-0")
    changed(run, lambda stored: stored["config"].update(device="cuda:77"))
    before = contents(run)
    result = steepest("train", "--resume", run)
    says(result, f"--device cuda:77: {run} began on it", "add --device cpu")
    assert contents(run) == before
    says(steepest("train", "--resume", run, "--device", "cuda:78"), "--device cuda:78: ")
    # What is said after an interruption goes on in the same way.
    monkeypatch.setattr("steepest.apps.train.execute.Stop.__call__", lambda stop: True)
    stopped = steepest("train", "--resume", run, "--device", "cpu")
    assert stopped.stdout.splitlines()[-1].strip().endswith(f"--resume {run} --device cpu")
    monkeypatch.undo()
    assert steepest("train", "--resume", run, "--device", "auto", "--device", "cpu").exit_code == 0
    assert history(run / "sgd" / "seed-0") == whole


def test_the_version_is_in_the_folder_and_older_folders_have_none(
    steepest: Invoke, run: Path
) -> None:
    assert read_json(run / "config.json")["steepest"] == package.__version__
    changed(run, lambda stored: stored.pop("steepest"))
    assert steepest("train", "--resume", run).exit_code == 0
    changed(run, lambda stored: stored.update(steepest="0.0.1"))
    assert steepest("train", "--resume", run).exit_code == 0, "what fits goes on"


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("0.0.1", "was begun by steepest 0.0.1, and this is"),
        (None, "was begun by a steepest that did not write its version, and this is"),
    ],
)
def test_a_run_of_another_version_whose_checkpoint_does_not_fit_is_named_as_such(
    steepest: Invoke, run: Path, version: str | None, words: str
) -> None:
    def of(stored: dict[str, Any]) -> None:
        stored["config"]["batch"] = 8
        del stored["steepest"]
        stored.update({} if version is None else {"steepest": version})

    changed(run, of)
    before = contents(run)
    result = steepest("train", "--resume", run)
    says(result, f"--resume {run}: {words} {package.__version__}: its checkpoint does not fit")
    assert "(batch 4 there, 8 here); go on with that version" in result.stderr
    assert "another run" not in result.stderr
    assert contents(run) == before


def test_a_configuration_of_another_version_that_cannot_be_read_is_named_as_such(
    steepest: Invoke, run: Path
) -> None:
    changed(run, lambda stored: stored["config"].update(flux=3))
    says(steepest("train", "--resume", run), f"--resume {run}: its config.json is damaged")
    changed(run, lambda stored: stored.update(steepest="99.0"))
    says(
        steepest("train", "--resume", run),
        "was begun by steepest 99.0, and this is",
        "its config.json does not fit; go on with that version",
    )


@pytest.mark.parametrize("version", [package.__version__, "0.0.1"])
def test_a_state_of_another_shape_is_one_line(steepest: Invoke, run: Path, version: str) -> None:
    changed(run, lambda stored: stored.update(steepest=version))
    path = run / "sgd" / "seed-0" / "step-000012.pt"
    content = torch.load(path, weights_only=True)
    content["optimizer"]["param_groups"] = []
    torch.save(content, path)
    result = steepest("train", "--resume", run)
    own = version == package.__version__
    says(result, "belongs to another run (its state" if own else "was begun by steepest 0.0.1")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("monitor.jsonl", lambda line: line.pop("time")),
        ("monitor.jsonl", lambda line: line.update(time="yesterday")),
        ("monitor.jsonl", lambda line: line.pop("step")),
        ("monitor.jsonl", lambda line: line.update(step=None)),
        ("metrics.jsonl", lambda line: line.pop("time")),
    ],
    ids=["no time", "no date", "no step", "no number", "no time of a step"],
)
def test_a_line_that_lacks_something_is_no_traceback(
    steepest: Invoke, run: Path, name: str, change: Callable[[dict[str, Any]], object]
) -> None:
    path = run / "sgd" / "seed-0" / name
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    change(lines[1])
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    assert steepest("diagnose", run, "--windows", 1).exit_code == 0
    (run / "sgd" / "seed-0" / "step-000012.pt").unlink()
    assert steepest("train", "--resume", run).exit_code == 0


@pytest.mark.parametrize("content", [None, b"", b'{"step": 12}\n'])
def test_a_finished_run_without_its_metrics_is_one_line(
    steepest: Invoke, run: Path, content: bytes | None
) -> None:
    path = run / "sgd" / "seed-0" / "metrics.jsonl"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    result = steepest("train", "--resume", run)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert f"{path}: is missing or damaged" in result.stderr


def test_a_folder_that_may_not_be_read_is_one_line(
    tiny: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "text").write_text("x" * 4000)
    scandir = os.scandir

    def refused(path: Any = ".") -> Any:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    says(tiny("--data", closed, "--out", tmp_path / "run"), f"{closed}: Permission denied")
    assert not (tmp_path / "run").exists()
