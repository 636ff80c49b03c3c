"""The command that checks a GPU, on the processor that is here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import steepest
from steepest import optim, polar
from steepest.apps.bench.measure import MEASURED, Result
from tests.apps.bench.tiny import made_up
from tools import gpu_check
from tools.gpu_check import Report, parts

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / "tools" / "gpu_check.py"
CPU = torch.device("cpu")
ABOUT = {
    "gpu": "A GPU",
    "cpu": "c",
    "driver": "1.2",
    "cuda": "13.0",
    "torch": "2.13",
    "date": "2027-01-01T00:00",
    "command": "gpu_check.py",
}


def test_all_that_a_cpu_can_do(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOL), "--device", "cpu", "--tiny", "--out", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    data = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))
    status = {(c["part"], c["name"]): c["status"] for c in data["checks"]}
    own = {k: v for k, v in status.items() if k[0] not in ("sync", "graph", "memory")}
    assert set(own.values()) == {"passed"}
    assert {v for k, v in status.items() if k not in own} == {"not on this device"}
    assert sum(part == "accuracy" for part, _ in own) == 4 * len(parts.METHODS)
    assert {("compile", "Muon"), ("steps", "tiny"), ("methods", "tiny")} <= own.keys()
    assert data["machine"]["gpu"] is None and data["left_out"] == []
    for found in data["results"]:
        flops = found.pop("flops")
        rows = {r.name: r for r in Result.from_json(found).rows}
        assert all(rows[n].status == MEASURED for n in flops)
        # Twice m²n for each of the two products.
        assert flops["floor"] == 2 * 2 * 2 * (8 * 8 * (24 + 8 + 32 + 32))
    page = (tmp_path / "check.md").read_text(encoding="utf-8")
    assert "no GPU" in page and "| Auto(error=0.05) | 0." in page
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".md", ".png"}


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ([], "install a CUDA build"),
        (["--device", "cuda:1"], "--device cpu --tiny"),
        (["--device", "cpu"], "give --tiny"),
        (["--device", "nonsense"], "give cuda, cuda:1 or cpu"),
        (["--budget", "0"], "a number of seconds > 0"),
        (["--device", "cpu", "--tiny", "--out", str(TOOL)], "exists"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    given: list[str],
    remedy: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu_check, "plan", lambda *_: [])
    assert gpu_check.main(given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and remedy in line


def test_parts_after_the_budget_are_left_out_and_a_broken_one_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, seen = [0.0], []
    monkeypatch.setattr(gpu_check.time, "monotonic", lambda: now[0])
    report = Report(tmp_path, ABOUT)

    def part(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            now[0] += seconds
            # What the parts before have found is on the disk.
            seen.append(len(json.loads((tmp_path / "check.json").read_text())["checks"]))
            raise RuntimeError(name)

        return run

    report.write()
    every = [("one", part("a", 6)), ("two", part("b", 6)), ("three", part("c", 6))]
    gpu_check.run(report, every, budget=10)
    assert seen == [0, 1]
    assert [(c.part, c.reason) for c in report.failed] == [
        ("one", "RuntimeError: a"),
        ("two", "RuntimeError: b"),
    ]
    data = json.loads((tmp_path / "check.json").read_text())
    assert data["left_out"] == report.left_out == ["three"]
    page = (tmp_path / "check.md").read_text(encoding="utf-8")
    assert "A GPU: driver 1.2, CUDA 13.0, torch 2.13" in page
    assert "| one | all | **failed** | RuntimeError: a |" in page and "three" in page


def test_a_failed_check_is_an_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(report: Report, *_: object) -> list[gpu_check.Part]:
        return [("x", lambda: report.add([parts.checked("x", "y", lambda: (good, "why", {}))]))]

    monkeypatch.setattr(gpu_check, "plan", plan)
    for good in (True, False):
        given = ["--device", "cpu", "--tiny", "--out", str(tmp_path)]
        assert gpu_check.main(given) == int(not good)


def test_a_method_that_does_not_keep_its_word_fails() -> None:
    class Liar(polar.GramNewtonSchulz):
        def accuracy(self, m: int, n: int, dtype: torch.dtype) -> polar.Accuracy:
            return super().accuracy(m, n, dtype)._replace(error=1e-6)

    good, reason, numbers = parts.accuracy(Liar(), torch.float32, [(8, 8)], CPU)
    assert not good and numbers["share"] > 1 and "8×8" in reason


def test_a_step_that_is_another_fails() -> None:
    def twice(stepped: torch.optim.Optimizer) -> Callable[[], None]:
        def step() -> None:
            stepped.step()
            stepped.step()

        return step

    make, shapes = parts.OPTIMIZERS["Muon"], [(8, 8), (4, 12)]
    good, _, numbers = parts.same_steps(make, twice, CPU, shapes)
    assert not good and numbers["apart"] > 0.1
    good, reason, _ = parts.same_steps(make, lambda stepped: stepped.step, CPU, shapes)
    assert good and reason == "bit for bit"


def test_every_optimizer_is_there() -> None:
    known = {name.split(",")[0] for name in parts.OPTIMIZERS}
    assert known == set(optim.PRESETS) | {"SteepestDescent", "LionK"}
    assert all(hasattr(steepest, name) for name in known)


def test_flops_over_milliseconds(tmp_path: Path) -> None:
    result = replace(made_up(), set="llama-8b")
    report = Report(tmp_path, ABOUT, results=[(result, {"steepest.Muon": 8 * 10**12})])
    report.write()
    page = (tmp_path / "check.md").read_text(encoding="utf-8")
    # 8 TFLOP in 4 ms.
    assert "| steepest.Muon | 4.00 | 1.00–3.00 | 5.00 | 2.00 | 0.044 | 8000 | 2000 |" in page
    assert "| optimuon | not installed |" in page
