"""The table: means over seeds, times without the first steps, and who reached the baseline."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from steepest._common.files import Record
from steepest.apps.train.config import Config
from steepest.apps.train.optimizers import recipe
from steepest.apps.train.report import (
    Report,
    SummaryRow,
    baseline,
    make_report,
    markdown,
    write_report,
)
from steepest.apps.train.trial import Trial
from tests.apps.train.tiny import read_json

FIELDS = [
    "optimizer",
    "steps",
    "val_loss",
    "seconds",
    "step_ms",
    "optimizer_ms",
    "steps_to_baseline",
    "seconds_to_baseline",
]


def records(losses: list[float | None], *, ms: float) -> list[Record]:
    """Metrics with an evaluation every second step; the first steps are slow."""
    out: list[Record] = [{"step": 0, "seconds": 0.0, "val_loss": 5.0}]
    for i, loss in enumerate(losses, start=1):
        for step in (2 * i - 1, 2 * i):
            took = 100 * ms if step <= 5 else ms
            out.append(
                {
                    "step": step,
                    "seconds": float(step),
                    "loss": 1.0,
                    "step_ms": took,
                    "optimizer_ms": took / 4,
                }
            )
        out[-1]["val_loss"] = loss
    return out


def report(run: Path, content: dict[tuple[str, int], list[Record]]) -> Report:
    names = list(dict.fromkeys(name for name, _ in content))
    seeds = tuple(dict.fromkeys(seed for _, seed in content))
    for (name, seed), rows in content.items():
        folder = Trial(optimizer=name, seed=seed).folder(run)
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    config = Config(optimizers={n: recipe(n).tuned for n in names}, seeds=seeds, steps=8)
    return make_report(run, config)


def test_the_fields_of_a_row_are_those_of_the_summary() -> None:
    assert [f.name for f in fields(SummaryRow)] == FIELDS


def test_a_run_with_one_seed(tmp_path: Path) -> None:
    result = report(
        tmp_path,
        {
            ("muon", 0): records([4.0, 2.5, 2.0, 1.5], ms=12.0),
            ("adamw", 0): records([4.0, 3.0, 2.6, 2.5], ms=10.0),
        },
    )
    muon, adamw = result.rows
    assert result.baseline == "adamw"
    assert (muon.steps, muon.val_loss, muon.seconds) == (8, 1.5, 8.0)
    assert (muon.step_ms, muon.optimizer_ms) == (12.0, 3.0), "without the first five steps"
    assert (muon.steps_to_baseline, muon.seconds_to_baseline) == (4, 4.0)
    assert (adamw.steps_to_baseline, adamw.seconds_to_baseline) == (8, 8.0)


def test_a_run_with_several_seeds_gives_means_and_ranges(tmp_path: Path) -> None:
    result = report(
        tmp_path,
        {
            ("muon", 0): records([4.0, 2.0, 1.9, 1.8], ms=10.0),
            ("muon", 1): records([4.0, 3.0, 2.3, 1.2], ms=20.0),
            ("adamw", 0): records([4.0, 3.0, 2.6, 2.0], ms=10.0),
            ("adamw", 1): records([4.0, 3.0, 2.6, 2.4], ms=10.0),
        },
    )
    muon = result.rows[0]
    assert muon.val_loss == pytest.approx(1.5)
    assert muon.step_ms == pytest.approx(15.0)
    assert muon.steps_to_baseline == 6, "the mean curve against the baseline's mean, 2.2"
    assert result.curves[0].losses == pytest.approx((5.0, 4.0, 2.5, 2.1, 1.5))
    assert result.curves[0].low == (5.0, 4.0, 2.0, 1.9, 1.2)
    assert result.curves[0].high == (5.0, 4.0, 3.0, 2.3, 1.8)
    alone = {(r.optimizer, seed): r for seed, r in result.runs}
    assert alone["muon", 0].steps_to_baseline == 4, "its own baseline is 2.0"
    assert alone["muon", 1].steps_to_baseline == 6, "its own baseline is 2.4"


def test_a_loss_that_is_not_reached_is_null(tmp_path: Path) -> None:
    result = report(
        tmp_path,
        {
            ("sgd", 0): records([4.0, 3.5, 3.2, 3.0], ms=10.0),
            ("adamw", 0): records([4.0, 3.0, 2.6, 2.5], ms=10.0),
        },
    )
    assert result.rows[0].steps_to_baseline is None
    assert result.rows[0].seconds_to_baseline is None
    assert markdown(result).count("not reached") == 2


def test_a_training_that_diverged_has_no_loss(tmp_path: Path) -> None:
    result = report(
        tmp_path,
        {
            ("muon", 0): records([4.0, None], ms=10.0),
            ("adamw", 0): records([4.0, 3.0, 2.6, 2.5], ms=10.0),
        },
    )
    assert result.rows[0].val_loss is None
    assert result.rows[0].steps == 4
    assert "diverged at step 4" in markdown(result)
    write_report(tmp_path, result)
    assert read_json(tmp_path / "summary.json")[0]["val_loss"] is None


def test_a_baseline_that_diverged_is_reached_by_nobody(tmp_path: Path) -> None:
    result = report(
        tmp_path,
        {
            ("muon", 0): records([4.0, 3.0, 2.0, 1.0], ms=10.0),
            ("adamw", 0): records([4.0, None], ms=10.0),
        },
    )
    assert [r.steps_to_baseline for r in result.rows] == [None, None]


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["muon", "adamw", "sgd"], "adamw"), (["muon", "torch-muon"], "torch-muon")],
)
def test_the_baseline_is_adamw_or_else_the_last(names: list[str], expected: str) -> None:
    assert baseline(names) == expected


def test_files_hold_exactly_the_documented_fields(tmp_path: Path) -> None:
    result = report(tmp_path, {("sgd", s): records([4.0, 3.0], ms=1.0) for s in (0, 7)})
    write_report(tmp_path, result)
    summary: list[dict[str, Any]] = read_json(tmp_path / "summary.json")
    assert [list(row) for row in summary] == [FIELDS]
    runs: list[dict[str, Any]] = read_json(tmp_path / "runs.json")
    assert [list(row) for row in runs] == [["seed", *FIELDS]] * 2
    assert [row["seed"] for row in runs] == [0, 7]
    table = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    assert len(table) == 3
    assert all(line.count("|") == 8 for line in table)
