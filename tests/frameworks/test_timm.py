"""timm: its factory, layer-wise decay, its schedulers and its helpers."""

import pytest

pytest.importorskip("timm")

import timm
import torch
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3, NativeScaler
from torch.nn import functional as F

import steepest
from tests.frameworks.checks import check_falls, check_routed, furthest, rates
from tests.frameworks.recipes import decayed_layers
from tests.frameworks.recipes.timm_registry import optimizer as registered

DRAW = torch.Generator().manual_seed(0)
IMAGES = torch.randn(64, 3, 32, 32, generator=DRAW)
LABELS = (IMAGES[:, 0].mean((1, 2)) > 0).long() + 2 * (IMAGES[:, 1].mean((1, 2)) > 0).long()


def vit():
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=4, img_size=32)


MODELS = {
    "test_vit": {"img_size": 32},
    "test_convnext": {},
    "test_efficientnet": {},
    "test_resnet": {},
    "test_vit2": {"img_size": 32},
}


def steps(model, optimizer, count=9, scheduler=None):
    losses = []
    model.train()
    for i in range(count):
        loss = F.cross_entropy(model(IMAGES), LABELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if scheduler:
            scheduler.step_update(i + 1)
    return losses


@pytest.mark.row("timm-models")
@pytest.mark.parametrize("name", MODELS)
def test_models_are_routed_without_a_guess_and_learn(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4, **MODELS[name])
    optimizer = steepest.Muon(model, lr=0.02, adamw_lr=3e-3)
    assert not optimizer.routing.uncertain
    check_routed(model, optimizer)
    check_falls(steps(model, optimizer))


@pytest.mark.row("timm-registry")
def test_the_factory_routes_with_its_own_option():
    model = vit()
    optimizer = registered(model)
    check_routed(model, optimizer)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.02, 0.95, 0.1)
    check_falls(steps(model, optimizer))


@pytest.mark.row("timm-registry-defaults")
def test_the_defaults_of_the_factory_take_the_place_of_ours():
    optimizer = create_optimizer_v2(vit(), "steepest", param_group_fn=steepest.route)
    group = optimizer.param_groups[0]
    assert (group["momentum"], group["weight_decay"]) == (0.9, 0.0)


@pytest.mark.row("timm-registry-parameters")
def test_groups_of_the_factory_are_refused():
    with pytest.raises(ValueError, match="under timm write"):
        create_optimizer_v2(vit(), "steepest", lr=0.02, weight_decay=0.1)


@pytest.mark.row("timm-layer-decay")
def test_layers_near_the_input_take_smaller_steps():
    """Each parameter has the factor that timm gives it."""
    model = vit()
    optimizer = decayed_layers.optimizer(model)
    check_routed(model, optimizer, table=optimizer.routing is not None)
    named = {p: n for n, p in model.named_parameters()}
    theirs = {
        named[p]: group["lr_scale"]
        for group in param_groups_layer_decay(model, layer_decay=0.75)
        for p in group["params"]
    }
    ours = {
        named[p]: group["lr"] / (1e-3 if group["adamw"] else 0.02)
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert len(set(theirs.values())) > 3
    # timm counts the last norm to the last block.
    for name in theirs.keys() - {"norm.weight", "norm.bias"}:
        assert ours[name] == pytest.approx(theirs[name]), name
    check_falls(steps(model, optimizer, 12), by=0.05)


@pytest.mark.row("timm-scheduler")
def test_a_floor_and_a_start_are_the_rates_of_all_groups():
    optimizer = steepest.Muon(vit(), lr=0.02)
    scheduler = CosineLRScheduler(
        optimizer, t_initial=6, lr_min=1e-3, warmup_t=2, warmup_lr_init=5e-3, t_in_epochs=False
    )
    assert rates(optimizer) == [5e-3] * 3
    for i in range(7):
        scheduler.step_update(i)
    assert rates(optimizer) == pytest.approx([1e-3] * 3), "AdamW's rate has risen from 3e-4"


@pytest.mark.row("timm-scheduler")
def test_a_schedule_down_to_zero_keeps_the_ratio():
    optimizer = steepest.Muon(vit(), lr=0.02)
    scheduler = CosineLRScheduler(optimizer, t_initial=6, lr_min=0.0, t_in_epochs=False)
    scheduler.step_update(3)
    assert rates(optimizer) == pytest.approx([0.01, 1.5e-4, 1.5e-4])


@pytest.mark.row("timm-helpers")
def test_average_and_adaptive_clipping():
    model = vit()
    optimizer = steepest.Muon(model, lr=0.02, adamw_lr=3e-3)
    average, scaler = ModelEmaV3(model, decay=0.5), NativeScaler(device="cpu")
    losses = []
    for _ in range(9):
        loss = F.cross_entropy(model(IMAGES), LABELS)
        optimizer.zero_grad()
        scaler(loss, optimizer, clip_grad=0.1, clip_mode="agc", parameters=model.parameters())
        average.update(model)
        losses.append(loss.item())
    check_falls(losses)
    with torch.no_grad():
        assert F.cross_entropy(average.module(IMAGES), LABELS) < losses[0]


@pytest.mark.row("timm-resume")
def test_a_run_that_goes_on_is_the_run():
    for make in (lambda m: torch.optim.AdamW(m.parameters(), lr=3e-3), registered):
        model, other = vit(), vit()
        optimizer = make(model)
        steps(model, optimizer, 3)
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "last.pt")
        saved = torch.load("last.pt", weights_only=True)
        other.load_state_dict(saved["model"])
        again = make(other)
        again.load_state_dict(saved["optimizer"])
        assert furthest(steps(model, optimizer, 3), steps(other, again, 3)) == 0.0
