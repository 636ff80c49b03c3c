"""torchtitan: a container with an optimizer for each part of the model."""

from dataclasses import dataclass

from torchtitan.components.optimizer import OptimizersContainer

import steepest


class MuonContainer(OptimizersContainer):
    @dataclass(kw_only=True, slots=True)
    class Config(OptimizersContainer.Config):
        lr: float = 0.02

    def __init__(self, config, *, model_parts):
        self.model_parts = model_parts
        self.optimizers = [steepest.Muon(part, lr=config.lr) for part in model_parts]
        self._post_init([p for part in model_parts for p in part.parameters()])
