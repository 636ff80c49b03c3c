"""A LightningModule for the command line: it calls the optimizer that the configuration names."""

import lightning
import torch
from lightning.pytorch.cli import OptimizerCallable


class ConfiguredModule(lightning.LightningModule):
    def __init__(self, net: torch.nn.Module, optimizer: OptimizerCallable):
        super().__init__()
        self.net = net
        self.optimizer = optimizer

    def training_step(self, batch, index):
        return self.net(**batch).loss

    def configure_optimizers(self):
        return self.optimizer(self)
