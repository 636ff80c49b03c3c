"""What a user sees while a run goes on."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from steepest.apps._terminal import clock
from steepest.apps.train.progress import TrainingProgress


def record(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "loss": 2.0, "step_ms": 100.0, "optimizer_ms": 25.0, **more}


def shown(*, terminal: bool, records: list[dict[str, Any]]) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=150)
    progress = TrainingProgress(console, steps=10)
    progress.begin("muon seed 0", step=0, steps=10)
    for r in records:
        progress.update(r)
    progress.end()
    return stream.getvalue()


def test_plain_lines_come_with_each_evaluation_only(monkeypatch: pytest.MonkeyPatch) -> None:
    # The time left is counted by the clock on the wall, and a machine may have a bad second.
    monkeypatch.setattr("steepest.apps.train.progress.time.monotonic", lambda: 0.0)
    records = [record(1), record(2, val_loss=1.5), record(3), record(4, val_loss=1.25)]
    lines = shown(terminal=False, records=records).splitlines()
    assert len(lines) == 2
    for part in ("muon seed 0", "step 4/10", "loss 2.000", "val 1.250", "100 ms/step", "ETA 0:00"):
        assert part in lines[1]
    assert "optimizer 25%" in lines[1]


def test_a_terminal_shows_every_step_on_one_line() -> None:
    text = shown(terminal=True, records=[record(1), record(2), record(3, val_loss=1.5)])
    for part in ("muon seed 0", "3/10", "loss 2.000", "val 1.500", "100 ms/step", "ETA"):
        assert part in text
    assert "\x1b[2K" in text, "the line is drawn anew, not repeated"


def test_a_loss_that_is_no_number_is_shown() -> None:
    assert "loss nan" in shown(terminal=False, records=[record(1, loss=None, val_loss=None)])


def test_the_time_left_is_that_of_all_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 30.0])
    monkeypatch.setattr("steepest.apps.train.progress.time.monotonic", lambda: next(now))
    # One step took 30 s, and nine are left.
    assert "ETA 4:30" in shown(terminal=False, records=[record(1, val_loss=1.0)])


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3599.0, "59:59"), (7325.0, "2:02:05")]
)
def test_durations(seconds: float, text: str) -> None:
    assert clock(seconds) == text
