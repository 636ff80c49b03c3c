"""torchtitan's containers in two processes, FSDP2, saved at half of the run and gone on with.

python -m tests.frameworks.scripts.torchtitan_run parts|groups
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.checkpoint import load, save
from torch.distributed.fsdp import fully_shard

from tests.frameworks.processes import WAIT, folder, report

STEPS, HALF = 10, 5


class Layer(nn.Module):
    """A feed-forward layer in torchtitan's names."""

    def __init__(self) -> None:
        super().__init__()
        self.ffn_norm = nn.RMSNorm(16)
        self.feed_forward = nn.ModuleDict(
            {"w1": nn.Linear(16, 24, bias=False), "w2": nn.Linear(24, 16, bias=False)}
        )

    def forward(self, x: Tensor) -> Tensor:
        w1, w2 = self.feed_forward.values()
        return x + w2(F.silu(w1(self.ffn_norm(x))))


class Part(nn.Module):
    """One of two parts of a model, as stages of a pipeline have them."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(32, 16) if number == 0 else None
        self.layers = nn.ModuleDict({str(number): Layer()})
        self.lm_head = nn.Linear(16, 32, bias=False) if number == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.tok_embeddings(x) if self.tok_embeddings is not None else x
        for layer in self.layers.values():
            x = layer(x)
        return self.lm_head(x) if self.lm_head is not None else x


def parts() -> list[nn.Module]:
    """Both parts, sharded, the same in every run."""
    torch.manual_seed(0)
    made: list[nn.Module] = [Part(0), Part(1)]
    for part in made:
        for layer in part.get_submodule("layers").children():
            fully_shard(layer)
        fully_shard(part)
    return made


def container(kind: str, model_parts: list[nn.Module]) -> Any:
    """The recipe's container; or torchtitan's own, whose groups name our optimizer."""
    from torchtitan.components.optimizer import OptimizersContainer, ParamGroupConfig

    import steepest
    from tests.frameworks.recipes.torchtitan_container import MuonContainer

    if kind == "parts":
        return MuonContainer.Config(lr=0.02).build(model_parts=model_parts)

    class Own(OptimizersContainer):
        @staticmethod
        def _resolve_optimizer_factory(name: str) -> Any:
            return getattr(steepest, name)

    options = {"lr": 0.02, "weight_decay": 0.1}
    group = ParamGroupConfig(pattern=".*", optimizer_name="Muon", optimizer_kwargs=options)
    config = OptimizersContainer.Config(param_groups=[group], implementation="for-loop")
    return Own(config, model_parts=model_parts)


def train(kind: str, resume: bool = False) -> dict[str, Any]:
    """The losses of this rank, and where the parameters went."""
    from torchtitan.components.optimizer import LRSchedulersContainer

    model_parts = parts()
    optimizers = container(kind, model_parts)
    schedule = LRSchedulersContainer.Config(warmup_steps=2)
    schedulers = schedule.build(optimizers=optimizers, training_steps=STEPS)
    place, losses = str(folder() / kind), []
    if resume:
        model: dict[str, Any] = {}
        for part in model_parts:
            model |= part.state_dict()
        state = {"model": model, "optimizer": optimizers.state_dict()}
        load(state, checkpoint_id=place)
        optimizers.load_state_dict(state["optimizer"])
        schedulers.load_state_dict({"last_epoch": HALF})
    for step in range(HALF if resume else 0, STEPS):
        generator = torch.Generator().manual_seed(10 * step + dist.get_rank())
        x = torch.randint(32, (8, 6), generator=generator)
        optimizers.zero_grad()
        out = model_parts[1](model_parts[0](x))
        loss = F.cross_entropy(out.flatten(0, 1), ((3 * x + 1) % 32).flatten())
        loss.backward()
        optimizers.step()
        schedulers.step()
        losses.append(loss.item())
        if step + 1 == HALF and not resume:
            model = {}
            for part in model_parts:
                model |= part.state_dict()
            save({"model": model, "optimizer": optimizers.state_dict()}, checkpoint_id=place)
    adamw = [
        name
        for optimizer in optimizers
        for group in optimizer.param_groups
        if group["adamw"]
        for name in group["param_names"]
    ]
    return {"losses": losses, "adamw": sorted(adamw)}


if __name__ == "__main__":
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=WAIT)
    kind = sys.argv[1]
    report({"whole": train(kind), "rest": train(kind, resume=True)})
