"""`steepest reproduce`: what it writes, how it goes on, and one line for whatever is wrong."""

from __future__ import annotations

import csv
import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.image import imread

from steepest.apps.app import command_of
from steepest.apps.reproduce.framework.claims import UNDECIDED
from steepest.apps.reproduce.framework.measure import csv_text
from steepest.apps.reproduce.names import TITLES
from steepest.apps.reproduce.table import REPRODUCTIONS
from tests.apps.reproduce import toy
from tests.apps.reproduce.toy import Invoke
from tests.apps.train.tiny import contents
from tests.refusals import says

DOCS = Path(__file__).resolve().parents[3] / "docs"
FLAGS = [
    *("name", "--all", "--list", "--figure", "--family", "--quick", "--scale", "--seed"),
    *("--instances", "--jobs", "--out"),
]
NAMES = [
    "lr-transfer",
    "depth-variance",
    "warm-start",
    "spectral-constraint",
    "directional-sharpness",
    "quadratics",
]
FILES = {
    *("settings.json", "cells.jsonl", "claims.json", "ledger.md"),
    *("curve.png", "curve.csv", "curve.json", "extra.csv", "extra.json"),
}


def test_the_flags_are_frozen_and_documented() -> None:
    command = command_of("reproduce")
    assert [o for p in command.params for o in p.opts] == FLAGS
    assert not [o for p in command.params for o in p.secondary_opts]
    page = (DOCS / "reproductions.md").read_text(encoding="utf-8")
    assert [flag for flag in FLAGS[1:] if f"`{flag}`" not in page] == []


def test_everything_promised_is_written(reproduce: Invoke, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    result = reproduce("toy", "--out", out)
    assert (result.exit_code, result.stderr) == (0, "")
    assert set(contents(out)) == FILES
    assert imread(out / "curve.png").std() > 0.02
    with (out / "curve.csv").open(encoding="utf-8") as file:
        table = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert table == json.loads((out / "curve.json").read_text(encoding="utf-8"))
    assert [r["value"] for r in table] == [1, 4, 9, 1.1, 4.1, 9.1]
    for part in ("Is a square small?", UNDECIDED, str(out / "claims.json"), "curve.png"):
        assert part in result.stdout


def test_claims_have_exactly_six_fields(reproduce: Invoke, tmp_path: Path) -> None:
    assert reproduce("toy", "--out", tmp_path).exit_code == 0
    claims = json.loads((tmp_path / "claims.json").read_text(encoding="utf-8"))
    common = {"source": "school", "statement": "n² | n", "expected": "small"}
    assert claims == [
        {"id": "a", **common, "measured": "9.1", "verdict": "agrees"},
        {"id": "b", **common, "measured": "9.1", "verdict": "differs"},
        {"id": "c", **common, "measured": "6 results are too few", "verdict": UNDECIDED},
    ]
    lines = (tmp_path / "ledger.md").read_text(encoding="utf-8").splitlines()
    assert lines[2] == r"| n² \| n | school | small | 9.1 | **agrees** |"
    assert len(lines) == 5


def test_the_same_command_gives_the_same_files_and_measures_once(
    reproduce: Invoke, tmp_path: Path
) -> None:
    for out in ("a", "b", "b"):
        assert reproduce("toy", "--out", tmp_path / out).exit_code == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(toy.measured) == 12


def test_quick_and_seeds_change_the_settings(reproduce: Invoke, tmp_path: Path) -> None:
    assert reproduce("toy", "--quick", "--seed", 3, "--seed", 4, "--out", tmp_path).exit_code == 0
    assert toy.measured == [{"size": 1, "lr": 0.1, "seed": s} for s in (3, 4)]
    stored = json.loads((tmp_path / "settings.json").read_text(encoding="utf-8"))
    assert stored["settings"] == {"seeds": [3, 4], "steps": 100, "batch": 128, "sizes": [1]}


def test_the_default_folders(
    reproduce: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for flags in ([], ["--quick"]):
        assert reproduce("toy", *flags).exit_code == 0
    names = {p.name for p in (tmp_path / "reproductions").iterdir()}
    assert names == {"toy", "toy-quick"}


def test_all_means_every_one(
    reproduce: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {"one": toy.TOY, "two": toy.TOY}
    monkeypatch.setattr("steepest.apps.reproduce.table.REPRODUCTIONS", both)
    monkeypatch.setattr("steepest.apps.reproduce.command.TITLES", dict.fromkeys(both, ""))
    assert reproduce("--all", "--out", tmp_path).exit_code == 0
    assert set(contents(tmp_path)) == {f"{n}/{f}" for n in ("one", "two") for f in FILES}


def test_the_list_names_every_one(reproduce: Invoke) -> None:
    result = reproduce("--list")
    assert result.exit_code == 0
    names = [line.split(":")[0] for line in result.stdout.splitlines()]
    assert names == [*NAMES, "toy"]
    assert all(TITLES[name] == r.title for name, r in REPRODUCTIONS.items())


def test_without_a_name_the_list_is_shown(reproduce: Invoke) -> None:
    result = reproduce()
    assert (result.exit_code, result.stdout) == (2, reproduce("--list").stdout)
    assert result.stderr == "Name one of them, or give --all.\n"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["dream"], ["dream: choose from lr-transfer, depth-variance, warm-start"]),
        (["lr-tranfer"], ["lr-tranfer: did you mean lr-transfer?"]),
        (["toy", "--all"], ["toy: leave it out, or leave out --all"]),
        (["toy", "--seed", "-1"], ["--seed -1: "]),
        (["toy", "--seed", "1", "--seed", "1"], ["--seed 1 --seed 1: "]),
        (["toy", "--figure", "4"], ["--figure 4: toy has none"]),
        (["toy", "--family", "uniform"], ["--family uniform: toy has no families; leave it out"]),
        (["toy", "--instances", "2"], ["--instances 2: toy has no instances"]),
        (["toy", "--scale", "paper"], ["--scale paper: toy has full, quick"]),
        (["toy", "--scale", "full", "--quick"], ["--scale full: leave out --quick"]),
        (["toy", "--jobs", "2"], ["--jobs 2: each cell of toy uses all cores"]),
        (["toy", "--jobs", "0"], ["--jobs 0: ", ">= 1"]),
        (["quadratics", "--figure", "17"], ["--figure 17: ", "figure-1, figure-2", "table-1"]),
        (["quadratics", "--family", "flat"], ["--family flat: ", "max_spiked, min_spiked"]),
        (["quadratics", "--scale", "huge"], ["--scale huge: choose from paper, full, quick"]),
        (["quadratics", "--instances", "0"], ["--instances 0: ", ">= 1"]),
    ],
    ids=str,
)
def test_a_wrong_argument_is_one_line(
    reproduce: Invoke, tmp_path: Path, arguments: list[str], parts: list[str]
) -> None:
    says(reproduce("--out", tmp_path / "out", *arguments), *parts)
    assert contents(tmp_path) == {}


