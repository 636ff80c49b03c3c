"""Experiments whose cells follow from results, or may not share the machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from steepest.apps.reproduce.framework.experiment import Cell, Experiment, FollowUp, Settings
from steepest.apps.reproduce.framework.measure import measure
from steepest.apps.reproduce.framework.progress import CellProgress
from steepest.apps.reproduce.framework.store import Store
from steepest.apps.reproduce.framework.workers import processes, workers
from tests.apps.reproduce.toy import Record

SETTINGS = Settings(seeds=(0,))
calls: list[Record] = []


def cell(n: int, *, alone: bool = False) -> Cell:
    return Cell(key={"n": n}, cost=1.0, alone=alone)


def first(_: Settings) -> list[Cell]:
    return [cell(1), cell(2)]


def later(_: Settings, results: Sequence[Record]) -> list[Cell]:
    """Twice the largest value so far, up to 8."""
    largest = max(r["value"] for r in results)
    return [cell(2 * largest)] if largest < 8 else []


def threads(key: Record) -> Record:
    calls.append(key)
    return {"value": key["n"], "threads": torch.get_num_threads()}


def measured(_: Settings, key: Record) -> Record:
    return threads(key)


CHAIN = Experiment(
    name="chain",
    title="How far?",
    cells=first,
    follow_up=FollowUp(cells=later, expected=lambda _: (2, 2.0)),
    measure=measured,
    tables={},
    pictures={},
    parallel=True,
)


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


def carried_out(folder: Path, console: Console) -> list[Record]:
    store = Store(folder, name="chain", settings={}, fixed={})
    return measure(CHAIN, SETTINGS, store, console)


def test_cells_that_follow_are_measured_until_there_are_none(tmp_path: Path) -> None:
    results = carried_out(tmp_path, Console(quiet=True))
    assert [r["value"] for r in results] == [1, 2, 4, 8]
    assert len(calls) == 4
    # All are kept, those that follow as well.
    assert carried_out(tmp_path, Console(quiet=True)) == results
    assert len(calls) == 4


def test_the_progress_knows_of_what_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr("steepest.apps.reproduce.framework.progress.EVERY", -1.0)
    monkeypatch.setattr(
        "steepest.apps.reproduce.framework.progress.say", lambda _, text: lines.append(text)
    )
    carried_out(tmp_path, Console())
    assert [line.split()[0] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]
    # Of the four the last two lines are lost, and what is left is counted.
    cells = (tmp_path / "cells.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "cells.jsonl").write_bytes(b"".join(cells[:3]))
    lines.clear()
    carried_out(tmp_path, Console())
    assert [line.split()[0] for line in lines] == ["1/1"]


def test_cells_are_taken_out_of_the_progress() -> None:
    progress = CellProgress(Console(quiet=True), cells=5, cost=10.0)
    progress.skip(4, 9.0)
    progress.advance("x", 1.0)
    assert (progress._done, progress._cells, progress._cost) == (1, 1, 1.0)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_cell_that_is_to_be_alone_comes_first_and_has_all_threads(jobs: int) -> None:
    torch.set_num_threads(2)
    try:
        with workers(jobs, alone=False) as do:
            found = [
                (c.key["n"], r["threads"])
                for c, r in do(threads, [cell(1), cell(2, alone=True), cell(3)])
            ]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert found[0] == (2, 2)
    assert sorted(found[1:]) == [(1, 1), (3, 1)]
    # What is alone is measured by this process, and nothing else runs meanwhile.
    assert calls == ([{"n": 2}] if jobs > 1 else [{"n": 2}, {"n": 1}, {"n": 3}])


def test_the_number_of_processes() -> None:
    assert processes(CHAIN, 3) == 3
    assert processes(CHAIN, None) >= 1
    assert processes(replace(CHAIN, parallel=False), None) == 1
    with pytest.raises(ValueError, match="each cell of chain uses all cores"):
        processes(replace(CHAIN, parallel=False), 2)
