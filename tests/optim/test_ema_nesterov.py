"""EMANesterov: the authors' numbers, when the weights are ahead, and what it saves."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, OneCycleLR

import steepest
from steepest import EMANesterov
from steepest.optim.ema_nesterov import AVERAGE
from steepest.polar import Svd
from steepest.testing.optimizers import check_optimizer
from tests.optim.runs import gradient, parameter
from tests.optim.suite import assert_equal, loss, model, parameters
from tools.authors import RUNS

AUTHORS = json.loads(
    (Path(__file__).resolve().parent.parent / "authors" / "ema_nesterov.json").read_text()
)
INNER = {
    "sgd": lambda p: torch.optim.SGD([p], lr=0.02, momentum=0.9),
    "muon": lambda p: steepest.Muon([p], lr=0.02, momentum=0.95, weight_decay=0.0, polar=Svd()),
    "adamw": lambda p: torch.optim.AdamW([p], lr=0.02, betas=(0.9, 0.95), weight_decay=0.1),
}
WITHIN = {"start": 2, "stop": 5, "look_ahead": 0.5, "ema": 0.9}
ALWAYS = {"start": 0, "stop": None, "look_ahead": 0.8, "ema": 0.5}


def muon(m):
    return steepest.Muon(m, lr=0.05, adamw_lr=0.01)


def train(m, optimizer, steps, start=0, scheduler=None):
    for t in range(start, start + steps):
        optimizer.train()
        optimizer.zero_grad()
        loss(m, t).backward()
        optimizer.step()
        if scheduler:
            scheduler.step()


@pytest.mark.parametrize("run", AUTHORS["runs"], ids=lambda r: f"{r['inner']}-{r['scheduled']}")
@pytest.mark.parametrize("name", ["tall", "wide", "square"])
def test_the_numbers_are_those_of_the_authors_module(run, name):
    assert AUTHORS["hyper"] == WITHIN
    inputs = RUNS["gradients"]["common"]
    p = nn.Parameter(torch.tensor(inputs["weights"][name], dtype=torch.float64))
    inner = INNER[run["inner"]](p)
    optimizer = EMANesterov(inner, **WITHIN, scheduled=run["scheduled"])
    inner.param_groups[0]["initial_lr"] = 0.02
    gradients = inputs["gradients"][name]
    for t, (rows, factor) in enumerate(zip(gradients, run["lr_factor"], strict=True)):
        inner.param_groups[0]["lr"] = 0.02 * factor
        optimizer.train()
        if t == 4:
            ahead = p.detach().clone()
        p.grad = torch.tensor(rows, dtype=torch.float64)
        optimizer.step()
    found = {"weights": p, "ahead": ahead, "average": optimizer.state_dict()["state"][0][AVERAGE]}
    for key, value in found.items():
        expected = torch.tensor(run[key][name], dtype=torch.float64)
        assert (value - expected).abs().max() < 1e-12, key
    assert optimizer.steps == 6


def test_it_steps_as_its_formula_says():
    """With a schedule, and an optimizer of two kinds of steps."""
    shapes = (6, 4), (5,)
    ours = [parameter(*s, seed=i) for i, s in enumerate(shapes)]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    groups = [[{"params": [a]}, {"params": [b], "adamw": True}] for a, b in (ours, theirs)]
    inner, plain = (steepest.Muon(g, lr=0.1, adamw_lr=0.02, polar=Svd()) for g in groups)
    optimizer = EMANesterov(inner, start=1, stop=6, look_ahead=0.7, ema=0.6)
    schedules = [LinearLR(o, 1.0, 0.1, total_iters=6) for o in (optimizer, plain)]
    b = [torch.zeros_like(p) for p in theirs]
    for t in range(8):
        optimizer.train()
        beta = 0.7 * plain.param_groups[0]["lr"] / 0.1 if 1 <= t < 6 else 0.0
        x = [p.detach().clone() for p in theirs]
        with torch.no_grad():
            for p, average in zip(theirs, b, strict=True):
                p += beta * average
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-13)
            p.grad = gradient(p, 10 * t + i) + p.detach()
            q.grad = gradient(q, 10 * t + i) + q.detach()
        optimizer.step()
        plain.step()
        for schedule in schedules:
            schedule.step()
        b = [0.6 * old + 0.4 * (q.detach() - w) for old, q, w in zip(b, theirs, x, strict=True)]
    assert all(average.abs().max() > 1e-4 for average in b)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_without_a_look_ahead_the_steps_are_those_of_the_optimizer():
    a, b = model(), model()
    train(a, EMANesterov(muon(a), start=3, stop=None, look_ahead=0.9), 3)
    plain = muon(b)
    for t in range(3):
        plain.zero_grad()
        loss(b, t).backward()
        plain.step()
    assert_equal(parameters(a), parameters(b))


def test_weights_are_ahead_from_train_to_step():
    m = model()
    optimizer = EMANesterov(muon(m), **ALWAYS)
    train(m, optimizer, 2)
    behind = parameters(m)
    optimizer.eval()
    assert_equal(parameters(m), behind)
    optimizer.train()
    ahead = parameters(m)
    averages = [optimizer.state_dict()["state"][i][AVERAGE] for i in range(len(ahead))]
    names = [n for group in optimizer.param_groups for n in group["param_names"]]
    assert all(average.any() for average in averages)
    for name, average in zip(names, averages, strict=True):
        i = [n for n, _ in m.named_parameters()].index(name)
        torch.testing.assert_close(ahead[i], behind[i] + 0.8 * average)
    optimizer.train()
    assert_equal(parameters(m), ahead)
    optimizer.eval()
    assert_equal(parameters(m), behind)
    optimizer.train()
    assert_equal(parameters(m), ahead)


def test_an_evaluation_between_the_passes_of_a_step_changes_nothing():
    results = []
    for look in (False, True):
        m = model()
        optimizer = EMANesterov(muon(m), **ALWAYS)
        train(m, optimizer, 2)
        optimizer.zero_grad()
        for part in (2, 3):
            optimizer.train()
            loss(m, part).backward()
            if look:
                optimizer.eval()
                loss(m, 9)
        optimizer.train()
        optimizer.step()
        results.append(parameters(m))
    assert_equal(*results)


def test_a_step_without_train_is_refused_and_changes_nothing():
    m = model()
    optimizer = EMANesterov(muon(m), **ALWAYS)
    train(m, optimizer, 1)
    before = parameters(m)
    for forget in (lambda: None, lambda: (optimizer.train(), optimizer.eval())):
        forget()
        loss(m, 1).backward()
        with pytest.raises(RuntimeError, match=r"optimizer\.train\(\) before the forward pass"):
            optimizer.step()
        assert_equal(parameters(m), before)
    assert optimizer.steps == 1


def test_a_closure_is_called_at_the_point_ahead():
    a, b = model(), model()
    explicit, closed = (EMANesterov(muon(m), **ALWAYS) for m in (a, b))
    train(a, explicit, 4)
    for t in range(4):

        def closure(t=t):
            closed.zero_grad()
            value = loss(b, t)
            value.backward()
            return value

        assert closed.step(closure).item() > 0
    assert_equal(parameters(a), parameters(b))


@pytest.mark.parametrize("on", ["inner", "wrapper"])
def test_schedulers_take_either(on):
    m = model()
    inner = muon(m)
    optimizer = EMANesterov(inner, **ALWAYS)
    scheduler = CosineAnnealingLR(optimizer if on == "wrapper" else inner, 6)
    train(m, optimizer, 3, scheduler=scheduler)
    assert [g["lr"] for g in inner.param_groups] == pytest.approx([0.025, 0.005, 0.005])
    behind = parameters(m)
    average = dict(zip(names(optimizer), averages(optimizer), strict=True))
    optimizer.train()
    for (name, p), x in zip(m.named_parameters(), behind, strict=True):
        torch.testing.assert_close(p.detach(), x + 0.4 * average[name])


def names(optimizer):
    return [n for group in optimizer.param_groups for n in group["param_names"]]


def averages(optimizer):
    saved = optimizer.state_dict()
    return [saved["state"][i][AVERAGE] for g in saved["param_groups"] for i in g["params"]]


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (lambda o: LambdaLR(o, lambda t: [0.25, 1.0, 0.5][t]), [0.25, 1.0, 0.5]),
        (
            lambda o: OneCycleLR(o, max_lr=0.1, total_steps=6, pct_start=0.4),
            [0.04, 0.8192751, 0.9330130],
        ),
        (lambda o: None, [1.0, 1.0, 1.0]),
    ],
    ids=["lambda", "one cycle", "none"],
)
def test_the_look_ahead_follows_the_schedule_up_to_its_peak(schedule, factors):
    p = parameter(3)
    optimizer = EMANesterov(torch.optim.SGD([p], lr=0.1), **ALWAYS)
    scheduler = schedule(optimizer)
    found = []
    for t in range(3):
        before = p.detach().clone()
        average = averages(optimizer)[0] if t else torch.zeros(3, dtype=p.dtype)
        optimizer.train()
        if t:
            found.append(((p.detach() - before) / (0.8 * average)).mean().item())
        p.grad = torch.ones(3, dtype=p.dtype)
        optimizer.step()
        if scheduler and t < 2:
            scheduler.step()
    assert found == pytest.approx(factors[1:], rel=1e-6)


def test_scheduled_false_is_a_constant():
    p = parameter(3)
    optimizer = EMANesterov(torch.optim.SGD([p], lr=0.1), **ALWAYS, scheduled=False)
    LambdaLR(optimizer, lambda t: 0.5)
    optimizer.train()
    p.grad = torch.ones_like(p)
    optimizer.step()
    before, average = p.detach().clone(), averages(optimizer)[0]
    optimizer.train()
    torch.testing.assert_close(p.detach(), before + 0.8 * average)


def test_what_only_the_optimizer_has_is_found():
    m = model()
    optimizer = EMANesterov(muon(m), **ALWAYS)
    assert str(optimizer.routing) == str(optimizer.optimizer.routing)
    assert optimizer.lrs(0.1) == optimizer.optimizer.lrs(0.1)
    assert repr(optimizer).startswith("EMANesterov(look_ahead=0.8, ema=0.5, from step 0 on) around")
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    train(m, optimizer, 1)
    assert calls == [1]
    for name in ("param_groups", "state"):
        setattr(optimizer, name, other := copy.copy(getattr(optimizer, name)))
        assert getattr(optimizer.optimizer, name) is other
    with pytest.raises(AttributeError, match="nothing"):
        _ = optimizer.nothing


def test_frozen_thawed_and_added_parameters():
    a, b, late = (parameter(3, seed=i) for i in range(3))
    b.requires_grad = False
    optimizer = EMANesterov(torch.optim.SGD([a, b], lr=0.1), **ALWAYS)

    def one():
        optimizer.train()
        for p in (a, b, late):
            p.grad = torch.ones_like(p) if p.requires_grad else None
        optimizer.step()

    one()
    assert set(optimizer.state_dict()["state"]) == {0}
    b.requires_grad = True
    optimizer.add_param_group({"params": [late]})
    for _ in range(2):
        one()
    assert set(optimizer.state_dict()["state"]) == {0, 1, 2}
    # 0.1, then 0.1 and 0.8 of half of it.
    start = parameter(3, seed=2).detach()
    torch.testing.assert_close(late.detach(), start - 0.1 - 0.1 - 0.8 * 0.05)
    torch.testing.assert_close(b.detach(), parameter(3, seed=1).detach() - 0.24)


def test_thawed_between_train_and_step_it_is_not_averaged_yet():
    a, b = parameter(3), parameter(3, seed=1)
    optimizer = EMANesterov(torch.optim.SGD([a, b], lr=0.1), **ALWAYS)
    for frozen in (False, True):
        b.requires_grad = not frozen
        optimizer.train()
        b.requires_grad = True
        a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
        optimizer.step()
    torch.testing.assert_close(averages(optimizer)[1], torch.full_like(b, -0.05).detach())


def test_frozen_between_train_and_step_it_is_averaged_once_more():
    a, b = parameter(3), parameter(3, seed=1)
    optimizer = EMANesterov(torch.optim.SGD([a, b], lr=0.1), **ALWAYS)
    optimizer.train()
    b.requires_grad = False
    a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
    optimizer.step()
    torch.testing.assert_close(averages(optimizer)[1], torch.full_like(b, -0.05).detach())


def test_the_scaler_leaves_out_a_step_with_an_overflow():
    m = model()
    optimizer = EMANesterov(muon(m), **ALWAYS)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    for t, overflow in enumerate((False, False, True, False)):
        optimizer.train()
        ahead = parameters(m)
        optimizer.zero_grad()
        scaler.scale(loss(m, t)).backward()
        if overflow:
            m.up.weight.grad[0, 0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        if overflow:
            assert_equal(parameters(m), ahead)
    assert optimizer.steps == 3


class Called(EMANesterov):
    """One that calls `train` by itself, if too late: the laws have loops without it."""

    def zero_grad(self, set_to_none=True):
        super().zero_grad(set_to_none)
        self.train()

    def step(self, closure=None):
        self.train()
        return super().step(closure)


def test_it_keeps_the_laws_of_optimizers():
    check_optimizer(lambda m: Called(muon(m), **ALWAYS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": -1}, "start=-1: give a finite number >= 0"),
        ({"start": 5, "stop": 4}, "stop=4: give a step after start=5, or None"),
        ({"look_ahead": -0.5}, "look_ahead=-0.5: "),
        ({"ema": 1.0}, "ema=1.0: give the weight of the past"),
    ],
    ids=str,
)
def test_what_it_does_not_take(changes, message):
    inner = torch.optim.SGD([parameter(2)], lr=0.1)
    with pytest.raises(ValueError, match=message):
        EMANesterov(inner, **{**ALWAYS, **changes})


def test_it_wraps_an_optimizer():
    with pytest.raises(ValueError, match="optimizer='Muon': give an optimizer of torch"):
        EMANesterov("Muon", **ALWAYS)
