"""accelerate in two processes: DDP or FSDP2, saved at half of the run and gone on with.

python -m tests.frameworks.scripts.accelerate_run ddp|fsdp2
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.frameworks.processes import WAIT, folder, report
from tests.frameworks.scripts.sharding import let_processors_shard
from tests.frameworks.scripts.trainer_run import sums
from tests.frameworks.small import Characters, llama

STEPS, HALF = 10, 5
Prepare = Callable[[Any, nn.Module, Any], tuple[Any, Any, Any]]


def accelerator(kind: str) -> Any:
    """A new accelerator; the state of the last one is forgotten."""
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState
    from accelerate.utils import FullyShardedDataParallelPlugin

    AcceleratorState._reset_state(True)
    options: dict[str, Any] = {"kwargs_handlers": [InitProcessGroupKwargs(timeout=WAIT)]}
    if kind == "fsdp2":
        options["fsdp_plugin"] = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=["LlamaDecoderLayer"],
            state_dict_type="SHARDED_STATE_DICT",
            cpu_ram_efficient_loading=False,
        )
    return Accelerator(cpu=True, **options)


def train(kind: str, prepare: Prepare, name: str, resume: bool = False) -> dict[str, Any]:
    """The losses of a run over both processes, and what became of its parameters."""
    engine = accelerator(kind)
    model = llama()
    before = [weakref.ref(p) for p in model.parameters()]
    loader = torch.utils.data.DataLoader(Characters(), batch_size=4)
    model, optimizer, loader = prepare(engine, model, loader)
    place = str(folder() / name)
    if resume:
        engine.load_state(place)
    losses = []
    for step, batch in enumerate(loader):
        if step >= STEPS:
            break
        if resume and step < HALF:
            continue
        loss = model(**batch).loss
        engine.backward(loss)
        engine.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(engine.reduce(loss.detach(), "mean")))
        if step + 1 == HALF and not resume:
            engine.save_state(place)
    gc.collect()
    plain = optimizer.optimizer
    return {
        "losses": losses,
        "alive": sum(ref() is not None for ref in before),
        "originals": len(before),
        "divided": getattr(plain, "_replicas", None) is not None,
        "param": type(plain.param_groups[0]["params"][0]).__name__,
        "groups": len(plain.param_groups),
        "sums": sums(model),
    }


def adamw(engine: Any, model: nn.Module, loader: Any) -> tuple[Any, Any, Any]:
    """AdamW, prepared with the model."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return engine.prepare(model, optimizer, loader)


def main() -> None:
    """Each way to prepare, and a second start of those that FSDP2 knows."""
    from tests.frameworks.recipes.accelerate_ddp import prepared_for_ddp
    from tests.frameworks.recipes.accelerate_prepared import prepared

    kind = sys.argv[1]
    if kind == "fsdp2":
        let_processors_shard()
    ways: dict[str, Prepare] = {"adamw": adamw, "together": prepared}
    if kind == "ddp":
        ways["after"] = prepared_for_ddp
    result = {}
    for name, prepare in ways.items():
        result[name] = train(kind, prepare, name)
        result[name]["again"] = train(kind, prepare, name, resume=True)["losses"]
    report(result)


if __name__ == "__main__":
    main()
