"""pytorch-ignite, skorch and Hydra, with the small classifier."""

import pytest
import torch
from torch.utils.data import DataLoader

import steepest
from steepest.polar import Auto
from tests.frameworks.checks import (
    check_falls,
    check_routed,
    furthest,
    rates,
)
from tests.frameworks.small import Classifier, classes, classifier

STEPS = 16


@pytest.mark.row("ignite")
def test_ignite():
    pytest.importorskip("ignite")
    from ignite.engine import Events
    from ignite.handlers import Checkpoint, DiskSaver

    from tests.frameworks.recipes.ignite_loop import trainer

    model = classifier()
    engine, optimizer = trainer(model, STEPS)
    losses = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(e.state.output))
    objects = {"model": model, "optimizer": optimizer}
    save = Checkpoint(objects, DiskSaver("saved"), filename_pattern="last.pt")
    engine.add_event_handler(Events.COMPLETED, save)
    engine.run(DataLoader(classes(), batch_size=32), 1)
    check_routed(model, optimizer)
    check_falls(losses, by=0.03)
    rate, *others = rates(optimizer)
    assert rate < 0.01
    assert others == pytest.approx([rate * 3e-3 / 0.02] * 2)
    again = classifier(1)
    other = steepest.Muon(again, lr=0.02)
    loaded = torch.load("saved/last.pt", weights_only=True)
    Checkpoint.load_objects({"model": again, "optimizer": other}, loaded)
    assert rates(other) == rates(optimizer)
    points = classes().tensors[0]
    assert torch.equal(model(points), again(points))


@pytest.mark.row("ignite-scheduler")
def test_a_scheduler_of_ignite_writes_one_rate_into_all_groups():
    pytest.importorskip("ignite")
    from ignite.handlers import PiecewiseLinear

    optimizer = steepest.Muon(classifier(), lr=0.02)
    assert rates(optimizer) == [0.02, 3e-4, 3e-4]
    PiecewiseLinear(optimizer, "lr", [(0, 0.02), (10, 0.0)])(None, "lr")
    assert rates(optimizer) == [0.02] * 3


def skorch_net(cls=None, **options):
    pytest.importorskip("skorch")
    from tests.frameworks.recipes.skorch_net import MuonClassifier

    torch.manual_seed(0)
    settings = {"criterion": torch.nn.CrossEntropyLoss, "verbose": 0, "batch_size": 64}
    return (cls or MuonClassifier)(Classifier, max_epochs=6, lr=1e-2, **settings | options)


def points_and_labels():
    return tuple(t.numpy() for t in classes(256).tensors)


@pytest.mark.row("skorch")
def test_skorch():
    net = skorch_net().fit(*points_and_labels())
    check_routed(net.module_, net.optimizer_)
    check_falls([row["train_loss"] for row in net.history])
    net.save_params(f_params="weights.pt", f_optimizer="optimizer.pt")
    again = skorch_net().initialize()
    again.load_params(f_params="weights.pt", f_optimizer="optimizer.pt")
    for n in (net, again):
        torch.manual_seed(0)
        n.partial_fit(*points_and_labels())
    assert furthest(*([row["train_loss"] for row in n.history][-6:] for n in (net, again))) == 0.0


@pytest.mark.row("skorch-rate")
def test_a_rate_that_is_set_is_that_of_all_groups():
    net = skorch_net().initialize()
    assert rates(net.optimizer_) == [1e-2] * 3
    net.set_params(lr=2e-3)
    assert rates(net.optimizer_) == [2e-3] * 3


@pytest.mark.row("skorch-class")
def test_skorch_gives_parameters_to_a_class():
    pytest.importorskip("skorch")
    from skorch import NeuralNetClassifier

    with pytest.raises(ValueError, match="under skorch write optimizer__unrouted"):
        skorch_net(NeuralNetClassifier, optimizer=steepest.Muon).initialize()
    with pytest.warns(UserWarning, match="by their shapes alone"):
        net = skorch_net(
            NeuralNetClassifier,
            optimizer=steepest.Muon,
            optimizer__unrouted="adamw",
            optimizer__adjust_lr_fn="match_rms_adamw",
        ).fit(*points_and_labels())
    check_falls([row["train_loss"] for row in net.history])
    seen = {id(p): g["adamw"] for g in net.optimizer_.param_groups for p in g["params"]}
    assert seen == {id(p): p.ndim < 2 for p in net.module_.parameters()}


@pytest.mark.row("hydra")
def test_hydra():
    pytest.importorskip("hydra")
    from tests.frameworks.recipes.hydra_config import optimizer

    model = classifier()
    made = optimizer(model)
    check_routed(model, made)
    assert made.param_groups[1]["betas"] == (0.9, 0.95)
    assert str(made.param_groups[0]["polar"]) == str(Auto(error=0.01))
    torch.save(made.state_dict(), "state.pt")
    torch.load("state.pt", weights_only=True)