def test_a_folder_of_other_settings_is_refused(reproduce: Invoke, tmp_path: Path) -> None:
    assert reproduce("toy", "--out", tmp_path).exit_code == 0
    before = contents(tmp_path)
    says(reproduce("toy", "--out", tmp_path, "--seed", 5), str(tmp_path), "seeds=[0, 1], not [5]")
    says(reproduce("lr-transfer", "--quick", "--out", tmp_path), "toy, not lr-transfer", "--out")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff"])
def test_a_folder_of_something_else_is_refused(
    reproduce: Invoke, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "settings.json").write_bytes(content)
    says(reproduce("toy", "--out", tmp_path), "something else", "--out")
    assert contents(tmp_path) == {"settings.json": content}
    says(reproduce("toy", "--out", tmp_path / "settings.json"), "a file of that name exists")


def test_an_interruption_keeps_what_is_finished(
    reproduce: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reproduce("toy", "--out", tmp_path / "whole").exit_code == 0
    toy.measured.clear()

    def stops(settings: toy.ToySettings, cell: toy.Record) -> toy.Record:
        if len(toy.measured) == 4:
            raise KeyboardInterrupt
        return toy.measure(settings, cell)

    with monkeypatch.context() as patch:
        patch.setitem(REPRODUCTIONS, "toy", replace(toy.TOY, measure=stops))  # type: ignore[misc]
        result = reproduce("toy", "--out", tmp_path / "out")
    assert result.exit_code == 130
    assert "the same command goes on" in result.stdout
    assert reproduce("toy", "--out", tmp_path / "out").exit_code == 0
    assert len(toy.measured) == 6
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("lost", [1, 2, 30, 60, 61, 200])
def test_a_torn_line_is_measured_again(reproduce: Invoke, tmp_path: Path, lost: int) -> None:
    assert reproduce("toy", "--out", tmp_path).exit_code == 0
    whole = contents(tmp_path)
    cut = whole["cells.jsonl"][:-lost]
    (tmp_path / "cells.jsonl").write_bytes(cut)
    toy.measured.clear()
    assert reproduce("toy", "--out", tmp_path).exit_code == 0
    assert len(toy.measured) == 6 - cut.count(b"\n")
    assert contents(tmp_path) == whole


def test_a_full_disk_is_one_line(
    reproduce: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reproduce("toy", "--out", tmp_path).exit_code == 0

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("steepest._common.files.os.fsync", full)
    result = reproduce("toy", "--out", tmp_path)
    assert result.exit_code == 2
    assert result.stderr == (
        f"steepest: error: {tmp_path / 'cells.jsonl'}: No space left on device\n"
    )


def test_what_is_not_finite_is_an_empty_field() -> None:
    assert csv_text([{"lr": 0.5, "loss": None}, {"lr": 1.0, "loss": 2}]) == "lr,loss\n0.5,\n1.0,2\n"


@pytest.mark.parametrize("name", NAMES)
def test_every_reproduction_is_on_its_page(name: str) -> None:
    page = (DOCS / "reproductions.md").read_text(encoding="utf-8")
    assert page.count(f"\n## {name}\n") == page.count(f"<!-- results of {name} -->") == 1


@pytest.mark.parametrize("r", list(REPRODUCTIONS.values()), ids=lambda r: r.name)
def test_what_every_reproduction_is_made_of(r: toy.Reproduction) -> None:  # type: ignore[type-arg]
    for settings in (r.quick, r.full):
        keys = [tuple(c.key.items()) for c in r.cells(settings)]
        assert len(set(keys)) == len(keys)
        assert {c.key["seed"] for c in r.cells(settings)} == set(settings.seeds)
    assert len(r.full.seeds) * getattr(r.full, "instances", 1) >= 2
    assert set(r.shown) <= r.pictures.keys()
    assert r.pictures.keys() <= r.tables.keys()
    ids = [claim.id for claim in r.claims]
    assert len(set(ids)) == len(ids) > 0
    for claim in r.claims:
        assert claim.statement.endswith(".")
        assert claim.source
        assert claim.expected
