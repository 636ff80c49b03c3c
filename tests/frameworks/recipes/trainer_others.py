"""The two other ways into transformers.Trainer."""

from transformers import Trainer

import steepest


def trainer_with_optimizer(model, args, data):
    """An optimizer made beforehand; None asks for the scheduler named in the arguments."""
    optimizer = steepest.Muon(model, lr=0.02)
    return Trainer(model, args, train_dataset=data, optimizers=(optimizer, None))


class MuonTrainer(Trainer):
    """A trainer that uses the learning rate of its arguments."""

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            module = self.model if model is None else model
            self.optimizer = steepest.Muon(module, lr=self.args.learning_rate)
        return self.optimizer
