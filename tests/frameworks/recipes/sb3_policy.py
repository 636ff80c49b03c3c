"""stable-baselines3: a policy that makes its optimizer of itself."""

from stable_baselines3.common.policies import ActorCriticPolicy

import steepest


class MuonPolicy(ActorCriticPolicy):
    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.optimizer = steepest.Muon(self, lr=lr_schedule(1), adjust_lr_fn="match_rms_adamw")
