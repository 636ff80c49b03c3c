"""DeepSpeed's engine around an optimizer in two processes: what it says, or the losses.

python -m tests.frameworks.scripts.deepspeed_run STAGE OPTIMIZER [init]
"""

from __future__ import annotations

import contextlib
import os
import sys

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed
import torch
from torch import nn

import steepest
from tests.frameworks.processes import WAIT, report

STEPS = 20


def losses(stage: int, optimizer: str, inside: bool) -> list[float]:
    """The losses of a small regression under a stage of ZeRO; `inside` its context for models."""
    deepspeed.init_distributed(dist_backend="gloo", timeout=WAIT, verbose=False)
    torch.manual_seed(0)
    config = {
        "train_micro_batch_size_per_gpu": 8,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
    }
    with deepspeed.zero.Init(config_dict_or_path=config) if inside else contextlib.nullcontext():
        model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
    made = getattr(steepest, optimizer)(model, lr=0.02)
    engine = deepspeed.initialize(model=model, optimizer=made, config=config)[0]
    generator = torch.Generator().manual_seed(int(os.environ["RANK"]))
    x = torch.randn(8, 16, generator=generator)
    found = []
    for _ in range(STEPS):
        loss = (engine(x) - x).square().mean()
        engine.backward(loss)
        engine.step()
        found.append(loss.item())
    return found


if __name__ == "__main__":
    try:
        report({"losses": losses(int(sys.argv[1]), sys.argv[2], "init" in sys.argv)})
    except ValueError as error:
        report({"refused": str(error)})
