"""Two runs side by side: what differs, which gets further, and when nothing can be said."""

from __future__ import annotations

import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from steepest.apps.diagnose import start
from steepest.apps.diagnose.compare import compared, different, incomparable, pairs, ranked
from steepest.apps.diagnose.pictures import outliers
from steepest.apps.diagnose.progress import DiagnosisProgress
from steepest.apps.diagnose.records import grid
from steepest.apps.diagnose.source import Subject, find
from steepest.apps.train import trial
from steepest.apps.train.config import Config, ModelConfig, OptimizerConfig
from steepest.apps.train.trial import Trial
from tests.apps.diagnose.conftest import call
from tests.apps.diagnose.test_page import Found
from tests.apps.train.tiny import TINY

LR = OptimizerConfig(lr=0.04, weight_decay=0.1, adamw_lr=4e-3)


def subject(name: str, losses: list[float | None], **settings: Any) -> Subject:
    metrics = [
        {"step": 10 * i, "seconds": 20.0 * i, "loss": loss, "val_loss": loss}
        for i, loss in enumerate(losses)
    ]
    config = Config(optimizers={"muon": settings.pop("muon", LR)}, **settings)
    return Subject(
        name=name,
        folder=Path(name),
        metrics=metrics,
        monitor=[],
        trial=Trial(optimizer="muon", seed=0),
        config=config,
        text="abc",
        data="words.txt",
    )


A, B = subject("A", [4.0, 3.0, 2.5, 2.4]), subject("B", [4.0, 2.4, 2.2, 2.0])


def test_the_better_run_and_where_it_passes_the_end_of_the_other() -> None:
    for one, other in ((A, B), (B, A)):
        (found,) = compared(one, other)
        assert found.what == (
            "B ends at 2.000, 16.7% below A (2.400), and reaches A's final loss at step 10 of 30"
        )
        assert found.confidence == "likely" and "settings of B" in found.advice
    late = subject("B", [4.0, 2.9, 2.3, 2.0])
    (found,) = compared(A, late)
    assert found.what.endswith("at step 20 of 30")


def test_a_difference_like_that_of_two_seeds_is_none() -> None:
    (found,) = compared(A, subject("B", [4.0, 3.0, 2.5, 2.39]))
    assert found.confidence == "a hint" and not found.change and "--seed 2" in found.advice


def seeded(name: str, *finals: float | None) -> Subject:
    """A subject of seed 0, with one more seed for each further final loss."""
    own, *others = (subject(name, [4.0, 3.0, final]) for final in finals)
    return replace(
        own,
        name=f"{name} seed 0",
        others={seed: other.metrics for seed, other in enumerate(others, start=1)},
    )


def test_with_several_seeds_the_means_are_compared() -> None:
    # Seed 0 alone says the other way round.
    one, two = seeded("one", 2.0, 2.4, 2.5), seeded("two", 2.1, 2.0, 2.0)
    (found,) = compared(one, two)
    assert found.what == "two ends at 2.033, 11.6% below one (2.300) in the mean of 3 seeds"
    assert found.confidence == "a hint" and not found.change
    assert found.why.startswith("it is lower with 2 of 3 seeds")
    (found,) = compared(one, seeded("two", 1.9, 2.0, 2.0))
    assert found.confidence == "likely" and found.change
    assert found.advice == "take the settings of two" and "3 of 3 seeds" in found.why
    (found,) = compared(seeded("one", 2.0, 2.0), seeded("two", 1.99, 1.99))
    assert found.confidence == "a hint" and not found.change
    assert [s.name for pair in ranked([one, two, A], A) for s in pair] == ["A", "two seed 0"]


def test_seeds_that_one_side_lacks_are_asked_for() -> None:
    (found,) = compared(seeded("one", 2.4, 2.4), seeded("two", 2.0))
    assert found.what.startswith("two seed 0 ends at 2.000") and found.why.startswith("one seed")
    assert "once a second seed" not in found.advice and "the same seeds" in found.advice


def test_a_seed_that_diverged_or_is_not_through_is_not_in_a_mean() -> None:
    (found,) = compared(seeded("one", 2.4, 2.4), seeded("two", 2.0, None))
    assert "two seed 1 diverged" in found.what and "lr" in found.advice
    running = seeded("two", 2.0, 2.0)
    running = replace(running, others={1: running.others[1][:2]})
    (found,) = compared(seeded("one", 2.4, 2.4), running)
    assert found.what.startswith("two seed 0 ends at 2.000")


