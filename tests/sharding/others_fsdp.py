"""Rows of the table of other people's meshes: FSDP2 in its settings, FSDP1."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FullyShardedDataParallel,
    MixedPrecisionPolicy,
    ShardingStrategy,
    fully_shard,
)
from torch.distributed.tensor import Shard

import steepest
from tests.sharding.models import Spread, mesh, sharded
from tests.sharding.others_row import (
    Outcome,
    Row,
    alone,
    built,
    local,
    muon,
    refusal,
    train,
    weights,
)

TOPIC = "FSDP2"


def fsdp(rank: int, world: int, *, name: str = "gpt", **options: Any) -> Outcome:
    """A model under fully_shard, unit by unit and then the root."""
    model = built(name)
    for unit in model.units:
        fully_shard(model.get_submodule(unit), mesh=mesh(dp=world), **options)
    fully_shard(model, mesh=mesh(dp=world), **options)
    return train(Spread(model, model, rank, world), muon(model))


def hsdp(rank: int, world: int) -> Outcome:
    """Replicas of shards."""
    model = sharded(built("gpt"), mesh(replicate=world // 2, shard=2))
    return train(Spread(model, model, rank, world), muon(model))


def hybrid(rank: int, world: int) -> Outcome:
    """Replicas whose gradients the caller has made different."""
    model = sharded(built("gpt"), mesh(replicate=2, shard=world // 2))
    run, optimizer = Spread(model, model, rank, world), muon(model)
    run.loss(0, torch.float64).backward()
    for p in model.parameters():
        local(_given(p)).mul_(1 + rank // (world // 2))
    return refusal(model, optimizer.step)


POLICIES = {
    "bfloat16, reduction in float32": MixedPrecisionPolicy(torch.bfloat16, torch.float32),
    "bfloat16 throughout": MixedPrecisionPolicy(
        torch.bfloat16, torch.bfloat16, output_dtype=torch.float32
    ),
    "float32, reduction in float64": MixedPrecisionPolicy(
        torch.float32, torch.float64, cast_forward_inputs=False
    ),
}


def mixed(rank: int, world: int, *, policy: MixedPrecisionPolicy) -> Outcome:
    """Parameters of float32 (the first two) or float64, gathered in a smaller type."""
    dtype = torch.float64 if policy.param_dtype == torch.float32 else torch.float32
    model = built("gpt", dtype)
    inner = replace(policy, output_dtype=None)
    for unit in model.units:
        fully_shard(model.get_submodule(unit), mesh=mesh(dp=world), mp_policy=inner)
    fully_shard(model, mesh=mesh(dp=world), mp_policy=policy)
    return train(Spread(model, model, rank, world), muon(model), dtype)


def mixed_alone(world: int, *, policy: MixedPrecisionPolicy) -> Outcome:
    """The same in one process: passes of a rounded copy of the model, one for each rank's share."""
    dtype = torch.float64 if policy.param_dtype == torch.float32 else torch.float32
    model, copy = built("gpt", dtype), built("gpt", policy.param_dtype)
    optimizer, losses = muon(model), []
    for step in range(5):
        with torch.no_grad():
            for p, q in zip(model.parameters(), copy.parameters(), strict=True):
                q.copy_(p)
        total = 0.0
        grads = [torch.zeros_like(p, dtype=policy.reduce_dtype) for p in model.parameters()]
        for share in range(world):
            copy.zero_grad()
            loss = _loss(copy, share, world, step, policy)
            loss.backward()
            total += loss.item() / world
            for grad, q in zip(grads, copy.parameters(), strict=True):
                grad += _given(q).to(policy.reduce_dtype)
        for p, grad in zip(model.parameters(), grads, strict=True):
            p.grad = (grad / world).to(dtype)
        optimizer.step()
        losses.append(total)
    return Outcome(losses, weights(model))


def _loss(copy: Any, share: int, world: int, step: int, policy: MixedPrecisionPolicy) -> Tensor:
    x, target = (t.chunk(world)[share] for t in copy.batch(step, torch.float64))
    out = copy(x)
    return copy.loss(out if policy.output_dtype is None else out.to(policy.output_dtype), target)


def _given(param: nn.Parameter) -> Tensor:
    assert param.grad is not None
    return param.grad


def ignored(rank: int, world: int) -> Outcome:
    """A hidden matrix and a gain that fully_shard is told to leave alone."""
    model = built("gpt")
    left = {model.up.weight, model.norm.weight}
    fully_shard(model.attention, mesh=mesh(dp=world))
    fully_shard(model, mesh=mesh(dp=world), ignored_params=left)

    def reduce() -> None:
        for p in left:
            dist.all_reduce(_given(p))
            _given(p).div_(world)

    return train(Spread(model, model, rank, world), muon(model), after=reduce)


