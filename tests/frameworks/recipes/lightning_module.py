"""A LightningModule that makes its optimizer of itself."""

import lightning
import torch

import steepest


class Module(lightning.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def training_step(self, batch, index):
        loss = self.net(**batch).loss
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = steepest.Muon(self, lr=0.02)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
