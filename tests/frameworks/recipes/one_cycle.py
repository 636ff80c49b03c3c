"""A schedule of absolute rates: each group has its own."""

from torch.optim.lr_scheduler import OneCycleLR


def one_cycle(optimizer, steps):
    return OneCycleLR(
        optimizer, max_lr=optimizer.lrs(0.02), total_steps=steps, cycle_momentum=False
    )
