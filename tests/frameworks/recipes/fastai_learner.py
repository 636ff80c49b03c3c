"""fastai: the function that makes the optimizer knows the model."""

from fastai.learner import Learner
from fastai.optimizer import OptimWrapper

import steepest


def learner(loaders, model, loss):
    def opt_func(params, lr=1e-3, **hypers):
        return OptimWrapper(opt=steepest.Muon(model, lr=lr, adjust_lr_fn="match_rms_adamw"))

    return Learner(loaders, model, loss_func=loss, opt_func=opt_func)
