"""pytorch-ignite: a scheduler of torch keeps the ratio of the rates."""

import torch
from ignite.engine import Events, create_supervised_trainer
from ignite.handlers import LRScheduler

import steepest


def trainer(model, steps):
    optimizer = steepest.Muon(model, lr=0.02, adamw_lr=3e-3)
    engine = create_supervised_trainer(model, optimizer, torch.nn.functional.cross_entropy)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=steps)
    engine.add_event_handler(Events.ITERATION_STARTED, LRScheduler(falling))
    return engine, optimizer
