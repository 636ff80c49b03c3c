"""A trial: its golden curve, and that going on from any point ends in the same place."""

from __future__ import annotations

import base64
import json
import os
import pkgutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

from steepest.apps.train import checkpoint
from steepest.apps.train.config import Config, ModelConfig
from steepest.apps.train.data import Corpus, Text, prepare
from steepest.apps.train.metrics import read_metrics
from steepest.apps.train.model import GPT
from steepest.apps.train.optimizers import RECIPES, recipe
from steepest.apps.train.trial import Trainer, Trial, diverged, is_done, run_trial, trials
from steepest.polar import Auto, Svd
from tests.apps.train.tiny import final_state, history, read_json, same, words

GOLDEN = Path(__file__).with_name("golden.json")
WEIGHTS = Path(__file__).with_name("golden_weights.json")


def config(*names: str, steps: int = 8) -> Config:
    return Config(
        optimizers={n: recipe(n).tuned for n in names},
        model=ModelConfig(layers=1, width=16, heads=2, context=8),
        batch=4,
        steps=steps,
        warmup=2,
        dtype="float64",
        eval_every=3,
        eval_windows=8,
        checkpoint_every=3,
        monitor_every=0,
    )


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return prepare(Text(name="words", text=words(4000)), context=8)


class Killed(BaseException):
    """Ends a trial where it is, as a kill does: nothing in the package catches it."""


def go(run: Path, settings: Config, corpus: Corpus, *, stop_at: int = -1) -> bool:
    """Start or go on with the first trial of a configuration."""
    trainer = Trainer(trials(settings)[0], settings, corpus)
    trainer.restore(trainer.trial.folder(run))
    return run_trial(trainer, run, report=lambda _: None, stop=lambda: trainer.step == stop_at)


def folder(run: Path, settings: Config) -> Path:
    return trials(settings)[0].folder(run)


def losses(run: Path, settings: Config, corpus: Corpus) -> list[list[float]]:
    """Training and validation losses of every step."""
    assert go(run, settings, corpus)
    records = history(folder(run, settings))
    return [[v for v in r[1:3] if v is not None] for r in records]


