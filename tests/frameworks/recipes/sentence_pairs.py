"""sentence-transformers, whose trainer is a transformers.Trainer."""

from sentence_transformers import SentenceTransformerTrainer

import steepest


def trainer(model, args, data, loss):
    return SentenceTransformerTrainer(
        model,
        args,
        train_dataset=data,
        loss=loss,
        optimizer_cls_and_kwargs=(lambda: steepest.Muon, {"lr": 0.02}),
    )
