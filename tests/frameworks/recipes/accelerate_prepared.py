"""accelerate in one process and under FSDP2: model and optimizer are prepared together."""

import steepest


def prepared(accelerator, model, loader):
    optimizer = steepest.Muon(model, lr=0.02)
    return accelerator.prepare(model, optimizer, loader)