@pytest.fixture
def golden_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first weights of the golden curves, from a file.

    Normal numbers in float32 are drawn with the logarithms and cosines of the processor's vector
    unit: a seed gives the same ones on all machines but for their last digits, 2e-6 of a deviation
    as measured, and these make 3e-6 of a loss after 24 steps.
    """
    stored = read_json(WEIGHTS)
    draw = GPT._initialise

    @torch.no_grad()
    def given(model: GPT, generator: torch.Generator, layers: int) -> None:
        draw(model, generator, layers)
        drawn = {n: p for n, p in model.named_parameters() if p.ndim == 2}
        assert drawn.keys() == stored.keys()
        for name, p in drawn.items():
            raw = bytearray(base64.b64decode(stored[name]))
            weight = torch.frombuffer(raw, dtype=torch.float32).view_as(p)
            torch.testing.assert_close(p, weight, rtol=0, atol=1e-5 * 0.02, msg=name)
            p.copy_(weight)

    monkeypatch.setattr(GPT, "_initialise", given)


@pytest.mark.usefixtures("golden_start")
def test_the_golden_curve(tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    # Written by: STEEPEST_GOLDEN=1 pytest tests/apps/train/test_trial.py, on purpose and by itself.
    # Polar factors are exact here: `Auto` may be retuned, and takes other methods on other
    # processors, which is not a change of the training.
    monkeypatch.setattr(Auto, "choose", lambda *_: Svd())
    curves = {n: losses(tmp_path, config(n, steps=24), corpus) for n in RECIPES}
    if os.environ.get("STEEPEST_GOLDEN"):
        GOLDEN.write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")
    golden = read_json(GOLDEN)
    assert golden.keys() == RECIPES.keys()
    for name, curve in curves.items():
        # All else is float64. The kernels of MKL and of torch for other processors, which one can
        # choose, change a loss by 1e-13 of it at most. torch.optim.Muon works in bfloat16, where a
        # direction is off by 2^-8 of it; these losses fall by 0.15 of the first, so by 6e-4 of it.
        rel = 2e-3 if name == "torch-muon" else 1e-9
        for step, (now, then) in enumerate(zip(curve, golden[name], strict=True)):
            assert now == pytest.approx(then, rel=rel), f"{name}, step {step}"


def test_the_default_polar_method_follows_the_exact_one(tmp_path: Path, corpus: Corpus) -> None:
    curve = losses(tmp_path, config("muon", steps=24), corpus)
    for step, (now, then) in enumerate(zip(curve, read_json(GOLDEN)["muon"], strict=True)):
        assert now == pytest.approx(then, rel=5e-3), f"step {step}"


# One way through the program for all optimizers: what differs is the state, full after a step.
@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("muon", range(1, 8)),
        *((name, (5,)) for name in RECIPES if name != "muon"),
        *(
            pytest.param(name, range(1, 8), marks=pytest.mark.slow)
            for name in RECIPES
            if name != "muon"
        ),
    ],
)
def test_stopping_at_any_step_and_going_on_changes_nothing(
    tmp_path: Path, corpus: Corpus, name: str, stops: Sequence[int]
) -> None:
    settings = config(name)
    assert go(tmp_path / "whole", settings, corpus)
    whole = folder(tmp_path / "whole", settings)
    for step in stops:
        run = tmp_path / f"stop-{step}"
        assert not go(run, settings, corpus, stop_at=step)
        assert not is_done(folder(run, settings), settings)
        assert go(run, settings, corpus)
        assert is_done(folder(run, settings), settings)
        assert history(folder(run, settings)) == history(whole)
        assert same(final_state(folder(run, settings)), final_state(whole))


@pytest.mark.parametrize("operation", ["fsync", "replace", "write"])
def test_a_kill_at_any_write_changes_nothing(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    settings = replace(config("muon"), monitor_every=5)
    assert go(tmp_path / "whole", settings, corpus)
    whole = folder(tmp_path / "whole", settings)
    owner = {"fsync": "os:fsync", "replace": "pathlib:Path.replace"}.get(
        operation, "steepest.apps.train.metrics:Metrics.write"
    )
    # Files are written and synced so often that not every time can be tried.
    for fatal in count(1, step=6 if operation == "fsync" else 3):
        run = tmp_path / f"{operation}-{fatal}"
        with monkeypatch.context() as patch:
            calls = _die_at(patch, owner, fatal)
            with suppress(Killed):
                go(run, settings, corpus)
        finished = len(calls) < fatal
        if operation == "write" and not finished:
            with (folder(run, settings) / "metrics.jsonl").open("ab") as file:
                file.write(b'{"step": 4, "lo')  # the kill came in the middle of a line
        assert go(run, settings, corpus)
        assert history(folder(run, settings)) == history(whole)
        assert same(final_state(folder(run, settings)), final_state(whole))
        if finished:
            break
    assert fatal > 6, "the kill came at many places"


def _die_at(patch: pytest.MonkeyPatch, target: str, fatal: int) -> list[int]:
    """Let the call number `fatal` of a function kill the trial; the calls are counted."""
    calls: list[int] = []
    original = pkgutil.resolve_name(target)

    def dying(*arguments: object, **keywords: object) -> object:
        calls.append(1)
        if len(calls) == fatal:
            raise Killed
        return original(*arguments, **keywords)

    patch.setattr(target.replace(":", "."), dying)
    return calls


def test_a_checkpoint_of_another_trial_is_refused(tmp_path: Path, corpus: Corpus) -> None:
    go(tmp_path, config("adamw"), corpus)
    path = checkpoint.checkpoints(folder(tmp_path, config("adamw")))[-1]
    belongs = {
        "model": replace(config("adamw"), model=ModelConfig(layers=2, width=16, heads=2)),
        "steps": config("adamw", steps=9),
        "settings": replace(
            config("adamw"), optimizers={"adamw": replace(recipe("adamw").tuned, lr=0.5)}
        ),
    }
    for key, other in belongs.items():
        trainer = Trainer(Trial(optimizer="adamw", seed=0), other, corpus)
        with pytest.raises(ValueError, match=rf"{path.name}.*another run \({key} "):
            trainer.restore(path.parent)
    text = prepare(Text(name="other", text=words(4000, seed=1)), context=8)
    with pytest.raises(ValueError, match=r"another run \(text "):
        Trainer(Trial(optimizer="adamw", seed=0), config("adamw"), text).restore(path.parent)


def test_a_training_that_diverges_ends_there_and_says_so(tmp_path: Path, corpus: Corpus) -> None:
    wild = replace(config("sgd"), optimizers={"sgd": replace(recipe("sgd").tuned, lr=1e200)})
    assert go(tmp_path, wild, corpus)
    records = read_metrics(folder(tmp_path, wild))
    assert diverged(records[-1])
    assert records[-1]["step"] < 8
    assert is_done(folder(tmp_path, wild), wild)


def test_seconds_count_training_only_and_go_on(tmp_path: Path, corpus: Corpus) -> None:
    settings = config("sgd")
    go(tmp_path, settings, corpus, stop_at=5)
    go(tmp_path, settings, corpus)
    records = read_metrics(folder(tmp_path, settings))[1:]
    total = 0.0
    for r in records:
        total += r["step_ms"] / 1e3
        assert r["seconds"] == pytest.approx(total)
        assert 0 < r["optimizer_ms"] < r["step_ms"]


def test_trials_go_seed_by_seed() -> None:
    both = replace(config("muon", "sgd"), seeds=(3, 1))
    assert [str(t) for t in trials(both)] == [
        "muon seed 3",
        "sgd seed 3",
        "muon seed 1",
        "sgd seed 1",
    ]


def test_optimizers_of_one_seed_start_from_the_same_model_and_see_the_same_data(
    tmp_path: Path, corpus: Corpus
) -> None:
    firsts = []
    for name in RECIPES:
        go(tmp_path, config(name), corpus)
        records = history(folder(tmp_path, config(name)))
        firsts.append((records[0][2], records[1][1]))
    assert len(set(firsts)) == 1


def test_bfloat16_keeps_parameters_in_float32(tmp_path: Path, corpus: Corpus) -> None:
    settings = replace(config("muon"), dtype="bfloat16")
    assert go(tmp_path, settings, corpus)
    model = final_state(folder(tmp_path, settings))["model"]
    assert {str(v.dtype) for v in model.values()} == {"torch.float32"}
    exact = replace(config("muon"), dtype="float32")
    assert go(tmp_path / "32", exact, corpus)
    rounded = history(folder(tmp_path, settings))
    reference = history(folder(tmp_path / "32", exact))
    assert rounded != reference
    assert rounded[-1][2] == pytest.approx(reference[-1][2], rel=2e-2)


def test_the_monitor_changes_no_loss_and_is_cut_back_on_going_on(
    tmp_path: Path, corpus: Corpus
) -> None:
    watched = replace(config("muon"), monitor_every=2)
    plain = replace(watched, monitor_every=0)
    assert go(tmp_path / "watched", watched, corpus)
    assert go(tmp_path / "plain", plain, corpus)
    whole = folder(tmp_path / "watched", watched)
    assert history(whole) == history(folder(tmp_path / "plain", plain))
    assert not (folder(tmp_path / "plain", plain) / "monitor.jsonl").exists()
    seen = monitored(whole)
    assert [r["step"] for r in seen] == [1, 2, 4, 6, 8]
    assert all("blocks.0.mlp.fc/update_ratio" in r for r in seen)
    assert not go(tmp_path / "broken", watched, corpus, stop_at=3)
    broken = folder(tmp_path / "broken", watched)
    with (broken / "monitor.jsonl").open("a") as file:
        file.write('{"step": 4, "time": 0, "warnings": []}\n')  # after the checkpoint
    assert go(tmp_path / "broken", watched, corpus)
    assert monitored(broken) == seen


def monitored(trial: Path) -> list[dict[str, object]]:
    """What the monitor wrote, without the times."""
    lines = (trial / "monitor.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]
