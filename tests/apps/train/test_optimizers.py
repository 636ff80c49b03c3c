"""The table of optimizers: every row trains, resumes and follows the schedule."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from steepest.apps.train.config import Config, ModelConfig
from steepest.apps.train.model import GPT
from steepest.apps.train.optimizers import RECIPES, TorchMuon, lr_factor, recipe, scheduler
from tests.apps.train.tiny import same


def model(seed: int = 0) -> GPT:
    size = ModelConfig(layers=1, width=16, heads=2, context=8)
    return GPT(size, vocabulary=10, seed=seed).double()


def config(name: str, *, steps: int = 20) -> Config:
    return Config(optimizers={name: recipe(name).tuned}, steps=steps, warmup=3)


def advance(gpt: GPT, optimizer: torch.optim.Optimizer, windows: torch.Tensor) -> float:
    optimizer.zero_grad()
    loss = gpt.loss(windows)
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize("name", RECIPES)
def test_every_optimizer_learns_a_batch_by_heart(name: str) -> None:
    gpt = model()
    optimizer = recipe(name).build(gpt, recipe(name).tuned)
    windows = torch.randint(10, (4, 9), generator=torch.Generator().manual_seed(0))
    losses = [advance(gpt, optimizer, windows) for _ in range(40)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", RECIPES)
def test_every_optimizer_goes_on_from_its_state(name: str) -> None:
    windows = torch.randint(10, (4, 9), generator=torch.Generator().manual_seed(0))
    whole, part = model(), model()
    one = recipe(name).build(whole, recipe(name).tuned)
    two = recipe(name).build(part, recipe(name).tuned)
    plans = scheduler(one, config(name)), scheduler(two, config(name))
    for _ in range(3):
        for gpt, optimizer, plan in zip((whole, part), (one, two), plans, strict=True):
            advance(gpt, optimizer, windows)
            plan.step()
    resumed = model(seed=1)
    three = recipe(name).build(resumed, recipe(name).tuned)
    plan = scheduler(three, config(name))
    for new, old in ((resumed, part), (three, two), (plan, plans[1])):
        new.load_state_dict(old.state_dict())
    for _ in range(3):
        advance(whole, one, windows)
        plans[0].step()
        advance(resumed, three, windows)
        plan.step()
    assert same(whole.state_dict(), resumed.state_dict())
    assert [g["lr"] for g in one.param_groups] == [g["lr"] for g in three.param_groups]


@pytest.mark.filterwarnings("ignore:none of the .* parameters")  # it is about the schedule alone
@pytest.mark.parametrize("name", RECIPES)
def test_the_schedule_reaches_every_group_from_its_own_peak(name: str) -> None:
    optimizer = recipe(name).build(model(), recipe(name).tuned)
    peaks = [g["lr"] for g in optimizer.param_groups]
    plan = scheduler(optimizer, config(name))
    for step in range(20):
        factor = lr_factor(config(name), step)
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx(
            [factor * p for p in peaks]
        )
        advance(model(), optimizer, torch.zeros(1, 9, dtype=torch.long))
        plan.step()


@pytest.mark.parametrize("name", RECIPES)
def test_settings_reach_the_optimizer(name: str) -> None:
    tuned = recipe(name).tuned
    rest = None if tuned.adamw_lr is None else 0.017
    settings = replace(tuned, lr=0.013, weight_decay=0.23, adamw_lr=rest)
    groups = recipe(name).build(model(), settings).param_groups
    if name == "scion":  # the head has a larger ball: lr and 1/weight_decay are in proportion
        assert {g["lr"] * g["weight_decay"] for g in groups} == {0.013 * 0.23}
        groups = [g for g in groups if g["lr"] < 0.1]
    assert {g["lr"] for g in groups} == {v for v in (0.013, rest) if v is not None}
    assert all(g["weight_decay"] == 0.23 for g in groups if g["lr"] == 0.013)


def test_any_norm_of_entries_or_matrices_trains_the_model() -> None:
    windows = torch.randint(10, (4, 9), generator=torch.Generator().manual_seed(0))
    for text, lr in (("schatten:4", 0.05), ("operator:1:rms", 0.1), ("linf", 0.01), ("l2", 0.3)):
        gpt = model()
        settings = replace(recipe("descent").tuned, norm=text, lr=lr)
        optimizer = recipe("descent").build(gpt, settings)
        losses = [advance(gpt, optimizer, windows) for _ in range(30)]
        assert losses[-1] < 0.9 * losses[0], text


def test_torch_muon_gets_the_matrices_of_the_blocks_only() -> None:
    gpt = model()
    optimizer = TorchMuon(gpt, recipe("torch-muon").tuned)
    matrices = {id(p) for g in optimizer.muon.param_groups for p in g["params"]}
    names = {n for n, p in gpt.named_parameters() if id(p) in matrices}
    parts = ("attn.qkv", "attn.proj", "mlp.fc", "mlp.proj")
    assert names == {f"blocks.0.{part}.weight" for part in parts}
    both = [p for g in optimizer.param_groups for p in g["params"]]
    assert {id(p) for p in both} == {id(p) for p in gpt.parameters()}
    assert len(both) == len(list(gpt.parameters()))


def test_torch_muon_takes_no_closure() -> None:
    optimizer = TorchMuon(model(), recipe("torch-muon").tuned)
    with pytest.raises(ValueError, match=r"^closure="):
        optimizer.step(lambda: 0.0)


def test_muon_is_one_optimizer_for_the_whole_model() -> None:
    gpt: nn.Module = model()
    optimizer = recipe("muon").build(gpt, recipe("muon").tuned)
    seen = [id(p) for g in optimizer.param_groups for p in g["params"]]
    assert sorted(seen) == sorted(id(p) for p in gpt.parameters())


def test_an_unknown_optimizer_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"optimizer='adagrad'.*muon, adamw, torch-muon, sgd"):
        recipe("adagrad")


@pytest.mark.parametrize(
    ("schedule", "middle", "end"), [("linear", 0.5, 0.0), ("cosine", 0.5, 0.0), ("constant", 1, 1)]
)
def test_schedules(schedule: str, middle: float, end: float) -> None:
    plan = replace(config("sgd", steps=103), schedule=schedule)
    factors = [lr_factor(plan, s) for s in (0, 1, 2, 3, 53, 103)]
    assert factors == pytest.approx([1 / 3, 2 / 3, 1, 1, middle, end])
    quarter = {"linear": 0.75, "cosine": 0.5 * (1 + math.cos(math.pi / 4)), "constant": 1}
    assert lr_factor(plan, 28) == pytest.approx(quarter[schedule])


def test_a_warmup_as_long_as_the_run_never_divides_by_zero() -> None:
    plan = replace(config("sgd", steps=3), warmup=3)
    assert [lr_factor(plan, s) for s in range(4)] == pytest.approx([1 / 3, 2 / 3, 1, 1])
