"""What an optimizer says once when training goes otherwise than asked, and when it says nothing."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
)
from torch.optim.swa_utils import SWALR

from steepest import Muon, Scion

FLAT = "every group has lr="


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9))


def heard(call, steps=30):
    """The warnings that the library gives while something is called again and again."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(steps):
            call()
    # torch has warnings of its own for schedulers.
    return [str(w.message) for w in seen if "lr_scheduler.step" not in str(w.message)]


def trained(optimizer, m, scheduler=None):
    """A function that takes a step, and one of the scheduler."""

    def call():
        optimizer.zero_grad()
        m(torch.arange(9)).square().sum().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()

    return call


FLATTENING = {
    "one cycle": lambda o: OneCycleLR(o, max_lr=0.02, total_steps=40),
    "cyclic": lambda o: CyclicLR(o, 1e-3, 0.02, step_size_up=10),
    "swa": lambda o: SWALR(o, swa_lr=5e-3, anneal_epochs=5),
    "floor above AdamW's rate": lambda o: CosineAnnealingLR(o, 25, eta_min=1e-3),
}
SOUND = {
    "lambda": lambda o: LambdaLR(o, lambda t: 0.9**t),
    "warm up from almost nothing": lambda o: LinearLR(o, 1e-9, total_iters=10),
    "warm up from zero": lambda o: LambdaLR(o, lambda t: t / 10),
    "to zero": lambda o: CosineAnnealingLR(o, 25),
    "small floor": lambda o: CosineAnnealingLR(o, 25, eta_min=1e-6),
    "list": lambda o: OneCycleLR(o, max_lr=o.lrs(0.02), total_steps=40),
}


@pytest.mark.parametrize("make", FLATTENING.values(), ids=FLATTENING)
def test_one_rate_in_all_groups_is_said_once(make):
    m = small()
    optimizer = Muon(m, lr=0.02)
    texts = heard(trained(optimizer, m, make(optimizer)), steps=39)
    assert [text for text in texts if FLAT in text] == texts
    assert len(texts) == 1


@pytest.mark.parametrize("lr", [0.02, 3e-4, 0.1])
def test_a_loop_that_writes_one_rate_is_told_so(lr):
    m = small()
    optimizer = Muon(m, lr=0.02)
    for group in optimizer.param_groups:
        group["lr"] = lr
    (text,) = heard(trained(optimizer, m), steps=3)
    assert "made with 0.02, 0.0003: something" in text
    assert "optimizer.lrs(0.02)" in text


@pytest.mark.parametrize("make", SOUND.values(), ids=SOUND)
def test_schedules_that_keep_the_ratio_are_no_reason(make):
    m = small()
    optimizer = Muon(m, lr=0.02)
    assert heard(trained(optimizer, m, make(optimizer)), steps=39) == []


def test_one_rate_is_right_for_all_groups_when_they_were_made_so():
    m = small()
    optimizer = Muon(m, lr=1e-3, adjust_lr_fn="match_rms_adamw")
    assert heard(trained(optimizer, m, OneCycleLR(optimizer, 1e-2, 40))) == []


def test_rates_of_all_groups_in_their_ratio():
    optimizer = Scion(small(), lr=0.1)
    groups = [g["lr"] for g in optimizer.param_groups]
    assert optimizer.lrs(0.1) == pytest.approx(groups)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    assert optimizer.lrs(0.2) == pytest.approx([2 * lr for lr in groups])
    assert copy.deepcopy(optimizer).lrs(0.2) == optimizer.lrs(0.2)
    w = nn.Parameter(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"lr=0\.0: the matrices were made with it"):
        Muon([w], lr=0.0).lrs(0.1)


def test_an_optimizer_of_parameters_that_are_not_trained_says_so_once():
    m, other = small(), small()
    optimizer = Muon(m, lr=0.02)
    (text,) = heard(trained(optimizer, other), steps=6)
    assert "none of the 5 parameters of this optimizer (0 of them frozen)" in text
    m.requires_grad_(False)
    (text,) = heard(Muon(m, lr=0.02).step, steps=6)
    assert "5 of them frozen" in text


def test_two_steps_without_a_gradient_are_no_reason():
    m = small()
    optimizer = Muon(m, lr=0.02)
    step = trained(optimizer, m)

    def now_and_then():
        step()
        optimizer.zero_grad()
        optimizer.step()
        optimizer.step()

    assert heard(now_and_then, steps=4) == []


def test_a_guess_is_said_with_the_override_that_settles_it():
    (text,) = heard(lambda: Muon(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))), steps=1)
    assert "guess 1 of 4 parameters: '1.weight' is taken as matrix" in text
    assert "overrides={'1.weight': \"adamw\"} if it is the output head" in text
    m = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    assert heard(lambda: Muon(m, overrides={"1.weight": "adamw"}), steps=1) == []


def test_a_checkpoint_of_other_conventions_is_taken_and_named():
    m = small()
    saved = Muon(m, lr=0.02).state_dict()

    def load(**options):
        optimizer = Muon(m, **options)
        texts = heard(lambda: optimizer.load_state_dict(copy.deepcopy(saved)), steps=1)
        assert [g["lr"] for g in optimizer.param_groups] == [0.02, 3e-4, 3e-4]
        return texts

    assert load(lr=0.02) == load(lr=0.01, adamw_lr=1.5e-4) == []
    (text,) = load(lr=0.02, adamw_lr=3e-3)
    assert "AdamW is 0.015 of that of the hidden matrices" in text
    assert "made with 0.15" in text
    texts = load(lr=1e-3, adjust_lr_fn="match_rms_adamw")
    assert "saved with adjust_lr_fn='original'" in texts[0]
    assert len(texts) == 2


def test_a_scheduled_checkpoint_has_the_ratio_that_it_had():
    m = small()
    optimizer = Muon(m, lr=0.02)
    heard(trained(optimizer, m, LambdaLR(optimizer, lambda t: 0.5**t)), steps=3)
    saved = optimizer.state_dict()
    assert heard(lambda: Muon(m, lr=0.02).load_state_dict(saved), steps=1) == []


def test_replicas_are_a_module_or_a_group():
    m = small()
    optimizer = Muon(m, lr=0.02)
    optimizer.set_replicas(None)
    with pytest.raises(ValueError, match="replicas='Sequential': give the Distributed"):
        optimizer.set_replicas(m)


def test_a_warning_points_at_the_line_that_called_the_library():
    m = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        optimizer = Muon(m, lr=0.02)
        for _ in range(3):
            optimizer.step()
    assert [w.filename for w in seen] == [__file__, __file__]


def test_a_floor_of_a_schedule_is_no_ratio_of_a_checkpoint():
    m = small()
    optimizer = Muon(m, lr=0.02)
    step = trained(optimizer, m, CosineAnnealingLR(optimizer, 8, eta_min=1e-5))
    heard(step, steps=6)
    saved = optimizer.state_dict()
    assert heard(lambda: Muon(m, lr=0.02).load_state_dict(saved), steps=1) == []


def test_a_tensor_for_a_rate_is_not_looked_at():
    m = small()
    optimizer = Muon(m, lr=torch.tensor(0.02))
    lr = torch.tensor(0.02)
    for group in optimizer.param_groups:
        group["lr"] = lr
    assert heard(trained(optimizer, m), steps=2) == []
    assert heard(lambda: optimizer.load_state_dict(optimizer.state_dict()), steps=1) == []
