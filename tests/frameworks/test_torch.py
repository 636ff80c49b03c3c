"""What frameworks take from torch: schedules of absolute rates, and averages of the weights.

More of torch's own tools are in tests/optim and tests/sharding.
"""

import pytest
import torch
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn

import steepest
from tests.frameworks.checks import check_falls, rates
from tests.frameworks.recipes.one_cycle import one_cycle
from tests.frameworks.small import classes, classifier

POINTS, LABELS = classes().tensors


def step(model, optimizer):
    loss = F.cross_entropy(model(POINTS), LABELS)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def run(model, optimizer, scheduler):
    for _ in range(4):
        step(model, optimizer)
        scheduler.step()


@pytest.mark.row("schedules")
def test_one_number_for_a_cycle_is_the_rate_of_all_groups():
    model = classifier()
    optimizer = steepest.Muon(model, lr=0.02)
    assert rates(optimizer) == [0.02, 3e-4, 3e-4]
    scheduler = OneCycleLR(optimizer, max_lr=0.02, total_steps=9)
    assert optimizer.param_groups[0]["momentum"] == 0.95
    with pytest.warns(UserWarning, match="written one learning rate into all of them"):
        run(model, optimizer, scheduler)
    assert optimizer.param_groups[0]["momentum"] < 0.95
    assert len(set(rates(optimizer))) == 1


@pytest.mark.row("schedules")
def test_a_list_for_a_cycle_keeps_the_ratio():
    model = classifier()
    optimizer = steepest.Muon(model, lr=0.02, adamw_lr=3e-3)
    scheduler = one_cycle(optimizer, 10)
    losses = []
    for _ in range(9):
        losses.append(step(model, optimizer))
        rate, *others = rates(optimizer)
        assert others == pytest.approx([rate * 3e-3 / 0.02] * 2)
        assert optimizer.param_groups[0]["momentum"] == 0.95
        scheduler.step()
    check_falls(losses, by=0.02)


@pytest.mark.filterwarnings("ignore:every group has lr=")
@pytest.mark.row("schedules")
def test_the_last_rate_of_an_average():
    for given, found in ((1e-2, [1e-2] * 3), ([1e-2, 1e-4, 1e-4], [1e-2, 1e-4, 1e-4])):
        model = classifier()
        optimizer = steepest.Muon(model, lr=0.02)
        run(model, optimizer, SWALR(optimizer, swa_lr=given, anneal_epochs=1))
        assert rates(optimizer) == pytest.approx(found)


@pytest.mark.row("averages")
def test_an_average_is_routed_as_its_model():
    model = classifier()
    optimizer = steepest.Muon(model, lr=0.02, adamw_lr=3e-3)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    losses = []
    for _ in range(9):
        losses.append(step(model, optimizer))
        average.update_parameters(model)
    check_falls(losses, by=0.02)
    with torch.no_grad():
        assert F.cross_entropy(average(POINTS), LABELS) < losses[0]
    there = [(a.target, a.matrices) for a in steepest.route(average)]
    assert [x for x in there if x[0] != "constant"] == [
        (a.target, a.matrices) for a in steepest.route(model)
    ]
