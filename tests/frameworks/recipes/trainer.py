"""transformers.Trainer with an optimizer that is made of the module."""

from transformers import Trainer

import steepest


def trainer(model, args, data):
    """A factory: the trainer calls it with the module when it needs an optimizer."""
    return Trainer(
        model,
        args,
        train_dataset=data,
        optimizer_cls_and_kwargs=(lambda: steepest.Muon, {"lr": 0.02, "weight_decay": 0.1}),
    )
