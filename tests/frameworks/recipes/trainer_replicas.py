"""transformers.Trainer under DDP: the ranks divide the polar factors."""

from transformers import TrainerCallback


class DivideTheWork(TrainerCallback):
    """Name the replicas when training begins: the optimizer was made before DDP wrapped the model."""

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **others):
        optimizer.optimizer.set_replicas(None if args.world_size == 1 else group())


def group():
    """All processes."""
    import torch.distributed as dist

    return dist.group.WORLD