def test_the_other_seeds_of_a_run_are_read(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    config["config"]["seeds"] = [0, 1]
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in ("muon", "adamw"):
        shutil.copytree(copy / name / "seed-0", copy / name / "seed-1")
    muon, adamw = find(copy, optimizers=[], seed=None)
    assert muon.others == {1: muon.metrics}
    (found,) = compared(adamw, muon)
    assert "in the mean of 2 seeds" in found.what and "second seed" not in found.advice
    older = copy / "muon" / "seed-0" / "step-000010.pt"
    (early,) = find(older, optimizers=[], seed=None)
    assert early.others[1][-1]["step"] == 10


def test_losses_of_other_texts_or_windows_are_not_held_against_each_other() -> None:
    other = replace(B, text="def", data="other.txt")
    assert "different texts (words.txt and other.txt)" in incomparable(A, other)
    windows = subject("B", [2.0], model=ModelConfig(context=64))
    assert "--context" in incomparable(A, windows)
    for apart in (other, windows):
        (found,) = compared(A, apart)
        assert "not comparable" in found.what and "ends at" not in found.what and not found.change
    assert incomparable(A, replace(B, config=None)) and not incomparable(A, B)


def test_a_run_that_diverged_has_no_rank() -> None:
    assert list(compared(A, subject("B", [4.0, 2.0, None]))) == []


def test_only_what_differs_is_in_the_table() -> None:
    assert different([A, B]) is None
    faster = OptimizerConfig(lr=0.1, weight_decay=0.1, adamw_lr=4e-3)
    table = different([A, subject("B", [2.0], muon=faster, batch=32)])
    assert table is not None and table.headings == ("flag", "A", "B")
    assert sorted(table.rows) == [("--batch", "16", "32"), ("--lr", "0.04", "0.1")]


def test_runs_are_held_against_each_other_by_optimizer_or_by_their_best() -> None:
    adamw = replace(subject("C", [3.0, 2.2]), trial=Trial(optimizer="adamw", seed=0))
    sgd = replace(subject("D", [3.0, 2.9]), trial=Trial(optimizer="sgd", seed=0))
    assert [(a.name, b.name) for a, b in pairs([A, adamw], [B])] == [("A", "B")]
    assert [(a.name, b.name) for a, b in pairs([A], [sgd, adamw])] == [("A", "C")]
    assert [(a.name, b.name) for a, b in ranked([A, adamw, sgd], sgd)] == [("D", "C")]
    assert ranked([A], A) == []


@pytest.fixture(scope="module")
def other(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of Muon alone that ends otherwise."""
    folder = tmp_path_factory.mktemp("other") / "second"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "SAMPLE", 20)
        patch.setattr(os, "fsync", lambda _: None)
        flags = ("--optimizer", "muon", "--lr", 0.01, "--data", text, "--out", folder)
        result = call("train", *TINY, *flags)
        assert result.exit_code == 0, result.stderr
    return folder


def test_two_runs_become_one_page(
    run: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "measure", lambda *_, **__: None)
    out = tmp_path / "page.html"
    result = call("diagnose", run, other, "--optimizer", "muon", "--out", out)
    assert result.exit_code == 0, result.stderr
    page = Found(out.read_bytes())
    assert f"A is {run}, B is {other}" in page.text and "Settings that differ" in page.text
    for words in ("A: muon seed 0", "B: muon seed 0", " below ", "--lr", "0.04", "0.01"):
        assert words in page.text and words in result.stdout, words
    assert "--width" not in result.stdout
    # A checkpoint of a run against its end is not a comparison with itself.
    older = run / "muon" / "seed-0" / "step-000010.pt"
    result = call("diagnose", run / "muon" / "seed-0", older, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "They end at different steps" in result.stdout


def test_another_text_is_named_in_the_findings(
    run: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(other, copy)
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    config["text"]["sha256"] = "0" * 64
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for path in copy.rglob("step-*.pt"):
        path.unlink()
    monkeypatch.setattr(start, "measure", lambda *_, **__: None)
    result = call("diagnose", run, copy, "--optimizer", "muon", "--out", tmp_path / "p.html")
    assert result.exit_code == 0, result.stderr
    assert "1. The losses of A: muon seed 0 and B: muon seed 0 are not comparable" in result.stdout


def test_the_lines_with_a_name_are_those_apart_from_the_others() -> None:
    records = [
        {
            "step": s,
            **{
                f"{n}/update_ratio": v / s
                for n, v in zip("abcde", (1, 1.1, 9, 0.9, 1), strict=True)
            },
        }
        for s in (1, 2, 3)
    ]
    found = grid(records, "update_ratio")
    assert found is not None and [found.layers[i] for i in outliers(found, 1)] == ["c"]


def test_the_time_left_follows_the_estimate_and_what_has_been_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("steepest.apps.diagnose.progress.time.monotonic", lambda: now[0])
    console = Console(record=True, width=100, force_terminal=False, file=io.StringIO())
    with DiagnosisProgress(console, subjects=2) as progress:
        progress.begin("one", {"directions": 10.0, "verdict": 20.0})
        progress.stage("directions")
        now[0] = 20.0  # twice as slow as estimated
        progress.stage("verdict")
        now[0] = 60.0
        progress.begin("two", {"directions": 10.0, "verdict": 20.0})
        progress.stage("directions")
    etas = [line.rpartition(" ")[2] for line in console.export_text().splitlines()]
    assert etas == ["1:00", "1:40", "1:00"]