def roots(rank: int, world: int) -> Outcome:
    """Every layer under a fully_shard of its own, and no root around them."""
    model = built("mlp")
    for layer in model.children():
        fully_shard(layer, mesh=mesh(dp=world))
    return train(Spread(model, model, rank, world), muon(model))


def meta(rank: int, world: int) -> Outcome:
    """Made on the meta device, sharded there, filled from a state dict; then the optimizer."""
    with torch.device("meta"):
        model = built("mlp")
    sharded(model, mesh(dp=world))
    model.to_empty(device="cpu")
    fill(model)
    return train(Spread(model, model, rank, world), muon(model))


def fill(model: nn.Module) -> None:
    """Give sharded parameters the values that they have in one process."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    options = StateDictOptions(full_state_dict=True)
    set_model_state_dict(model, built("mlp").state_dict(), options=options)


def meta_before(rank: int, world: int) -> Outcome:
    """The optimizer between fully_shard and to_empty, which exchanges the tensors themselves."""
    with torch.device("meta"):
        model = built("mlp")
    sharded(model, mesh(dp=world))
    optimizer = muon(model)
    model.to_empty(device="cpu")
    fill(model)
    return train(Spread(model, model, rank, world), optimizer)


def meta_replaced(rank: int, world: int) -> Outcome:
    """The optimizer before to_empty, without fully_shard: other parameters take their place."""
    with torch.device("meta"):
        model = built("mlp")
    optimizer = muon(model)
    model.to_empty(device="cpu")
    model.load_state_dict(built("mlp").state_dict())
    Spread(model, model, rank, world).loss(0, torch.float64).backward()
    return refusal(model, optimizer.step)


def before(rank: int, world: int, *, parts: bool) -> Outcome:
    """The optimizer is made first; then the model, or a part of it, is sharded."""
    model = built("gpt")
    optimizer = muon(model)
    if parts:
        fully_shard(model.attention, mesh=mesh(dp=world))
    else:
        sharded(model, mesh(dp=world))
    Spread(model, model, rank, world).loss(0, torch.float64).backward()
    return refusal(model, optimizer.step)


def before_bare(rank: int, world: int) -> Outcome:
    """The same from parameters alone, which do not tell their module: a warning, after 3 steps."""
    model = built("gpt")
    optimizer = muon(list(model.named_parameters()), overrides={"down.weight": "matrix"})
    sharded(model, mesh(dp=world))
    run, said = Spread(model, model, rank, world), ""
    for step in range(3):
        run.loss(step, torch.float64).backward()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            optimizer.step()
        said = next((str(w.message) for w in caught if "fully_shard" in str(w.message)), said)
    return Outcome([], {}, said=said or "nothing")


def lr_of_one(rank: int, world: int) -> Outcome:
    """Another learning rate on one rank."""
    model = sharded(built("gpt"), mesh(dp=world))
    optimizer = muon(model)
    optimizer.param_groups[0]["lr"] *= 1 + rank
    Spread(model, model, rank, world).loss(0, torch.float64).backward()
    return refusal(model, optimizer.step)


def fsdp1(
    rank: int,
    world: int,
    *,
    strategy: ShardingStrategy,
    original: bool,
    make: Callable[[nn.Module], torch.optim.Optimizer] = muon,
    late: bool = False,
) -> Outcome:
    """A model under FullyShardedDataParallel, wrapped before or after the optimizer is made."""
    model = built("mlp")
    found: list[torch.optim.Optimizer] = [make(model)] if late else []
    wrapped = wrap(model, strategy, original=original)
    run = Spread(wrapped, model, rank, world)

    def attempt() -> None:
        optimizer = found[0] if late else make(wrapped)
        run.loss(0, torch.float64).backward()
        optimizer.step()

    return refusal(wrapped, attempt)


def wrap(model: nn.Module, strategy: ShardingStrategy, *, original: bool) -> nn.Module:
    """FullyShardedDataParallel, which says that it is of the past, and that it needs a GPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return FullyShardedDataParallel(
            model,
            sharding_strategy=strategy,
            use_orig_params=original,
            device_id=torch.device("cpu"),
        )


def whole_fsdp1(rank: int, world: int) -> Outcome:
    """NO_SHARD with the original parameters, which are whole."""
    model = built("mlp")
    wrapped = wrap(model, ShardingStrategy.NO_SHARD, original=True)
    return train(Spread(wrapped, model, rank, world), muon(wrapped))


