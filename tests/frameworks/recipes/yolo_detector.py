"""ultralytics: the outputs of a detector have names that say nothing."""

import steepest

OUTPUTS = {"model.*.cv2.*.2.weight": "adamw", "model.*.cv3.*.2.weight": "adamw"}


def optimizer(model, lr=0.01):
    return steepest.Muon(model, lr=lr, adjust_lr_fn="match_rms_adamw", overrides=OUTPUTS)
