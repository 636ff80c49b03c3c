"""LightningCLI: what the command line says of the optimizer arrives."""

import pytest

pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")

import lightning
from lightning.pytorch.cli import LightningCLI
from torch import nn
from torch.utils.data import DataLoader

import steepest
from tests.frameworks.checks import check_routed
from tests.frameworks.recipes.lightning_cli import ConfiguredModule
from tests.frameworks.small import Characters, gpt2

pytest.importorskip("transformers")

QUIET = [
    *("--trainer.max_steps=2", "--trainer.accelerator=cpu", "--trainer.logger=false"),
    *("--trainer.enable_checkpointing=false", "--trainer.enable_progress_bar=false"),
    "--trainer.enable_model_summary=false",
]


class Net(nn.Module):
    """GPT-2 with a width that a command line can give."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.inner = gpt2(n_embd=width)

    def forward(self, **batch):
        return self.inner(**batch)


class Data(lightning.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Characters(16), batch_size=8)


def fitted(*words, cls=ConfiguredModule):
    arguments = ["fit", *QUIET, *words]
    cli = LightningCLI(cls, Data, args=arguments, save_config_callback=None)
    return cli.model, cli.trainer.optimizers[0]


NET = f"--model.net={Net.__module__}.Net"


@pytest.mark.row("lightning-cli")
def test_a_module_that_calls_the_optimizer_is_routed():
    module, optimizer = fitted(
        NET,
        "--model.optimizer=steepest.Muon",
        "--model.optimizer.lr=0.02",
        "--model.optimizer.polar=steepest.polar.Auto",
        "--model.optimizer.polar.error=0.01",
    )
    check_routed(module, optimizer)
    group = optimizer.param_groups[0]
    assert group["lr"] == 0.02
    assert str(group["polar"]).startswith("Auto(error=0.01")


@pytest.mark.row("lightning-cli")
@pytest.mark.parametrize("name", ["Scion", "SteepestDescent", "LionK"])
def test_other_optimizers(name):
    words = [NET, f"--model.optimizer=steepest.{name}", "--model.optimizer.lr=0.01"]
    if name == "SteepestDescent":
        words += ["--model.optimizer.norm=steepest.norms.Spectral"]
    _, optimizer = fitted(*words)
    assert type(optimizer) is getattr(steepest, name)


class Automatic(ConfiguredModule):
    """A module without an optimizer of its own."""

    def __init__(self, net: nn.Module):
        lightning.LightningModule.__init__(self)
        self.net = net


Automatic.configure_optimizers = lightning.LightningModule.configure_optimizers


@pytest.mark.row("lightning-cli-parameters")
def test_the_command_line_gives_parameters_and_is_refused():
    with pytest.raises(ValueError, match=r"write (an argument|def configure_optimizers)"):
        fitted(NET, "--optimizer=steepest.Muon", "--optimizer.lr=0.02", cls=Automatic)
    _, optimizer = fitted(NET, "--optimizer=steepest.Lion", "--optimizer.lr=0.001", cls=Automatic)
    assert type(optimizer) is steepest.Lion
