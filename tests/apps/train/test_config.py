"""Settings are checked where they are made, and survive JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steepest.apps.train.config import Config, ModelConfig, OptimizerConfig, resolve_device

SGD = {"sgd": OptimizerConfig(lr=0.1, weight_decay=0.0)}


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["lr", "weight_decay", "adamw_lr"])
def test_optimizer_settings_are_finite_and_not_negative(name: str, value: float) -> None:
    settings = {"lr": 0.1, "weight_decay": 0.0, "adamw_lr": 0.1, name: value}
    with pytest.raises(ValueError, match=f"^{name}="):
        OptimizerConfig(**settings)


@pytest.mark.parametrize("name", ["layers", "width", "heads", "context"])
def test_model_sizes_are_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}=0: "):
        ModelConfig(**{name: 0})


def test_heads_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"width=20.*multiple of heads=3"):
        ModelConfig(width=20, heads=3)


@pytest.mark.parametrize(
    "change",
    [
        {"batch": 0},
        {"steps": -5},
        {"eval_every": 0},
        {"eval_windows": 0},
        {"checkpoint_every": 0},
        {"monitor_every": -1},
        {"optimizers": {}},
        {"seeds": ()},
        {"seeds": (1, 1)},
        {"seeds": (-1,)},
        {"seeds": (2**63,)},
        {"warmup": -1},
        {"warmup": 601},
        {"schedule": "step"},
        {"dtype": "float16"},
    ],
    ids=str,
)
def test_a_run_refuses_what_it_cannot_do(change: dict[str, Any]) -> None:
    name = {"seeds": "seed"}.get(next(iter(change)), next(iter(change)))
    with pytest.raises(ValueError, match=f"^{name}="):
        Config(**{"optimizers": SGD, **change})


@pytest.mark.parametrize(
    ("steps", "warmup", "expected"), [(5, None, 0), (60, None, 6), (600, None, 20), (60, 9, 9)]
)
def test_the_default_warmup_fits_short_runs(steps: int, warmup: int | None, expected: int) -> None:
    assert Config(optimizers=SGD, steps=steps, warmup=warmup).warmup_steps == expected


@given(
    lr=st.floats(0, 10), steps=st.integers(1, 10**6), seeds=st.sets(st.integers(0, 99), min_size=1)
)
def test_json_gives_the_same_configuration_back(lr: float, steps: int, seeds: set[int]) -> None:
    config = Config(
        optimizers={"muon": OptimizerConfig(lr=lr, weight_decay=0.1, adamw_lr=lr), **SGD},
        steps=steps,
        seeds=tuple(seeds),
        model=ModelConfig(layers=2),
    )
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("name", ["nonsense", "cuda:99", "meta", ""])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^device="):
        resolve_device(name, "float32")


def test_auto_finds_a_device() -> None:
    assert resolve_device("auto", "float32") in ("cpu", "cuda")
    assert resolve_device("cpu", "float64") == "cpu"


def test_a_configuration_from_before_the_monitor_is_read() -> None:
    stored = Config(optimizers=SGD).to_json()
    del stored["monitor_every"]
    assert Config.from_json(stored) == Config(optimizers=SGD)
