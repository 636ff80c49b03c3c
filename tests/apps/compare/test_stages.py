"""The cells of a comparison, and what one of them measures, made up and real."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from steepest.apps.bench.rounds import Times
from steepest.apps.compare.names import TUNING_SEED
from steepest.apps.compare.settings import CompareSettings, rows_of
from steepest.apps.compare.stages import (
    FINAL,
    GRID,
    REFINE,
    TIME,
    expected,
    first_cells,
    later_cells,
    measure,
)
from steepest.apps.compare.tasks import TASKS, RunSetup
from steepest.apps.compare.tuning import REFINEMENTS
from steepest.apps.reproduce.framework.training import classifier
from steepest.apps.train.optimizers import RECIPES
from tests.apps.compare.fakes import BEST, SETTINGS, FakeRun, Record
from tests.refusals import assert_refused

REAL = replace(
    SETTINGS,
    optimizers=("muon", "adamw"),
    layers=1,
    width=16,
    context=8,
    batch=4,
    eval_windows=8,
    digit_batch=8,
    digit_width=8,
)


def carried_out(settings: CompareSettings) -> list[Record]:
    """The results of every stage in turn."""
    results: list[Record] = []
    cells = first_cells(settings)
    while cells:
        results += [{**c.key, **measure(settings, c.key)} for c in cells]
        cells = later_cells(settings, results)
    return results


@pytest.mark.usefixtures("fake")
def test_every_row_has_equally_many_runs_of_each_kind() -> None:
    results = carried_out(SETTINGS)
    counts = Counter((r["task"], r["stage"], r.get("optimizer")) for r in results)
    for task in SETTINGS.tasks:
        assert counts.pop((task, TIME, None)) == 1
        for name in SETTINGS.optimizers:
            tuning = SETTINGS.tuning_seeds
            assert counts.pop((task, GRID, name)) == SETTINGS.budget * tuning
            assert counts.pop((task, REFINE, name)) == REFINEMENTS * tuning
            assert counts.pop((task, FINAL, name)) == len(SETTINGS.seeds)
    assert not counts
    keys = [str({k: v for k, v in r.items() if k not in ("loss", "losses")}) for r in results]
    assert len(set(keys)) == len(keys)


@pytest.mark.usefixtures("fake")
def test_what_is_to_come_is_counted_beforehand() -> None:
    number, cost = expected(SETTINGS)
    later = len(carried_out(SETTINGS)) - len(first_cells(SETTINGS))
    assert number == later
    assert cost == pytest.approx(number * TASKS["text"].cost(SETTINGS))


@pytest.mark.usefixtures("fake")
def test_tuning_finds_the_best_settings_on_seeds_of_its_own() -> None:
    results = carried_out(SETTINGS)
    tuning = {r["seed"] for r in results if r["stage"] in (GRID, REFINE)}
    assert tuning == {TUNING_SEED, TUNING_SEED + 1}
    finals = [r for r in results if r["stage"] == FINAL]
    assert {r["seed"] for r in finals} == set(SETTINGS.seeds)
    chosen = {r["optimizer"]: (r["lr"], r["weight_decay"], r["adamw_lr"]) for r in finals}
    assert chosen["muon"] == (BEST["muon"], 0.0, 8e-3)
    # Its own decay is 0.01: both are above 0, and the first of equals is taken.
    assert chosen["adamw"] == (BEST["adamw"], 0.01, None)
    # From 0.16, the edge of the grid, by factors of 2 to the nearest to 0.4.
    assert chosen["scion"] == (0.32, 0.0, None)


@pytest.mark.usefixtures("fake")
def test_a_final_run_has_its_curve_and_a_tuning_run_its_end() -> None:
    key = {"task": "text", "stage": FINAL, "optimizer": "adamw", "lr": 4e-3}
    key |= {"weight_decay": 0.0, "adamw_lr": None, "seed": 0}
    found = measure(SETTINGS, key)
    assert found["steps"] == [0, 3, 6, 9, 12]
    assert found["losses"] == pytest.approx([1.5 + 3 / 2**k for k in range(5)])
    assert measure(SETTINGS, {**key, "stage": GRID}) == {"loss": found["losses"][-1]}
    lost = measure(SETTINGS, {**key, "lr": 1.0})
    assert (lost["steps"], lost["losses"][1:], lost["loss"]) == ([0, 3], [None], None)


@pytest.mark.usefixtures("fake")
def test_all_rows_are_timed_together_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []

    def step(run: FakeRun) -> bool:
        turns.append(run.setup.optimizer)
        return True

    monkeypatch.setattr(FakeRun, "step", step)
    cells = [c for c in first_cells(SETTINGS) if c.key["stage"] == TIME]
    assert [c.alone for c in cells] == [True, True]
    assert not any(c.alone for c in first_cells(SETTINGS) if c not in cells)
    found = measure(SETTINGS, cells[0].key)
    assert {name: len(s) for name, s in found["seconds"].items()} == {
        "muon": 3,
        "adamw": 3,
        "scion": 3,
    }
    # Two rounds to warm up and three that count, each with two steps of everyone in turn.
    rounds = [turns[i : i + 6] for i in range(0, len(turns), 6)]
    assert len(rounds) == 5
    for own in rounds:
        assert [own[i] == own[i + 1] for i in (0, 2, 4)] == [True] * 3
        assert len(set(own)) == 3


@pytest.mark.usefixtures("fake")
def test_times_are_those_of_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def turns(runners: Mapping[str, object], *_: object, **__: object) -> Times:
        return Times(seconds=dict.fromkeys(runners, (4.0, 6.0)), failures={})

    monkeypatch.setattr("steepest.apps.compare.stages.take_turns", turns)
    found = measure(SETTINGS, first_cells(SETTINGS)[0].key)["seconds"]
    # Each turn has two steps.
    assert found == {name: [2.0, 3.0] for name in SETTINGS.optimizers}


@pytest.mark.usefixtures("fake")
def test_a_row_that_takes_no_step_shows_before_the_long_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def step(run: FakeRun) -> bool:
        if run.setup.optimizer == "scion":
            raise RuntimeError("no such kernel")
        return True

    monkeypatch.setattr(FakeRun, "step", step)
    first = first_cells(SETTINGS)[0]
    assert first.alone
    assert_refused(lambda: measure(SETTINGS, first.key), "scion", "no such kernel); leave it out")


@pytest.mark.parametrize("task", TASKS)
def test_a_run_learns_and_repeats_bit_for_bit(task: str) -> None:
    key = {"task": task, "stage": FINAL, "optimizer": "muon", "lr": 0.02}
    key |= {"weight_decay": 0.1, "adamw_lr": 4e-3, "seed": 1}
    found = [measure(REAL, key) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0]["steps"] == [0, 3, 6, 9, 12]
    losses = found[0]["losses"]
    assert losses[-1] < losses[0]
    assert losses[-1] == found[0]["loss"]
    assert measure(REAL, {**key, "seed": 2})["losses"][0] != losses[0]
    # A tuning run is the same run, looked at once.
    assert measure(REAL, {**key, "stage": GRID})["loss"] == losses[-1]


@pytest.mark.parametrize("task", TASKS)
def test_every_row_is_trained_with_the_settings_of_its_cell(task: str) -> None:
    for name in RECIPES:
        tuned = replace(RECIPES[name].tuned, lr=1e-3)
        run = TASKS[task].start(REAL, RunSetup(optimizer=name, tuned=tuned, seed=0, steps=2))
        assert run.step() and run.step()
        assert math.isfinite(run.loss())


@pytest.mark.parametrize("task", TASKS)
def test_a_loss_that_is_not_finite_ends_a_run(task: str) -> None:
    key = {"task": task, "stage": FINAL, "optimizer": "sgd", "lr": 1e30}
    key |= {"weight_decay": 0.0, "adamw_lr": None, "seed": 0}
    found = measure(REAL, key)
    assert found["loss"] is None and found["losses"][-1] is None
    assert len(found["steps"]) == len(found["losses"]) < 5
    tuned = replace(RECIPES["sgd"].tuned, lr=1e30)
    run = TASKS[task].start(REAL, RunSetup(optimizer="sgd", tuned=tuned, seed=0, steps=9))
    taken = [run.step() for _ in range(4)]
    assert taken[0] and not taken[-1]


def test_the_hidden_matrices_of_both_tasks_are_those_of_muon() -> None:
    optimizer = RECIPES["muon"].build(classifier(8, 2, seed=0), RECIPES["muon"].tuned)
    routing = optimizer.routing  # type: ignore[attr-defined]
    moved = {a.name: a.target for a in routing}
    assert moved["head.weight"] != moved["layer1.weight"] == moved["layer2.weight"]


def test_baseline_and_reference_are_always_there() -> None:
    assert rows_of(("scion", "sgd")) == ("muon", "adamw", "sgd", "scion")
    assert rows_of(()) == ("muon", "adamw")


def test_costs_grow_with_the_work() -> None:
    longer = replace(REAL, steps=24, digit_steps=24)
    for task in TASKS.values():
        assert task.cost(longer) == pytest.approx(2 * task.cost(REAL))
    wider = replace(REAL, width=256, digit_width=256)
    assert all(t.cost(wider) > t.cost(REAL) for t in TASKS.values())
    assert all(a != b for a, b in pairwise(t.cost(REAL) for t in TASKS.values()))
    assert torch.get_num_threads() == 1
