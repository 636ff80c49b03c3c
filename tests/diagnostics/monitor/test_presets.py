"""The library's own optimizers at their tuned learning rates, which must not raise an alarm."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from torch import nn
from torch.optim import Optimizer

import steepest
from steepest.apps.train.config import Config, ModelConfig, OptimizerConfig
from steepest.apps.train.data import Corpus, load_text, prepare
from steepest.apps.train.norms import LEARNING_RATES
from steepest.apps.train.optimizers import RECIPES, recipe, scheduler
from steepest.apps.train.trial import Trainer, Trial
from steepest.diagnostics import Monitor
from steepest.optim import PRESETS

# Like the default model of `steepest train`, but smaller.
MODEL = ModelConfig(layers=2, width=64, heads=2, context=16)
NAMES = (*RECIPES, *(f"descent:{norm}" for norm in LEARNING_RATES if norm != "spectral"))


@cache
def corpus() -> Corpus:
    return prepare(load_text(None), context=MODEL.context)


def settings(name: str, factor: float = 1.0) -> OptimizerConfig:
    """The tuned settings of an optimizer, with learning rates that are larger by a factor."""
    name, _, norm = name.partition(":")
    tuned = recipe(name).tuned
    if norm:
        tuned = replace(tuned, norm=norm, lr=LEARNING_RATES[norm])
    rest = None if tuned.adamw_lr is None else factor * tuned.adamw_lr
    return replace(tuned, lr=factor * tuned.lr, adamw_lr=rest)


def trained(
    name: str, *, steps: int, every: int, until: int = 0, factor: float = 1.0, seed: int = 0
) -> list[str]:
    """The warnings of `steepest train`, with its warm-up and schedule for that many steps.

    Training goes on until the last step, or a given one.
    """
    optimizer = name.partition(":")[0]
    config = Config(
        optimizers={optimizer: settings(name, factor)},
        steps=steps,
        model=MODEL,
        batch=8,
        eval_windows=1,
    )
    trainer = Trainer(Trial(optimizer=optimizer, seed=seed), config, corpus())
    with Monitor(trainer.model, trainer.optimizer, every=every, quiet=True) as m:
        for _ in range(until or steps):
            trainer.train_step()
    return m.warnings


@pytest.mark.parametrize("name", NAMES)
def test_no_preset_has_a_warning_at_its_tuned_learning_rate(name: str) -> None:
    # A run of 20 steps is the hardest: a warm-up of two, and weights that are as at the start.
    assert trained(name, steps=20, every=5) == []


def test_a_long_first_step_is_not_taken_for_the_length_of_later_ones() -> None:
    # Muown's steps turn rows by less and less; those of Adam may grow again.
    assert trained("muown", steps=20, every=1) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("steps", "every"), [(20, 1), (33, 3), (60, 10), (120, 20), (400, 100)])
def test_no_preset_has_a_warning_at_any_length(name: str, steps: int, every: int) -> None:
    for seed in (0, 1):
        assert trained(name, steps=steps, every=every, seed=seed) == []


@pytest.mark.parametrize("name", NAMES)
def test_ten_times_the_tuned_learning_rate_is_seen_in_one_line(name: str) -> None:
    found = trained(name, steps=20, until=3, every=20, factor=10.0)
    rates = [text for text in found if "far too large" in text]
    assert rates and all("divide it by ten" in text for text in rates), found
    # One line for each learning rate: `lr`, and `adamw_lr` of AdamW beside it.
    assert len(rates) == len({"adamw_lr = " in text for text in rates}), found


def test_the_named_optimizers_are_all_tried() -> None:
    built = {type(recipe(name).build(_model(), settings(name))).__name__ for name in RECIPES}
    assert PRESETS.keys() <= built


def _model() -> nn.Module:
    return Trainer(
        Trial(optimizer="sgd", seed=0),
        Config(optimizers={"sgd": settings("sgd")}, model=MODEL, eval_windows=1),
        corpus(),
    ).model


def test_our_own_sgd_has_no_warning_either() -> None:
    config = Config(optimizers={"sgd": settings("sgd")}, steps=20, model=MODEL, batch=8)
    trainer = Trainer(Trial(optimizer="sgd", seed=0), config, corpus())
    # Its average has weights that add up to 1, so this is torch's at a tenth of the rate.
    optimizer: Optimizer = steepest.SGD(trainer.model, lr=2.0, momentum=0.9)
    trainer.optimizer, trainer.scheduler = optimizer, scheduler(optimizer, config)
    with Monitor(trainer.model, optimizer, every=4, quiet=True) as m:
        for _ in range(20):
            trainer.train_step()
    assert m.warnings == []
