"""`steepest bench`: its files, its flags, one line for whatever is wrong, and Ctrl-C."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from steepest.apps.app import app, command_of
from steepest.apps.bench import execute, machine, measure, peers, start
from steepest.apps.bench.measure import Result as Measured
from steepest.apps.bench.picture import draw
from steepest.apps.bench.report import absences, cells, markdown
from steepest.apps.bench.sets import SETS
from steepest.apps.bench.verdict import lines, verdicts
from steepest.polar import Auto, CostTable
from steepest.polar.processors import processor_class
from tests.apps.bench.tiny import SQUARE, TINY, made_up
from tests.apps.gallery.pictures import size
from tests.refusals import says
from tools import bench_table

ROOT = Path(__file__).resolve().parents[3]
FLAGS = [
    *("--set", "--methods", "--steps", "--data", "--resolution", "--quick", "--rounds"),
    *("--threads", "--seed", "--patience", "--out", "--calibrate", "--table"),
]
FILES = {"bench.json", "steps.png", "methods.png"}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for s in (TINY, SQUARE):
        monkeypatch.setitem(SETS, s.name, s)  # type: ignore[misc]
    # Peers that happen to be installed would take their time, as pictures do.
    monkeypatch.setattr("steepest.apps.bench.peers.find_spec", lambda _: None)
    monkeypatch.setattr(execute, "draw", lambda results: f"{len(results)} sets".encode())


def call(*arguments: object) -> Result:
    return CliRunner().invoke(
        app, ["bench", *map(str, arguments)], env={"COLUMNS": "200"}, catch_exceptions=False
    )


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_the_flags_are_frozen_and_documented() -> None:
    shown = command_of("bench")
    assert [o for p in shown.params for o in p.opts] == FLAGS
    assert not [o for p in shown.params for o in p.secondary_opts]
    page = (ROOT / "docs" / "bench.md").read_text(encoding="utf-8")
    names = [name for name in SETS if name not in (TINY.name, SQUARE.name)]
    assert [f for f in (*FLAGS, *names) if f"`{f}`" not in page] == []


def test_everything_promised_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "draw", draw)
    out = tmp_path / "deep" / "out"
    result = call("--set", "tiny", "--rounds", 2, "--out", out, "--threads", 1)
    assert (result.exit_code, result.stderr) == (0, "")
    assert {p.name for p in out.iterdir()} == FILES
    found = read(out / "bench.json")
    described = found["machine"]
    assert described["cpu"] and described["torch"] == torch.__version__
    assert described["threads"] == 1
    assert described["class"] == processor_class(torch.device("cpu"))
    assert {"vendor", "family", "model", "stepping", "environment"} <= set(described)
    assert set(found["peers"]) == {peer.distribution for peer in peers.PEERS}
    assert found["plan"]["sets"] == ["tiny"] and found["plan"]["data"] == "spectrum"
    results = [Measured.from_json(r) for r in found["results"]]
    assert [(r.bench, r.set, r.rounds) for r in results] == [
        ("steps", "tiny", 2),
        ("methods", "tiny", 2),
    ]
    for r in results:
        assert r.rows[0].speed == 1.0 and r.rows[-1].floors == 1.0
        assert r.floor_type in ("float32", "bfloat16") and r.patience == 60.0
    assert found["verdicts"] == verdicts(results)
    # The last words of a run, before the names of the files.
    assert all(line in result.stdout for line in lines(results))
    for name in ("steps.png", "methods.png"):
        assert size((out / name).read_bytes())[0] == 1170
    for part in ("a tiny set", "optimuon: not installed", "torch.optim.Muon", "steps.png"):
        assert part in result.stdout


def test_flags_reach_the_plan(tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    costs = CostTable(product=((8, 1e-6), (64, 1e-5)))
    table.write_text(json.dumps(costs.to_json()))
    flags = ("--quick", "--steps", "--seed", 3, "--table", table, "--patience", "inf")
    assert call("--set", "square", *flags, "--out", tmp_path / "out").exit_code == 0
    plan = read(tmp_path / "out" / "bench.json")
    assert plan["plan"] == {
        "sets": ["square"],
        "benches": ["steps"],
        "data": "spectrum",
        "resolution": 3e-3,
        "seed": 3,
        "quick": True,
        "table": costs.to_json(),
        "patience": None,
    }
    assert [r["rounds"] for r in plan["results"]] == [3]
    assert not (tmp_path / "out" / "methods.png").exists()


def test_without_real_gradients_there_is_no_error(tmp_path: Path) -> None:
    flags = ("--methods", "--rounds", 1, "--data", "gradients", "--out", tmp_path)
    assert call("--set", "square", *flags).exit_code == 0
    (result,) = read(tmp_path / "bench.json")["results"]
    assert result["data"] == "gradients"
    assert {row["error"] for row in result["rows"]} == {None}


def test_calibrate_writes_a_table_that_can_be_given(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(start, "QUICK_SIZES", (4, 8))
    result = call("--calibrate", "--quick", "--out", tmp_path)
    assert result.exit_code == 0
    assert {p.name for p in tmp_path.iterdir()} == {"table.json"}
    table = start.read_table(tmp_path / "table.json")
    assert table.product[1][0] == 8
    assert f"processor of class {Auto().explain((1, 1)).processor}" in result.stdout
    assert "--threads" in table.source
    says(call("--calibrate", "--steps"), "--calibrate: it measures", "leave the other flags out")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--set", "gpt"], ["--set gpt: did you mean gpt-256?", "Choose from gpt-128, vit-64"]),
        (["--rounds", "0"], ["--rounds 0:", ">= 1"]),
        (["--data", "random"], ["--data random:", "spectrum, gradients"]),
        (["--resolution", "1"], ["--resolution 1:", "(0, 1)"]),
        (["--threads", "0"], ["--threads 0:", ">= 1"]),
        (["--set", "gpt-128,vit-64"], ["--set gpt-128 --set vit-64"]),
        (["--threads", "4.0"], ["--threads 4.0: not a whole number; write --threads 4"]),
        (["--patience", "0"], ["--patience 0:", "> 0"]),
        (["--patience", "nan"], ["--patience nan:", "> 0"]),
        (["--table", "nowhere.json"], ["--table nowhere.json: No such file"]),
    ],
    ids=str,
)
def test_a_wrong_value_is_one_line(tmp_path: Path, arguments: list[str], parts: list[str]) -> None:
    says(call("--out", tmp_path / "out", *arguments), *parts)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["", "[1]", '{"prodct": []}', '{"product": [[8, 1]]}', "\xff"])
def test_a_wrong_table_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "table.json"
    path.write_bytes(content.encode("latin-1"))
    says(call("--table", path, "--out", tmp_path / "out"), str(path))


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    says(call("--set", "square", "--out", tmp_path / "file"), str(tmp_path / "file"))


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = measure.measure

    def stops(bench: str, *arguments: Any, **keywords: Any) -> Measured:
        if bench == "methods":
            raise KeyboardInterrupt
        return original(bench, *arguments, **keywords)

    monkeypatch.setattr(execute, "measure", stops)
    result = call("--set", "square", "--rounds", 1, "--out", tmp_path)
    assert result.exit_code == 130
    assert "Stopped" in result.stdout and str(tmp_path / "bench.json") in result.stdout
    assert {p.name for p in tmp_path.iterdir()} == {"bench.json", "steps.png"}
    assert [r["bench"] for r in read(tmp_path / "bench.json")["results"]] == ["steps"]


def test_ctrl_c_before_the_first_result_names_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stops(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(execute, "measure", stops)
    # What an earlier bench has left there is none of this one's.
    (tmp_path / "bench.json").write_text("{}")
    result = call("--set", "square", "--rounds", 1, "--out", tmp_path)
    assert result.exit_code == 130
    assert "Stopped. No bench was finished." in result.stdout
    assert "bench.json" not in result.stdout


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("steepest._common.files.os.fsync", full)
    result = call("--set", "square", "--rounds", 1, "--steps", "--out", tmp_path)
    assert result.exit_code == 2
    assert result.stderr == (
        f"steepest: error: {tmp_path / 'bench.json'}: No space left on device\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_what_restricts_kernels_is_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in machine.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert machine.describe()["environment"] == {}
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert machine.describe()["environment"] == {"ONEDNN_MAX_CPU_ISA": "AVX2"}


def test_the_processor_is_the_one_that_linux_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = (
        "processor\t: 0\nvendor_id\t: Maker\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: A: B\n"
    )
    (tmp_path / "cpuinfo").write_text(f"{info}\nprocessor\t: 1\nmodel\t: 2\n")
    monkeypatch.setattr("steepest._common.cpuinfo.CPUINFO", tmp_path / "cpuinfo")
    found = machine.processor()
    assert (found["cpu"], found["vendor"], found["family"]) == ("A: B", "Maker", "25")
    assert (found["model"], found["stepping"]) == ("1", None)
    monkeypatch.setattr("steepest._common.cpuinfo.CPUINFO", tmp_path / "nowhere")
    found = machine.processor()
    assert found["cpu"] and found["family"] is None


@pytest.mark.parametrize("names", [["gpt-128"], ["gpt-128", "vit-64", "gone"]])
def test_the_picture(names: list[str]) -> None:
    results = [made_up(name) for name in names]
    content = draw(results)
    assert size(content)[0] == 1170
    assert draw(results) == content


def test_the_tables() -> None:
    result = made_up()
    assert cells(result.rows[1]) == ["steepest.Muon", "4.00", "1.00–3.00", "5.00", "2.00", "0.044"]
    assert absences(result) == ["optimuon: not installed", "heavyball: RuntimeError: boom"]
    text = markdown([result, made_up("vit-64")]).splitlines()
    assert text[0] == "| steps | gpt-128 | vit-64 |"
    assert text[3].startswith("| steepest.Muon | **5.00×**, 4.00 ms, 0.044 | **5.00×**")
    # The words of the picture.
    assert text[4] == "| optimuon | not installed | not installed |"
    assert text[5] == "| heavyball | RuntimeError: boom | RuntimeError: boom |"
    once = replace(result.rows[0], once=True, ms_low=20.0, ms_high=20.0)
    assert cells(once)[2] == "one step"
    text = markdown([replace(result, rows=(once, *result.rows[1:]))]).splitlines()
    assert text[2] == "| torch.optim.Muon | **1.00×**, 20.0 ms (one step), 0.35 |"


def test_the_page_is_that_of_the_stored_results() -> None:
    page = bench_table.PAGE.read_text(encoding="utf-8")
    assert bench_table.filled(page) == page, "run: python tools/bench_table.py"


def test_results_come_into_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("--set", "square", "--rounds", 1, "--out", tmp_path / "out").exit_code == 0
    docs = tmp_path / "docs"
    (docs / "images").mkdir(parents=True)
    monkeypatch.setattr(bench_table, "DATA", docs / "bench")
    monkeypatch.setattr(bench_table, "IMAGES", docs / "images")
    results = tmp_path / "out" / "bench.json"
    found = read(results)
    found["machine"]["command"] = f"steepest bench --out '{tmp_path}/a folder' --steps"
    results.write_text(json.dumps(found), encoding="utf-8")
    bench_table.collect("mine", tmp_path / "out")
    bench_table.redraw(docs / "bench" / "mine.json")
    assert {p.name for p in (docs / "images").iterdir()} == {
        "bench-mine-steps.png",
        "bench-mine-methods.png",
    }
    text = bench_table.filled(f"before\n{bench_table.BEGIN}\nold\n{bench_table.END}\nafter\n")
    assert "old" not in text and text.startswith("before\n") and text.endswith("\nafter\n")
    for part in ("### mine", "| steps | square |", "| methods | square |", "bench-mine-steps.png"):
        assert part in text
    assert torch.__version__ in text
    assert f", class {processor_class(torch.device('cpu'))}; threads: " in text
    assert "`steepest bench --steps`" in text
