"""skorch: one method makes the optimizer of the module."""

from skorch import NeuralNetClassifier

import steepest


class MuonClassifier(NeuralNetClassifier):
    def initialize_optimizer(self, triggered_directly=None):
        self.optimizer_ = steepest.Muon(self.module_, lr=self.lr, adjust_lr_fn="match_rms_adamw")
        return self
