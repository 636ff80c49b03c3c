"""Lightning in two processes: DDP, or FSDP2 by its ModelParallelStrategy.

python -m tests.frameworks.scripts.lightning_run ddp|parallel
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.utils.data import DataLoader

from tests.frameworks.processes import WAIT, folder, report
from tests.frameworks.recipes.lightning_ddp import DividedModule
from tests.frameworks.recipes.lightning_module import Module
from tests.frameworks.recipes.lightning_replicas import ModuleWithReplicas
from tests.frameworks.scripts.trainer_run import sums
from tests.frameworks.small import Characters, llama

HALF = 5


class Recorded(Module):
    """A module that keeps its losses."""

    losses: list[float]

    def training_step(self, batch: Any, index: int) -> Any:
        loss = self.net(**batch).loss
        self.losses.append(float(loss))
        return loss


class Divided(Recorded, DividedModule):
    """The same, with an optimizer of the wrapped model."""

    configure_optimizers = DividedModule.configure_optimizers


class Replicas(Recorded, ModuleWithReplicas):
    """The same, told of its replicas when they are there."""


class Sharded(Recorded):
    """The same, sharded by FSDP2."""

    def configure_model(self) -> None:
        from torch.distributed.fsdp import fully_shard

        mesh = self.device_mesh["data_parallel"]
        for block in self.net.model.layers:
            fully_shard(block, mesh=mesh)
        fully_shard(self.net, mesh=mesh)


class ShardedAdamW(Sharded):
    """AdamW on the same shards."""

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


KINDS = {"ddp": (Recorded, Divided, Replicas), "parallel": (ShardedAdamW, Sharded)}


def fit(cls: type[Recorded], name: str, resume: bool = False) -> dict[str, Any]:
    """A run of two epochs, or its second one from the checkpoint of the first."""
    module = cls(llama())
    module.losses = []
    if sys.argv[1] == "parallel":
        strategy: Any = ModelParallelStrategy(
            data_parallel_size=2, tensor_parallel_size=1, timeout=WAIT
        )
    else:
        strategy = DDPStrategy(process_group_backend="gloo", timeout=WAIT)
    keep = ModelCheckpoint(folder() / name, filename="{epoch}", every_n_epochs=1, save_top_k=-1)
    trainer = lightning.Trainer(
        strategy=strategy,
        devices=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=2,
        callbacks=[keep],
    )
    loader = DataLoader(Characters(8 * HALF), batch_size=4)
    start = str(folder() / name / "epoch=0.ckpt") if resume else None
    trainer.fit(module, loader, ckpt_path=start)
    (optimizer,) = trainer.optimizers
    return {
        "losses": module.losses,
        "divided": getattr(optimizer, "_replicas", None) is not None,
        "param": type(optimizer.param_groups[0]["params"][0]).__name__,
        "sums": sums(module.net),
    }


def main() -> None:
    """Both epochs, then the second one again."""
    warnings.simplefilter("ignore")
    result = {}
    for cls in KINDS[sys.argv[1]]:
        result[cls.__name__] = fit(cls, cls.__name__)
        result[cls.__name__]["again"] = fit(cls, cls.__name__, resume=True)["losses"]
    report(result)


if __name__ == "__main__":
    main()
