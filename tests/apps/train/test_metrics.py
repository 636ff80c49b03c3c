"""Metrics: a line per step, the same in TensorBoard, and cut back where a trial goes on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from steepest.apps.train.metrics import Metrics, read_metrics


def record(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "time": 1e9 + step, "loss": 1 / (step + 1), **more}


def write(folder: Path, steps: range, *, step: int | None) -> None:
    with Metrics(folder, folder / "board", step=step) as metrics:
        for s in steps:
            metrics.write(record(s))
        metrics.sync()


def board(folder: Path) -> list[tuple[int, float, float]]:
    events = EventAccumulator(str(folder / "board")).Reload().Scalars("loss")
    return [(e.step, e.wall_time, e.value) for e in events]


def test_records_come_back_and_reach_tensorboard(tmp_path: Path) -> None:
    write(tmp_path, range(5), step=None)
    assert read_metrics(tmp_path) == [record(s) for s in range(5)]
    expected = [(s, 1e9 + s, pytest.approx(1 / (s + 1))) for s in range(5)]
    assert board(tmp_path) == expected


def test_going_on_cuts_back_to_the_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, range(8), step=None)
    write(tmp_path, range(6, 9), step=5)
    assert [r["step"] for r in read_metrics(tmp_path)] == list(range(9))
    assert [step for step, _, _ in board(tmp_path)] == list(range(9))


def test_a_new_start_keeps_nothing(tmp_path: Path) -> None:
    write(tmp_path, range(8), step=None)
    write(tmp_path, range(2), step=None)
    assert [r["step"] for r in read_metrics(tmp_path)] == [0, 1]


def test_every_cut_of_the_last_line_is_repaired(tmp_path: Path) -> None:
    write(tmp_path, range(4), step=None)
    path = tmp_path / "metrics.jsonl"
    raw = path.read_bytes()
    last = raw.rindex(b"\n", 0, -1) + 1
    for cut in range(last, len(raw)):
        path.write_bytes(raw[:cut])
        assert [r["step"] for r in read_metrics(tmp_path)] == [0, 1, 2]
        write(tmp_path, range(3, 4), step=2)
        assert path.read_bytes() == raw


def test_a_line_is_written_when_write_returns(tmp_path: Path) -> None:
    with Metrics(tmp_path, tmp_path / "board", step=None) as metrics:
        metrics.write(record(0))
        assert read_metrics(tmp_path) == [record(0)]


def test_a_missing_number_is_null_in_json_and_left_out_of_tensorboard(tmp_path: Path) -> None:
    with Metrics(tmp_path, tmp_path / "board", step=None) as metrics:
        metrics.write(record(0))
        metrics.write({**record(1), "loss": None})
        with pytest.raises(ValueError, match="JSON"):
            metrics.write({**record(2), "loss": math.nan})
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[1])["loss"] is None
    assert [step for step, _, _ in board(tmp_path)] == [0]


def test_no_file_means_no_records(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