def _fsdp1_rows() -> list[Row]:
    full, grads, none = (
        ShardingStrategy.FULL_SHARD,
        ShardingStrategy.SHARD_GRAD_OP,
        ShardingStrategy.NO_SHARD,
    )
    name = "FSDP1"
    cases: list[tuple[str, dict[str, Any]]] = [
        ("`use_orig_params=True`", {"strategy": full, "original": True}),
        ("`use_orig_params=False`", {"strategy": full, "original": False}),
        ("`SHARD_GRAD_OP`", {"strategy": grads, "original": True}),
        ("`NO_SHARD`, `use_orig_params=False`", {"strategy": none, "original": False}),
        ("wrapped after the optimizer", {"strategy": full, "original": True, "late": True}),
        (
            "wrapped after it, `use_orig_params=False`",
            {"strategy": full, "original": False, "late": True},
        ),
        (
            "`Scion`, wrapped after it",
            {
                "strategy": full,
                "original": True,
                "late": True,
                "make": lambda m: steepest.Scion(m, lr=0.02),
            },
        ),
    ]
    rows = [
        Row(name, title, partial(fsdp1, **options), refused="(FSDP1)", fast=i < 2 or i > 3)
        for i, (title, options) in enumerate(cases)
    ]
    return [
        *rows,
        Row(name, "`NO_SHARD`, `use_orig_params=True`", whole_fsdp1, alone("mlp"), fast=True),
    ]


ROWS = (
    Row(TOPIC, "blocks and root", fsdp, alone("gpt")),
    *(
        Row(
            TOPIC,
            f"`reshard_after_forward={value}`",
            partial(fsdp, reshard_after_forward=value),
            alone("gpt"),
            fast=value == 2,
        )
        for value in (True, False, 2, None)
    ),
    *(
        Row(
            TOPIC,
            f"`MixedPrecisionPolicy`: {title}",
            partial(mixed, policy=policy),
            partial(mixed_alone, policy=policy),
            within=0.05 if title == "bfloat16 throughout" else 1e-4,  # sums in another order
            fast=title == "bfloat16, reduction in float32",
        )
        for title, policy in POLICIES.items()
    ),
    Row(TOPIC, "HSDP, replicas of shards", hsdp, alone("gpt"), fast=True),
    Row(
        TOPIC,
        "HSDP, gradients that replicas do not share",
        hybrid,
        refused="not the same on all ranks that hold copies",
        worlds=(4,),
    ),
    Row(
        TOPIC,
        "`CPUOffloadPolicy`",
        partial(fsdp, offload_policy=CPUOffloadPolicy(pin_memory=False)),
        alone("gpt"),
    ),
    Row(
        TOPIC,
        "`shard_placement_fn`: cut along columns",
        partial(fsdp, shard_placement_fn=lambda p: Shard(_even_axis(p))),
        alone("gpt"),
    ),
    Row(
        TOPIC,
        "rows that ranks do not divide, empty shards",
        partial(fsdp, name="mlp"),
        alone("mlp"),
    ),
    Row(TOPIC, "convolutions", partial(fsdp, name="conv"), alone("conv")),
    Row(TOPIC, "`ignored_params`, reduced by the caller", ignored, alone("gpt"), fast=True),
    Row(TOPIC, "several roots", roots, alone("mlp"), fast=True),
    Row(TOPIC, "meta device, `to_empty`, then the optimizer", meta, alone("mlp"), fast=True),
    Row(
        TOPIC,
        "meta device, `fully_shard`, the optimizer, `to_empty`",
        meta_before,
        alone("mlp"),
        fast=True,
    ),
    Row(
        TOPIC,
        "meta device, the optimizer, `to_empty`, without `fully_shard`",
        meta_replaced,
        refused="to_empty",
    ),
    Row(
        TOPIC,
        "the optimizer before `fully_shard`",
        partial(before, parts=False),
        refused="fully_shard",
        fast=True,
    ),
    Row(
        TOPIC,
        "the optimizer before `fully_shard` of a part",
        partial(before, parts=True),
        refused="fully_shard",
        fast=True,
    ),
    Row(
        TOPIC,
        "the same from bare parameters: a warning after three steps",
        before_bare,
        refused="fully_shard",
    ),
    Row(TOPIC, "another learning rate on one rank", lr_of_one, refused="lr=", fast=True),
    *_fsdp1_rows(),
)


def _even_axis(param: nn.Parameter) -> int:
    """An axis of a parameter that four ranks divide, the last if there is one; else the first."""
    return max((i for i, n in enumerate(param.shape) if n % 4 == 0), default=0)
