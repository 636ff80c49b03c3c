"""A learning rate that falls from layer to layer towards the input, for fine-tuning."""

import steepest


def optimizer(model):
    return steepest.Muon(steepest.layer_decay(model, 0.75, lr=0.02, adamw_lr=1e-3))
