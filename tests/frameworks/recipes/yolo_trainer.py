"""ultralytics: a trainer whose optimizer is made of the model."""

from ultralytics.models.yolo.classify import ClassificationTrainer

import steepest


class MuonClassificationTrainer(ClassificationTrainer):
    def build_optimizer(self, model, name="auto", lr=0.01, momentum=0.9, decay=1e-5, iterations=0):
        return steepest.Muon(model, lr=lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
