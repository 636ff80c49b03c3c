"""What EMANesterov keeps, saves and loads."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LinearLR

from steepest import EMANesterov
from steepest.optim.ema_nesterov import AHEAD, AVERAGE, BEHIND, STEPS
from tests.optim.runs import parameter
from tests.optim.suite import assert_equal, loss, model, parameters
from tests.optim.test_ema_nesterov import ALWAYS, averages, muon, train


def plain(value):
    if isinstance(value, dict):
        return all(isinstance(k, str | int) and plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(plain(v) for v in value)
    return value is None or type(value) in (bool, int, float, str, torch.Tensor)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_run_resumes_bit_for_bit(name, ahead):
    def make(m):
        inner = muon(m) if name == "muon" else torch.optim.AdamW(m.parameters(), lr=0.01)
        return EMANesterov(inner, start=1, stop=5, look_ahead=0.8, ema=0.5)

    m = model()
    optimizer = make(m)
    scheduler = LinearLR(optimizer, 1.0, 0.1, total_iters=8)
    train(m, optimizer, 3, scheduler=scheduler)
    if ahead:
        optimizer.train()
    assert plain(optimizer.state_dict())
    file = io.BytesIO()
    parts = {"model": m, "optimizer": optimizer, "scheduler": scheduler}
    torch.save({k: v.state_dict() for k, v in parts.items()}, file)
    train(m, optimizer, 4, start=3, scheduler=scheduler)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert saved["optimizer"]["param_groups"][0][STEPS] == 3
    assert (BEHIND in saved["optimizer"]["state"][0]) == ahead
    other = model(seed=5)
    resumed = make(other)
    again = LinearLR(resumed, 1.0, 0.1, total_iters=8)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    again.load_state_dict(saved["scheduler"])
    train(other, resumed, 4, start=3, scheduler=again)
    assert_equal(parameters(m), parameters(other))
    assert resumed.steps == 7
    assert all(STEPS not in group for group in resumed.optimizer.param_groups)


def test_what_is_loaded_shares_no_memory():
    m, other = model(), model()
    first, second = (EMANesterov(muon(x), **ALWAYS) for x in (m, other))
    train(m, first, 2)
    before = [b.clone() for b in averages(first)]
    other.load_state_dict(m.state_dict())
    second.load_state_dict(copy.deepcopy(first.optimizer.state_dict()) | first.state_dict())
    train(other, second, 2, start=2)
    assert_equal(averages(first), before)


def test_a_state_of_the_optimizer_alone_begins_a_new_average():
    m = model()
    inner = muon(m)
    for t in range(2):
        inner.zero_grad()
        loss(m, t).backward()
        inner.step()
    other = model()
    optimizer = EMANesterov(muon(other), **ALWAYS)
    train(other, optimizer, 1)
    other.load_state_dict(m.state_dict())
    optimizer.load_state_dict(inner.state_dict())
    assert optimizer.steps == 0
    optimizer.train()
    assert_equal(parameters(m), parameters(other))


@pytest.mark.parametrize("through", ["deepcopy", "pickle"])
def test_copies_go_on_alike(through):
    m = model()
    optimizer = EMANesterov(muon(m), **ALWAYS)
    LinearLR(optimizer, 1.0, 0.5, total_iters=9)
    train(m, optimizer, 2)
    pair = m, optimizer
    other, twin = copy.deepcopy(pair) if through == "deepcopy" else pickle.loads(pickle.dumps(pair))
    train(m, optimizer, 2, start=2)
    train(other, twin, 2, start=2)
    assert_equal(parameters(m), parameters(other))
    assert twin.steps == 4


def test_a_wrong_shape_is_refused_and_nothing_has_changed():
    m = model()
    optimizer = EMANesterov(muon(m), **ALWAYS)
    train(m, optimizer, 2)
    saved = copy.deepcopy(optimizer.state_dict())
    train(m, optimizer, 1, start=2)
    before = optimizer.state_dict()
    saved["state"][3][AVERAGE] = torch.zeros(2, 2)
    with pytest.raises(ValueError, match=rf"state_dict='{AVERAGE} of 2×2': the parameter is "):
        optimizer.load_state_dict(saved)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert_equal(*([s[k] for s in x["state"].values() for k in sorted(s)] for x in (before, after)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v[:1], "the parameter is"),
        (lambda v: v.long(), "of torch.int64.*the parameter is of torch.float32"),
        (lambda v: v.to(torch.complex64), "of torch.complex64.*the parameter is of"),
        (lambda v: v.tolist(), "a tensor belongs there"),
    ],
)
def test_another_average_is_refused(change, message):
    m = model()
    optimizer = EMANesterov(muon(m), **ALWAYS)
    train(m, optimizer, 2)
    before = averages(optimizer)
    saved = optimizer.state_dict()
    saved["state"][0] = {**saved["state"][0], AVERAGE: change(saved["state"][0][AVERAGE])}
    with pytest.raises(ValueError, match=f"{AVERAGE}.*{message}"):
        optimizer.load_state_dict(saved)
    assert_equal(averages(optimizer), before)
    assert optimizer.steps == 2


@pytest.mark.parametrize("steps", [-1, 2.5, "two", None])
def test_another_number_of_steps_is_refused(steps):
    m = model()
    optimizer = EMANesterov(muon(m), **ALWAYS)
    train(m, optimizer, 2)
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        group[STEPS] = steps
    with pytest.raises(ValueError, match=f"{STEPS}=.*a whole number of steps >= 0"):
        optimizer.load_state_dict(saved)
    assert optimizer.steps == 2


def test_a_loaded_state_gives_the_optimizer_nothing_of_its_own():
    """AdamW takes a parameter whose state is empty for one that has not been stepped."""
    a, b = parameter(3), parameter(3, seed=1)
    optimizer = EMANesterov(torch.optim.AdamW([a, b], lr=0.1), **ALWAYS)
    for _ in range(2):
        optimizer.train()
        a.grad = torch.ones_like(a)
        optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    assert set(saved["state"]) == {0, 1}
    optimizer.load_state_dict(saved)
    assert b not in optimizer.optimizer.state
    assert set(optimizer.optimizer.state[a]) == {"step", "exp_avg", "exp_avg_sq"}


def test_an_average_in_float32_of_weights_in_bfloat16():
    for dtype in (None, torch.float32):
        p = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
        inner = torch.optim.SGD([p], lr=2.0**-8)
        optimizer = EMANesterov(inner, start=9, stop=None, ema=0.99, average_dtype=dtype)
        for _ in range(3):
            optimizer.train()
            p.grad = torch.ones_like(p)
            optimizer.step()
        (average,) = averages(optimizer)
        assert average.dtype == (dtype or torch.bfloat16)
        exact = -(2.0**-8) * (1 - 0.99**3)
        assert abs(average[0].item() / exact - 1) < (1e-6 if dtype else 0.02)
        twin = EMANesterov(inner, start=9, stop=None, average_dtype=dtype)
        twin.load_state_dict(optimizer.state_dict())
        assert torch.equal(averages(twin)[0], average)


def test_a_step_at_rate_0_makes_the_state_and_is_not_counted():
    """So do torch's distributed checkpoints before they load."""
    m = model()
    optimizer = EMANesterov(muon(m), **ALWAYS)
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = parameters(m)
    for p in m.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert_equal(parameters(m), before)
    assert not any(b.any() for b in averages(optimizer))
    assert optimizer.steps == 0
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    train(m, optimizer, 1)


def test_it_keeps_two_copies_of_the_weights_and_saves_one():
    m = model()
    optimizer = EMANesterov(torch.optim.SGD(m.parameters(), lr=0.1), **ALWAYS)
    train(m, optimizer, 2)
    weights = sum(p.numel() for p in m.parameters())
    kept = [t for d in (optimizer._averages, optimizer._behind) for t in d.values()]
    assert sum(t.numel() for t in kept) == 2 * weights
    saved = [
        t for s in optimizer.state_dict()["state"].values() for t in s.values() if t is not None
    ]
    assert sum(t.numel() for t in saved) == weights
    memory = [b.data_ptr() for b in optimizer._behind.values()]
    train(m, optimizer, 1, start=2)
    assert [b.data_ptr() for b in optimizer._behind.values()] == memory


def test_the_keys_are_its_own():
    names = (AVERAGE, BEHIND, STEPS, AHEAD)
    assert len({*names}) == 4
    assert all(name.startswith("ema_nesterov_") for name in names)
