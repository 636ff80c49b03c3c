"""transformers.Trainer in two processes: DDP, or FSDP2 with a checkpoint and a second start.

python -m tests.frameworks.scripts.trainer_run ddp|fsdp2
"""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any

from tests.frameworks.processes import WAIT, folder, report
from tests.frameworks.scripts.sharding import let_processors_shard
from tests.frameworks.small import Characters, llama

STEPS, HALF = 10, 5
WAYS = {"ddp": ("muon", "divided"), "fsdp2": ("adamw", "muon")}


def run(kind: str, way: str, name: str, resume: str | None = None) -> tuple[Any, list[Any]]:
    """A trained trainer, and references to the parameters that its model had before."""
    import transformers

    from tests.frameworks.recipes.trainer import trainer
    from tests.frameworks.recipes.trainer_replicas import DivideTheWork

    transformers.set_seed(0)
    settings: dict[str, Any] = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "linear",
        "ddp_backend": "gloo",
        "ddp_timeout": int(WAIT.total_seconds()),
        "save_strategy": "no" if resume else "steps",
        "save_steps": HALF,
    }
    if kind == "fsdp2":
        settings["fsdp"] = "full_shard auto_wrap"
        settings["fsdp_config"] = {
            "version": 2,
            "fsdp_version": 2,
            "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"],
            "state_dict_type": "SHARDED_STATE_DICT",
            "cpu_ram_efficient_loading": False,
        }
    args = transformers.TrainingArguments(str(folder() / name), **settings)
    model = llama()
    before = [weakref.ref(p) for p in model.parameters()]
    if way == "adamw":
        made = transformers.Trainer(model, args, train_dataset=Characters())
    else:
        made = trainer(model, args, Characters())
    if way == "divided":
        made.add_callback(DivideTheWork())
    made.train(resume_from_checkpoint=resume)
    return made, before


def losses(made: Any) -> list[float]:
    return [entry["loss"] for entry in made.state.log_history if "loss" in entry]


def outcome(kind: str, way: str) -> dict[str, Any]:
    """A run, its second half from the checkpoint, and what became of its parameters."""
    import torch.distributed as dist

    whole, before = run(kind, way, way)
    gc.collect()
    optimizer = whole.optimizer.optimizer
    result = {
        "losses": losses(whole),
        "alive": sum(ref() is not None for ref in before),
        "originals": len(before),
        "groups": len(optimizer.param_groups),
        "param": type(optimizer.param_groups[0]["params"][0]).__name__,
        "divided": getattr(optimizer, "_replicas", None) is not None,
        "sums": sums(whole.model),
    }
    dist.barrier()
    again, _ = run(kind, way, f"{way}-again", str(folder() / way / f"checkpoint-{HALF}"))
    return {**result, "again": losses(again)}


def main() -> None:
    """Each way of a kind."""
    kind = sys.argv[1]
    if kind == "fsdp2":
        let_processors_shard()
    report({way: outcome(kind, way) for way in WAYS[kind]})


def sums(model: Any) -> list[float]:
    """A number for each parameter, the same on all ranks if these agree."""
    return [
        float((p.full_tensor() if hasattr(p, "full_tensor") else p).detach().double().sum())
        for p in model.parameters()
    ]


if __name__ == "__main__":
    main()
