"""Lightning under DDP, with an optimizer that was made before the model was wrapped."""

from tests.frameworks.recipes.lightning_module import Module


class ModuleWithReplicas(Module):
    def on_fit_start(self):
        if self.trainer.world_size > 1:
            self.optimizers().optimizer.set_replicas(self.trainer.strategy.model)
