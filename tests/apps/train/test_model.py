"""The GPT: its size, its first loss, and that it cannot look ahead."""

from __future__ import annotations

import math

import pytest
import torch

from steepest.apps.train.config import ModelConfig
from steepest.apps.train.model import GPT

SMALL = ModelConfig(layers=2, width=16, heads=2, context=8)


def test_the_default_model_has_the_documented_size() -> None:
    model = GPT(ModelConfig(), vocabulary=68, seed=0)
    assert sum(p.numel() for p in model.parameters()) == 821_376


def test_the_first_loss_is_that_of_a_uniform_guess() -> None:
    model = GPT(ModelConfig(), vocabulary=68, seed=0)
    windows = torch.randint(68, (4, 129))
    assert model.loss(windows).item() == pytest.approx(math.log(68), abs=0.05)


def test_no_prediction_sees_a_later_character() -> None:
    model = GPT(SMALL, vocabulary=10, seed=0).double()
    ids = torch.randint(10, (1, 8))
    changed = ids.clone()
    changed[0, 5] = (ids[0, 5] + 1) % 10
    difference = (model(ids) - model(changed)).abs().amax(dim=(0, 2))
    assert torch.equal(difference[:5], torch.zeros(5, dtype=torch.float64))
    assert (difference[5:] > 1e-9).all()


def test_positions_matter() -> None:
    model = GPT(SMALL, vocabulary=10, seed=0).double()
    logits = model(torch.full((1, 8), 3))
    assert (logits[0, 1:] - logits[0, :-1]).abs().amax(dim=1).min() > 1e-6


def test_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = GPT(SMALL, vocabulary=10, seed=5).state_dict()
    torch.manual_seed(2)
    again = GPT(SMALL, vocabulary=10, seed=5).state_dict()
    other = GPT(SMALL, vocabulary=10, seed=6).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_projections_to_the_residual_stream_start_smaller() -> None:
    model = GPT(ModelConfig(), vocabulary=68, seed=0)
    deviations = {n: p.std().item() for n, p in model.named_parameters() if p.ndim == 2}
    for name, deviation in deviations.items():
        expected = 0.02 / math.sqrt(8) if name.endswith("proj.weight") else 0.02
        assert deviation == pytest.approx(expected, rel=0.05), name


def test_samples_repeat_and_go_past_the_context() -> None:
    model = GPT(SMALL, vocabulary=10, seed=0)
    prompt = torch.tensor([1])
    first = model.sample(prompt, 20, seed=0)
    assert first.shape == (21,)
    assert torch.equal(first, model.sample(prompt, 20, seed=0))
    assert not torch.equal(first, model.sample(prompt, 20, seed=1))
