"""Lightning under DDP: the strategy holds the wrapped model, of which ranks divide the work."""

import steepest
from tests.frameworks.recipes.lightning_module import Module


class DividedModule(Module):
    def configure_optimizers(self):
        return steepest.Muon(self.trainer.strategy.model, lr=0.02)
