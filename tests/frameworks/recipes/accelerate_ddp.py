"""accelerate under DDP: the optimizer is made of the prepared model, so that ranks divide the work."""

import steepest


def prepared_for_ddp(accelerator, model, loader):
    model = accelerator.prepare(model)
    optimizer = steepest.Muon(model, lr=0.02)
    return model, *accelerator.prepare(optimizer, loader)
