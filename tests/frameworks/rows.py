"""What is tested with each framework: the rows of the table in docs/frameworks.md.

A test shows rows by the mark `row("name", …)`. The answer is what a user has to write.
"""

from __future__ import annotations

from typing import NamedTuple

FRAMEWORKS = {
    "transformers": "transformers",
    "accelerate": "accelerate",
    "TRL": "trl",
    "sentence-transformers": "sentence-transformers",
    "PEFT": "peft",
    "Lightning": "lightning",
    "timm": "timm",
    "ignite": "pytorch-ignite",
    "skorch": "skorch",
    "stable-baselines3": "stable_baselines3",
    "fastai": "fastai",
    "ultralytics": "ultralytics",
    "Hydra": "hydra-core",
}
"""The name of each framework and that of its distribution."""


class Row(NamedTuple):
    """One use of a framework."""

    framework: str
    use: str
    answer: str


AS_IS, LINE, TRAP = "as it is", "the recipe", "runs, see traps"
REFUSED = "refused, with the line to write"

ROWS = {
    "trainer-factory": Row("transformers", "Trainer with a factory", LINE),
    "trainer-optimizers": Row("transformers", "Trainer with `optimizers=`", AS_IS),
    "trainer-subclass": Row("transformers", "Trainer with `create_optimizer`", LINE),
    "trainer-class": Row("transformers", "Trainer with only the class", REFUSED),
    "trainer-lion": Row("transformers", "`Lion`, a norm of entries, by its class", AS_IS),
    "trainer-resume": Row("transformers", "saved and resumed", AS_IS),
    "trainer-settings": Row(
        "transformers", "accumulation, clipping, bf16, gradient checkpointing", AS_IS
    ),
    "trainer-low-precision": Row("transformers", "parameters in bfloat16", AS_IS),
    "trainer-schedulers": Row("transformers", "linear, cosine, polynomial, inverse √", AS_IS),
    "trainer-learning-rate": Row(
        "transformers", "learning rate and decay of `TrainingArguments`", TRAP
    ),
    "trainer-log": Row("transformers", "the learning rate in the log", TRAP),
    "trainer-checkpoint-numbers": Row("transformers", "another learning rate after resuming", TRAP),
    "trainer-monitor": Row("transformers", "`Monitor`, `constraint_report`", AS_IS),
    "trainer-ddp": Row("transformers", "DDP, 2 processes", AS_IS),
    "trainer-ddp-divided": Row("transformers", "DDP, work divided", LINE),
    "trainer-fsdp2": Row("transformers", "FSDP2, 2 processes, sharded checkpoints", AS_IS),
    "trainer-fsdp2-memory": Row("transformers", "FSDP2, no full copy stays in memory", AS_IS),
    "accelerate": Row("accelerate", "prepare, save and load, accumulation, bf16", AS_IS),
    "accelerate-instruments": Row("accelerate", "`Monitor`, `constraint_report`", AS_IS),
    "accelerate-ddp": Row("accelerate", "DDP, 2 processes, work divided", LINE),
    "accelerate-fsdp2": Row("accelerate", "FSDP2, 2 processes, sharded checkpoints", LINE),
    "trl-sft": Row("TRL", "SFTTrainer", LINE),
    "trl-adapters": Row("TRL", "SFTTrainer with a PEFT configuration", LINE),
    "trl-adapters-before": Row("TRL", "the same, with an optimizer made before", TRAP),
    "sentence-transformers": Row("sentence-transformers", "its trainer", LINE),
    "peft-adapters": Row("PEFT", "LoRA, DoRA, rank-stabilised LoRA", LINE),
    "peft-head": Row("PEFT", "a trained head, adapters of embeddings", LINE),
    "peft-rank-one": Row("PEFT", "LoRA of rank 1, IA³", TRAP),
    "peft-resume": Row("PEFT", "adapters and optimizer saved and resumed", AS_IS),
    "lightning-module": Row("Lightning", "`configure_optimizers`", LINE),
    "lightning-resume": Row("Lightning", "saved and resumed", AS_IS),
    "lightning-settings": Row("Lightning", "clipping, accumulation, bf16, float64", AS_IS),
    "lightning-monitors": Row("Lightning", "LearningRateMonitor", AS_IS),
    "lightning-finetuning": Row("Lightning", "BackboneFinetuning", AS_IS),
    "lightning-averages": Row("Lightning", "StochasticWeightAveraging, EMA", TRAP),
    "lightning-instruments": Row("Lightning", "`Monitor` in a callback", AS_IS),
    "lightning-cli": Row("Lightning", "LightningCLI with `OptimizerCallable`", LINE),
    "lightning-cli-parameters": Row("Lightning", "LightningCLI `--optimizer`", REFUSED),
    "lightning-ddp": Row("Lightning", "DDP, 2 processes", AS_IS),
    "lightning-ddp-divided": Row("Lightning", "DDP, work divided", LINE),
    "lightning-ddp-replicas": Row("Lightning", "the same by `set_replicas`", LINE),
    "lightning-fsdp2": Row("Lightning", "ModelParallelStrategy (FSDP2), 2 processes", AS_IS),
    "timm-models": Row("timm", "ViT, ConvNeXt, EfficientNet, ResNet", AS_IS),
    "timm-registry": Row("timm", "`create_optimizer_v2`", LINE),
    "timm-registry-defaults": Row("timm", "its momentum and decay", TRAP),
    "timm-registry-parameters": Row("timm", "`create_optimizer_v2` without a routing", REFUSED),
    "timm-layer-decay": Row("timm", "layer-wise decay of the learning rate", LINE),
    "timm-scheduler": Row("timm", "its schedulers", TRAP),
    "timm-helpers": Row("timm", "averages, adaptive clipping", AS_IS),
    "timm-resume": Row("timm", "saved and resumed", AS_IS),
    "ignite": Row("ignite", "a trainer, a scheduler of torch, Checkpoint", LINE),
    "ignite-scheduler": Row("ignite", "its parameter schedulers", TRAP),
    "skorch": Row("skorch", "a net that creates its optimizer, save and load", LINE),
    "skorch-rate": Row("skorch", "`set_params(lr=…)`", TRAP),
    "skorch-class": Row("skorch", "only the class", 'refused, or `unrouted="adamw"`'),
    "sb3-policy": Row(
        "stable-baselines3", "a policy that creates its optimizer, save and load", LINE
    ),
    "sb3-rate": Row("stable-baselines3", "its learning rate", TRAP),
    "sb3-class": Row("stable-baselines3", "PPO, DQN, SAC with only the class", REFUSED),
    "sb3-unrouted": Row("stable-baselines3", 'the same with `unrouted="adamw"`', LINE),
    "fastai": Row("fastai", "a learner, one cycle", LINE),
    "fastai-rate": Row("fastai", "the learning rate of `fit`", TRAP),
    "fastai-resume": Row("fastai", "saved with its optimizer", AS_IS),
    "ultralytics": Row("ultralytics", "an image trainer", LINE),
    "ultralytics-name": Row("ultralytics", "`optimizer=` by name", "refused: a closed list"),
    "ultralytics-detection": Row("ultralytics", "the outputs of a detector", AS_IS),
    "ultralytics-attention": Row("ultralytics", "its attention, head by head", LINE),
    "hydra": Row("Hydra", "`instantiate` with the module", LINE),
    "schedules": Row("torch", "OneCycleLR, SWALR", TRAP),
    "averages": Row("torch", "AveragedModel", AS_IS),
}
"""Every row, by the name that tests give it."""
