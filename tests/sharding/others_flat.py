"""Rows of the table of other people's meshes: optimizers around ours, and groups they flatten."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import steepest
from steepest.polar import Svd
from tests.sharding.models import Spread
from tests.sharding.others_row import Outcome, Row, built, muon, refusal, train


def zero(rank: int, world: int, *, kind: str) -> Outcome:
    """ZeroRedundancyOptimizer, which gives each rank some of the parameters."""
    model = built("gpt")
    module = DistributedDataParallel(model)
    options = dict(ZERO[kind])
    params: Any = list(model.parameters())
    if kind == "Muon":
        routed = steepest.route(model).groups()
        params = [{**group, "params": [p for _, p in group["params"]]} for group in routed]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's, and ours of what it writes into the groups
        from torch.distributed.optim import ZeroRedundancyOptimizer

        optimizer = ZeroRedundancyOptimizer(params, getattr(steepest, kind), **options)
    return train(Spread(module, model, rank, world), optimizer)


ZERO: dict[str, dict[str, Any]] = {
    "Muon": {"lr": 0.02, "momentum": 0.9, "polar": Svd(), "adamw_lr": 0.01, "weight_decay": 0.1},
    "SignSGD": {"lr": 0.003},
    "NormalizedSGD": {"lr": 0.05},
}


def zero_alone(_: int, *, kind: str) -> Outcome:
    """The optimizer itself, in one process."""
    model = built("gpt")
    make: Any = getattr(steepest, kind)
    return train(Spread(model, model, 0, 1), make(model, **ZERO[kind]))


def flattened(
    rank: int,
    world: int,
    *,
    stage: int,
    make: Callable[[nn.Module], torch.optim.Optimizer] = muon,
) -> Outcome:
    """What DeepSpeed does with the groups of an optimizer that it is given, by its own code.

    Stages 1 and 2 put this rank's part of a flat copy into each group, and take a step with zeros
    for a gradient at once (deepspeed/runtime/zero/stage_1_and_2.py). Stage 3 steps its parts one by
    one, with all other groups empty (stage3.py).
    """
    model = built("gpt")
    optimizer = make(model)

    def attempt() -> None:
        parts = []
        for group in optimizer.param_groups:
            flat = torch.cat([p.detach().reshape(-1) for p in group["params"]])
            part = flat.chunk(world)[rank].clone().float().requires_grad_()
            part.grad = torch.zeros_like(part)
            parts.append(part)
            group["params"] = [part] if stage < 3 else []
        if stage == 3:
            for group, part in zip(optimizer.param_groups, parts, strict=True):
                group["params"] = [part]
                optimizer.step()
                group["params"] = []
        optimizer.step()

    return refusal(model, attempt)


def partitioned(rank: int, world: int) -> Outcome:
    """Parameters as deepspeed.zero.Init leaves them: empty, with their shapes beside them."""
    model = built("gpt")
    for p in model.parameters():
        p.ds_shape, p.data = p.shape, torch.empty(0, dtype=p.dtype)  # type: ignore[attr-defined]
    return refusal(model, lambda: muon(model).step())


ROWS = (
    *(
        Row(
            "ZeroRedundancyOptimizer",
            f"`optimizer_class=steepest.{kind}`",
            partial(zero, kind=kind),
            partial(zero_alone, kind=kind),
            fast=kind == "NormalizedSGD",
        )
        for kind in ZERO
    ),
    *(
        Row(
            "DeepSpeed",
            f"ZeRO stage {stages}, its groups as its code leaves them",
            partial(flattened, stage=stage),
            refused="ZeRO",
            fast=True,
        )
        for stage, stages in ((2, "1 or 2"), (3, "3"))
    ),
    Row(
        "DeepSpeed",
        "`NormalizedSGD` under ZeRO",
        partial(flattened, stage=2, make=lambda m: steepest.NormalizedSGD(m, lr=0.1)),
        refused="ZeRO",
        fast=True,
    ),
    Row("DeepSpeed", "`zero.Init` (stage 3)", partitioned, refused="ZeRO", fast=True),
)
