"""transformers.Trainer under DDP: the ranks divide the polar factors."""

import torch
from transformers import TrainerCallback


class DivideTheWork(TrainerCallback):
    """The optimizer is made before DDP wraps the model: say which ranks hold replicas."""

    def on_train_begin(self, args, state, control, optimizer=None, **others):
        if args.world_size > 1:
            optimizer.optimizer.set_replicas(torch.distributed.group.WORLD)
