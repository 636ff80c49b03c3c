"""Lightning in one process: modules, callbacks and checkpoints."""

import csv
import warnings
from pathlib import Path

import pytest

pytest.importorskip("lightning")
pytest.importorskip("transformers")

import lightning
import torch
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    Callback,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from torch.nn import functional as F
from torch.utils.data import DataLoader

import steepest
from steepest.diagnostics import Monitor
from tests.frameworks.checks import check_falls, check_routed, furthest, rates
from tests.frameworks.recipes.lightning_module import Module
from tests.frameworks.small import Characters, Classifier, classes, gpt2

STEPS, HALF = 12, 6


class Losses(Callback):
    """The loss of each step."""

    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, module, outputs, *others):
        self.losses.append(float(outputs["loss"]))


class AdamWModule(Module):
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def fit(module, loader=None, resume=None, callbacks=(), **options):
    """The trainer and the losses of a run."""
    settings = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_steps": STEPS,
    }
    seen = Losses()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(callbacks=[seen, *callbacks], **settings | options)
        loader = loader or DataLoader(Characters(8 * STEPS), batch_size=8)
        trainer.fit(module, loader, ckpt_path=resume)
    return trainer, seen.losses


def made(cls=Module):
    return cls(gpt2())


@pytest.mark.row("lightning-module")
def test_it_is_routed_and_learns():
    module = made()
    trainer, losses = fit(module)
    check_falls(losses)
    check_routed(module, trainer.optimizers[0])
    assert rates(trainer.optimizers[0])[0] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.row("lightning-resume")
def test_a_run_that_goes_on_is_the_run():
    """At the end of an epoch: within one, Lightning starts the loader anew."""
    loader = DataLoader(Characters(8 * HALF), batch_size=8)
    length = {"max_epochs": 2, "max_steps": -1}
    for cls in (AdamWModule, Module):
        keep = ModelCheckpoint(cls.__name__, filename="{epoch}", every_n_epochs=1, save_top_k=-1)
        options = {"callbacks": [keep], "enable_checkpointing": True}
        _, losses = fit(made(cls), loader, **length, **options)
        _, again = fit(made(cls), loader, f"{cls.__name__}/epoch=0.ckpt", **length)
        assert furthest(losses[HALF:], again) == 0.0


SETTINGS = {
    "clip by norm": {"gradient_clip_val": 0.1},
    "clip by value": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "accumulation": {"accumulate_grad_batches": 2, "max_steps": 6},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "bf16-true": {"precision": "bf16-true"},
    "64-true": {"precision": "64-true"},
}


@pytest.mark.row("lightning-settings")
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_the_run(name):
    trainer, losses = fit(made(), **SETTINGS[name])
    check_falls(losses, by=0.05)
    (optimizer,) = trainer.optimizers
    dtypes = {s["momentum_buffer"].dtype for s in optimizer.state.values() if len(s) == 1}
    expected = {"bf16-true": torch.bfloat16, "64-true": torch.float64}.get(name, torch.float32)
    assert dtypes == {expected}


@pytest.mark.row("lightning-monitors")
def test_monitors_of_the_rate_show_every_group():
    fit(
        made(),
        callbacks=[LearningRateMonitor("step", log_weight_decay=True)],
        logger=CSVLogger("logs"),
        log_every_n_steps=1,
        max_steps=2,
    )
    (path,) = Path("logs").rglob("metrics.csv")
    with path.open(encoding="utf-8") as file:
        (first, *_) = [row for row in csv.DictReader(file) if row["lr-Muon/pg1"]]
    numbers = [first[f"lr-Muon/pg{i}"] for i in (1, 2, 3)]
    assert [float(n) for n in numbers] == pytest.approx([0.02, 3e-4, 3e-4])
    decay = [first[f"lr-Muon/pg{i}-weight_decay"] for i in (1, 2, 3)]
    assert [float(d) for d in decay] == [0.1, 0.0, 0.0]


class Tagger(lightning.LightningModule):
    """A classifier with a backbone, as fine-tuning has it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = Classifier()
        self.backbone = self.net.backbone

    def training_step(self, batch, index):
        points, labels = batch
        return F.cross_entropy(self.net(points), labels)

    def configure_optimizers(self):
        return steepest.Muon(self, lr=0.02, adamw_lr=3e-3)


@pytest.mark.row("lightning-finetuning")
def test_a_backbone_that_is_thawed_is_routed():
    tagger = Tagger()
    before = tagger.backbone[0].weight.detach().clone()
    trainer, losses = fit(
        tagger,
        DataLoader(classes(), batch_size=32),
        callbacks=[BackboneFinetuning(unfreeze_backbone_at_epoch=2)],
        max_epochs=4,
        max_steps=-1,
    )
    check_falls(losses)
    check_routed(tagger, trainer.optimizers[0])
    held = [id(p) for g in trainer.optimizers[0].param_groups for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in tagger.parameters()), "once, and all"
    assert not torch.equal(before, tagger.backbone[0].weight)


def averaging(rate):
    return StochasticWeightAveraging(swa_lrs=rate, swa_epoch_start=0.5, annealing_epochs=1)


@pytest.mark.row("lightning-averages")
@pytest.mark.parametrize(
    ("rate", "found"),
    [(1e-2, [1e-2, 1e-2, 1e-2]), ([1e-2, 1e-4, 1e-4], [1e-2, 1e-4, 1e-4])],
    ids=["one number", "a list"],
)
def test_one_number_for_averaging_is_the_rate_of_all_groups(rate, found):
    loader = DataLoader(Characters(32), batch_size=8)
    trainer, losses = fit(made(), loader, callbacks=[averaging(rate)], max_epochs=4, max_steps=-1)
    check_falls(losses)
    assert rates(trainer.optimizers[0]) == pytest.approx(found, rel=1e-3)


@pytest.mark.row("lightning-averages")
def test_an_average_of_the_weights():
    _, losses = fit(made(), callbacks=[EMAWeightAveraging(decay=0.9)])
    check_falls(losses)


@pytest.mark.row("lightning-instruments")
def test_a_monitor_takes_the_optimizer_of_the_module():
    class Watch(Callback):
        def on_train_start(self, trainer, module):
            self.monitor = Monitor(module, module.optimizers(), every=1, quiet=True)

    watch = Watch()
    fit(made(), callbacks=[watch])
    assert len(watch.monitor.records) == STEPS
