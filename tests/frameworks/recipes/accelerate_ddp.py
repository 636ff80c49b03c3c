"""accelerate under DDP: the optimizer of the prepared model divides its work among ranks."""

import steepest


def prepared_for_ddp(accelerator, model, loader):
    model = accelerator.prepare(model)
    optimizer = steepest.Muon(model, lr=0.02)
    return model, *accelerator.prepare(optimizer, loader)
