"""The command that checks a GPU, on the processor that is here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import steepest
from steepest import optim, polar
from steepest.apps.bench.measure import MEASURED, Result
from tests.apps.bench.tiny import made_up
from tools import gpu_check
from tools.gpu_check import Report, parts, sharded, times

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / "tools" / "gpu_check.py"
CPU = torch.device("cpu")
ABOUT = {
    "gpu": "A GPU",
    "cpu": "c",
    "driver": "1.2",
    "cuda": "13.0",
    "class": "cuda-bf16",
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
    own = {k: v for k, v in status.items() if not k[0].endswith(("sync", "graph", "memory"))}
    assert set(own.values()) == {"passed"}
    assert {v for k, v in status.items() if k not in own} == {"not on this device"}
    assert sum(part == "accuracy" for part, _ in own) == 4 * len(parts.METHODS)
    assert {("sharded", name) for name in sharded.SPREAD} <= own.keys()
    assert ("sharded graph", "Muon, divided") in status
    assert {("compile", "Muon"), ("steps", "tiny"), ("methods", "tiny")} <= own.keys()
    assert data["machine"]["gpu"] is None and data["left_out"] == []
    for found in data["results"]:
        flops = found.pop("flops")
        rows = {r.name: r for r in Result.from_json(found).rows}
        assert all(rows[n].status == MEASURED for n in flops)
        # Twice m²n for each of the two products.
        assert flops["floor"] == 2 * 2 * 2 * (8 * 8 * (24 + 8 + 32 + 32))
    sentences = [" ".join(v["sentences"]) for v in data["verdicts"]]
    assert len(sentences) == 2 and all("is the fastest" in s for s in sentences)
    # It has no polar factor.
    assert not any("AdamW" in s for s in sentences)
    page = (tmp_path / "check.md").read_text(encoding="utf-8")
    assert all(s in page for s in sentences)
    assert "no GPU, class " in page and "| Auto(error=0.05) | 0." in page
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
    assert "A GPU: driver 1.2, CUDA 13.0, class cuda-bf16, torch 2.13" in page
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
    assert known == set(optim.PRESETS) - {"SOAPMuon"} | {"SteepestDescent", "LionK"}
    assert all(hasattr(steepest, name) for name in known)


def test_flops_over_milliseconds(tmp_path: Path) -> None:
    result = replace(made_up(), set="llama-8b")
    report = Report(tmp_path, ABOUT, results=[(result, {"steepest.Muon": 8 * 10**12})])
    report.write()
    page = (tmp_path / "check.md").read_text(encoding="utf-8")
    # 8 TFLOP in 4 ms.
    assert "| steepest.Muon | 4.00 | 1.00–3.00 | 5.00 | 2.00 | 0.044 | 8000 | 2000 |" in page
    assert "| optimuon | not installed |" in page


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a GPU would be told, of which there is none: the calls, by name."""
    found: list[str] = []

    def note(name: str, result: object = None) -> Callable[..., object]:
        def call(*given: object) -> object:
            found.append(" ".join([name, *(g for g in given if isinstance(g, str))]))
            return result

        return call

    class Stream:
        wait_stream = note("wait")

    class Graph:
        replay = note("replay")

    for name, result in {
        "synchronize": None,
        "empty_cache": None,
        "reset_peak_memory_stats": None,
        "set_sync_debug_mode": None,
        "memory_allocated": 100,
        "max_memory_allocated": 2**20 + 100,
        "current_stream": Stream(),
        "Stream": Stream(),
        "stream": nullcontext(),
        "CUDAGraph": Graph(),
        "graph": nullcontext(),
        "get_device_properties": SimpleNamespace(name="H", total_memory=2**37, major=9, minor=0),
    }.items():
        monkeypatch.setattr(torch.cuda, name, note(name, result))
    return found


def test_steps_before_a_graph_and_its_replays(calls: list[str]) -> None:
    stepped = SimpleNamespace(step=lambda: calls.append("step"))
    captured = parts.Captured(stepped)
    for _ in range(4):
        captured.step()
    first = ["Stream", "current_stream", "wait", "stream", "step", "current_stream", "wait"]
    assert calls == [*first, *first, "CUDAGraph", "graph", "step", "replay", "replay"]


def test_the_guard_is_taken_away_again(calls: list[str]) -> None:
    shapes = [(4, 4)]
    assert parts.waits_for_nothing(parts.OPTIMIZERS["Lion"], CPU, shapes)[0]
    guard = ["set_sync_debug_mode error", "set_sync_debug_mode default"]
    assert calls == guard

    def broken(groups: parts.Groups, lr: float) -> torch.optim.Optimizer:
        made = steepest.Muon(groups, lr=lr)
        made.step = lambda: calls.append("step") or 1 / (calls.count("step") < 3)
        return made

    check = parts.checked("sync", "x", lambda: parts.waits_for_nothing(broken, CPU, shapes))
    assert check.status == parts.FAILED and "ZeroDivisionError" in check.reason
    assert calls == [*guard, "step", "step", guard[0], "step", guard[1]]


def test_memory_beyond_what_is_kept(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = gpu_check.TINY
    for name in parts.RIVALS:
        good, reason, numbers = parts.memory(name, shapes, CPU)
        assert good and numbers["beyond"] == 2**20 and "beyond 1 MiB" in reason
        assert numbers["parameters"] == 4 * shapes.parameters
        averages = 2 if "AdamW" in name else 1
        steps = 4 * shapes.count * ("AdamW" in name)
        assert numbers["state"] == averages * numbers["parameters"] + steps
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 2**40)
    good, _, _ = parts.memory("steepest.Muon", shapes, CPU)
    assert not good


def test_the_gpu_is_named(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = gpu_check.machine(torch.device("cuda"))
    assert (found["gpu"], found["capability"], found["memory_gib"]) == ("H", "9.0", 128.0)
    assert found["driver"] is None  # without nvidia-smi


def test_gradients_of_a_graph_stay_where_they_are() -> None:
    params = [torch.nn.Parameter(torch.zeros(2, 2))]
    runner = times.StaticRunner(torch.optim.SGD(params, lr=1.0), params, 1.0)
    places = []
    for value in (1.0, 2.0):
        params[0].grad = None  # as other contenders leave it
        runner.load([torch.full((2, 2), value)])
        runner.run()
        places.append(params[0].grad.data_ptr())
    assert places[0] == places[1]
    assert torch.equal(params[0].detach(), torch.full((2, 2), -3.0))
