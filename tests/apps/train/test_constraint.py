"""The balls of weight decay in a run: figures, spectra that are kept once, and their picture."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import steepest as library
from steepest.apps.train.config import Config, ModelConfig
from steepest.apps.train.constraint import KEPT, Spectra, figures, has_ball, largest
from steepest.apps.train.data import Corpus, Text, prepare
from steepest.apps.train.metrics import read_metrics
from steepest.apps.train.optimizers import RECIPES, recipe
from steepest.apps.train.spectra import chosen, draw, write_spectra
from steepest.apps.train.trial import Trainer, run_trial, trials
from steepest.diagnostics import ConstraintSpectrum, constraint_spectra
from tests.apps.train.tiny import Invoke, words

LAYERS = [f"blocks.0.{name}" for name in ("attn.qkv", "attn.proj", "mlp.fc", "mlp.proj")]
NORMS = [f"constraint/{layer}/norm_over_radius" for layer in LAYERS]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return prepare(Text(name="words", text=words(4000)), context=8)


def config(name: str) -> Config:
    return Config(
        optimizers={name: replace(recipe(name).tuned, weight_decay=1.0)},
        model=ModelConfig(layers=1, width=16, heads=2, context=8),
        batch=4,
        steps=8,
        warmup=2,
        dtype="float64",
        eval_every=2,
        eval_windows=8,
        checkpoint_every=3,
    )


def go(run: Path, settings: Config, corpus: Corpus, *, stop_at: int = -1) -> Trainer:
    trainer = Trainer(trials(settings)[0], settings, corpus)
    trainer.restore(trainer.trial.folder(run))
    run_trial(trainer, run, report=lambda _: None, stop=lambda: trainer.step == stop_at)
    return trainer


def arrays(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "spectra.npz") as file:
        return dict(file)


def test_evaluations_show_the_balls_and_other_steps_do_not(tmp_path: Path, corpus: Corpus) -> None:
    trainer = go(tmp_path, config("muon"), corpus)
    records = read_metrics(trainer.trial.folder(tmp_path))
    for record in records:
        found = [k for k in record if k.startswith("constraint/")]
        if record["step"] % 2:
            assert found == []
            continue
        # Before the first step there is no gradient to score.
        scores = ["constraint/kkt"] * (record["step"] > 0)
        assert found == [*NORMS, "constraint/distance", *scores]
    report = library.constraint_report(trainer.model, trainer.optimizer)
    assert [records[-1][k] for k in NORMS] == [r.filled for r in report]
    assert records[-1]["constraint/distance"] == max(r.distance for r in report)
    assert records[-1]["constraint/kkt"] == max(r.kkt for r in report if r.kkt is not None)
    assert largest(records) == max((r.filled, r.name.removesuffix(".weight")) for r in report)
    board = EventAccumulator(str(trainer.trial.board(tmp_path))).Reload()
    for key in (*NORMS, "constraint/distance", "constraint/kkt"):
        known = [(r["step"], pytest.approx(r[key])) for r in records if key in r]
        assert [(e.step, e.value) for e in board.Scalars(key)] == known


def test_an_infinite_score_is_null(corpus: Corpus) -> None:
    trainer = Trainer(trials(config("muon"))[0], config("muon"), corpus)
    trainer.train_step()
    with torch.no_grad():
        trainer.model.get_parameter("blocks.0.mlp.fc.weight").mul_(1e3)
    found = figures(library.constraint_report(trainer.model, trainer.optimizer))
    assert found["constraint/kkt"] is None
    assert found["constraint/distance"] > 1


def test_the_spectra_are_those_of_the_layers(tmp_path: Path, corpus: Corpus) -> None:
    trainer = go(tmp_path, config("muon"), corpus)
    spectra = Spectra.load(trainer.trial.folder(tmp_path))
    assert spectra.steps == [0, 2, 4, 6, 8]
    assert spectra.names == LAYERS
    assert set(spectra.kinds) == {"singular values"}
    for values, limit, found in zip(
        spectra.values,
        spectra.limits,
        constraint_spectra(trainer.model, trainer.optimizer),
        strict=True,
    ):
        assert limit == found.limit
        assert np.array_equal(values[-1], found.values.float().numpy())
        assert np.stack(values).shape == (5, len(found.values))


@pytest.mark.usefixtures("drawn")
def test_a_layer_that_is_no_longer_finite_is_a_gap() -> None:
    spectra, ones = Spectra(), torch.ones(3, dtype=torch.float64)
    both = [ConstraintSpectrum(name=n, kind="entries", values=ones, limit=2.0) for n in "ab"]
    spectra.add(0, both)
    spectra.add(5, both[1:])
    assert [len(rows) for rows in spectra.values] == [2, 2]
    assert np.isnan(spectra.values[0][1]).all()
    assert np.array_equal(spectra.values[1][1], np.ones(3))
    assert spectra.limits == [2.0, 2.0]
    assert imread(io.BytesIO(draw(spectra, "muon")), format="png").std() > 0.05


def test_without_spectra_nothing_is_shown_and_the_training_is_the_same(
    tmp_path: Path, corpus: Corpus
) -> None:
    kept = []
    for spectra in (True, False):
        run = tmp_path / str(spectra)
        trainer = go(run, replace(config("muon"), spectra=spectra), corpus)
        folder = trainer.trial.folder(run)
        records = read_metrics(folder)
        kept.append([(r["loss"], r.get("val_loss")) for r in records[1:]])
        assert (folder / "spectra.npz").exists() == spectra
        assert any(k.startswith("constraint/") for r in records for k in r) == spectra
    assert kept[0] == kept[1]


def test_the_flag_turns_the_spectra_off(tiny: Invoke, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = tiny("--optimizer", "muon", "--no-spectra", "--out", run)
    assert result.exit_code == 0, result.stderr
    assert "largest ‖W‖/radius" not in result.stdout
    assert not list(run.rglob("spectra.*"))


def test_of_many_values_the_ends_and_some_between_are_kept() -> None:
    many = torch.linspace(3, 1, 10_000, dtype=torch.float64)
    spectra = Spectra()
    spectra.add(0, [ConstraintSpectrum(name="w", kind="entries", values=many, limit=5.0)])
    kept = spectra.values[0][0]
    assert (len(kept), kept[0], kept[-1]) == (KEPT, 3.0, 1.0)
    assert np.median(kept) == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("name", ["muon", "lion"])
def test_going_on_from_anywhere_keeps_every_evaluation_once(
    tmp_path: Path, corpus: Corpus, name: str
) -> None:
    settings = config(name)
    whole = arrays(go(tmp_path / "whole", settings, corpus).trial.folder(tmp_path / "whole"))
    for step in (1, 4, 7):
        run = tmp_path / f"stop-{step}"
        trial = go(run, settings, corpus, stop_at=step).trial.folder(run)
        # A kill after the spectra and before their checkpoint.
        max(trial.glob("step-*.pt")).unlink()
        go(run, settings, corpus)
        found = arrays(trial)
        assert found.keys() == whole.keys()
        assert all(np.array_equal(found[k], whole[k]) for k in whole)


def test_damaged_spectra_are_one_line_and_can_be_moved_away(
    tiny: Invoke, steepest: Invoke, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert tiny("--optimizer", "muon", "--out", run).exit_code == 0
    path = run / "muon" / "seed-0" / "spectra.npz"
    raw = path.read_bytes()
    for size in (0, int(0.9 * len(raw))):
        path.write_bytes(raw[:size])
        result = steepest("train", "--resume", run)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert f"file {path}: is cut off or damaged" in result.stderr
    path.unlink()
    assert steepest("train", "--resume", run).exit_code == 0


def test_a_run_says_how_far_the_balls_are_filled(tiny: Invoke, tmp_path: Path) -> None:
    run = tmp_path / "run"
    names = ("--optimizer", "muon", "--optimizer", "sgd")
    result = tiny(*names, "--lr", "muon=1", "--weight-decay", "muon=1", "--out", run)
    assert result.exit_code == 0, result.stderr
    value, where = largest(read_metrics(run / "muon" / "seed-0")) or (0.0, "")
    lines = result.stdout.splitlines()
    assert f"muon: largest ‖W‖/radius: {value:.2f} in {where}" in lines
    assert not [line for line in lines if line.startswith("sgd: largest")]
    assert f"Spectra: {run / 'muon' / 'spectra.png'}" in lines
    assert not (run / "sgd" / "spectra.png").exists()


def test_which_optimizers_have_a_ball(corpus: Corpus) -> None:
    def ball(name: str, weight_decay: float) -> bool:
        settings = replace(recipe(name).tuned, weight_decay=weight_decay)
        chosen = replace(config("muon"), optimizers={name: settings})
        return has_ball(Trainer(trials(chosen)[0], chosen, corpus).optimizer)

    with_decay = {name for name in RECIPES if ball(name, 0.1)}
    assert with_decay == {"muon", "normalized-sgd", "sign", "lion", "scion", "descent"}
    assert not [name for name in RECIPES if ball(name, 0.0)]


def made(layers: int, top: float) -> Spectra:
    spectra = Spectra()
    for step in range(0, 50, 10):
        values = torch.linspace(top * (1 - math.exp(-step / 10)) + 0.02, 0.01, 40)
        spectra.add(
            step,
            [
                ConstraintSpectrum(
                    name=f"blocks.{i}.fc", kind="singular values", values=values, limit=2.0
                )
                for i in range(layers)
            ],
        )
    return spectra


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize(("layers", "top"), [(1, 2.0), (2, 0.2), (12, 1.5)])
def test_the_picture_has_a_panel_a_layer(layers: int, top: float) -> None:
    content = draw(made(layers, top), "muon seed 0")
    image = imread(io.BytesIO(content), format="png")[..., :3]
    orange = (np.abs(image - np.array([0xD5, 0x5E, 0x00]) / 255).max(axis=-1) < 0.05).sum()
    assert orange > 100 * layers, "the radius, in every panel"
    assert image.std() > 0.05


def test_a_run_without_balls_has_no_picture(tmp_path: Path) -> None:
    assert write_spectra(tmp_path, config("muon")) == []


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.0", "b", "a.1"], [0, 1, 2]),
        ([f"b.{i}" for i in range(100)], [0, 33, 66, 99]),
        ([f"{kind}.{i}" for i in range(9) for kind in "ab"], [0, 1, 16, 17]),
        ([f"kind{chr(97 + i)}" for i in range(9)], [0, 1, 2, 3]),
    ],
)
def test_of_many_layers_some_of_each_kind_are_shown(names: list[str], expected: list[int]) -> None:
    assert chosen(names, most=4) == expected
