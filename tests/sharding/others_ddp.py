"""Rows of the table of other people's meshes: DDP, optimizers around ours, flattened groups."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.debugging_hooks import noop_hook
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel

import steepest
from tests.sharding.models import Spread
from tests.sharding.others_row import (
    STEPS,
    Outcome,
    Row,
    alone,
    built,
    muon,
    refusal,
    train,
    weights,
)

TOPIC = "DDP"


def ddp(
    rank: int,
    world: int,
    *,
    make: Callable[[nn.Module], torch.optim.Optimizer] = muon,
    **options: Any,
) -> Outcome:
    """The optimizer is made of the wrapped module, or of what is in it or around it."""
    model = built("gpt")
    module = DistributedDataParallel(model, **options)
    return train(Spread(module, model, rank, world), make(module))


def muon_of_parameters(module: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of the parameters of a wrapped module."""
    return muon(list(module.named_parameters()), overrides={"*down.weight": "matrix"})


def later(rank: int, world: int, *, group: bool = False) -> Outcome:
    """The optimizer is made first, and hears of the wrapped module or of its processes."""
    model = built("gpt")
    optimizer = muon(model)
    module = DistributedDataParallel(model)
    optimizer.set_replicas(dist.group.WORLD if group else module)
    return train(Spread(module, model, rank, world), optimizer)


class Sometimes(nn.Module):
    """A model of which a layer is not used in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.model = built("mlp")
        self.spare = nn.Linear(6, 6, dtype=torch.float64)
        self.used = False

    def forward(self, x: Tensor) -> Tensor:
        return self.model(self.spare(x) if self.used else x)


def sometimes(rank: int, world: int, *, wrapped: bool = True) -> Outcome:
    """A layer that the first rank alone uses, every other step."""
    torch.manual_seed(1)
    model = Sometimes()
    module = DistributedDataParallel(model, find_unused_parameters=True) if wrapped else model
    optimizer, losses = muon(module), []
    shares = 1 if wrapped else world
    for step in range(STEPS):
        optimizer.zero_grad()
        total = 0.0
        for share in [rank] if wrapped else range(world):
            model.used = share == 0 and step % 2 == 1
            x, target = (t.chunk(world)[share] for t in model.model.batch(step, torch.float64))
            loss = model.model.loss(module(x), target) / (1 if wrapped else world)
            loss.backward()
            total += loss.item()
        optimizer.step()
        losses.append(total)
    assert shares
    return Outcome(losses, weights(model))


def reduced(rank: int, world: int) -> Outcome:
    """Passes in no_sync, whose gradients the caller averages."""
    model = built("gpt")
    module = DistributedDataParallel(model)

    def average() -> None:
        for p in model.parameters():
            assert p.grad is not None
            dist.all_reduce(p.grad)
            p.grad /= world

    optimizer = muon(module)
    with module.no_sync():
        return train(Spread(module, model, rank, world), optimizer, after=average)


def logged(rank: int, world: int) -> Outcome:
    """A forward pass in no_sync before each step, without a backward one."""
    model = built("gpt")
    module = DistributedDataParallel(model)
    run = Spread(module, model, rank, world)

    def log() -> None:
        with module.no_sync():
            run.loss(9, torch.float64).item()

    return train(run, muon(module), after=log)


def at_once(rank: int, world: int) -> Outcome:
    """Two forward passes, the second in no_sync, and one backward pass of both, which averages."""
    model = built("gpt")
    module = DistributedDataParallel(model)
    optimizer, losses = muon(module), []
    for step in range(STEPS):
        optimizer.zero_grad()
        parts = []
        for half in range(2):
            quiet: AbstractContextManager[None] = module.no_sync() if half else nullcontext()
            with quiet:
                x, target = halves(model, step, half, rank, world)
                parts.append(model.loss(module(x), target) / 2)
        loss = parts[0] + parts[1]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return Outcome(losses, weights(model))


def accumulated(rank: int, world: int) -> Outcome:
    """Two passes for a step, the first of them in no_sync."""
    model = built("gpt")
    module = DistributedDataParallel(model)
    optimizer, losses = muon(module), []
    for step in range(STEPS):
        optimizer.zero_grad()
        losses.append(0.0)
        for half in range(2):
            quiet: AbstractContextManager[None] = module.no_sync() if half == 0 else nullcontext()
            with quiet:
                x, target = halves(model, step, half, rank, world)
                loss = model.loss(module(x), target) / 2
                loss.backward()
            losses[-1] += loss.item()
        optimizer.step()
    return Outcome(losses, weights(model))


def halves(model: Any, step: int, half: int, rank: int, world: int) -> tuple[Tensor, Tensor]:
    """One half of a batch of twice as many examples, cut among the ranks."""
    return tuple(t.chunk(world)[rank] for t in model.batch(10 * step + half, torch.float64))  # type: ignore[return-value]


def accumulated_alone(_: int) -> Outcome:
    """The same in one process."""
    model = built("gpt")
    optimizer, losses = muon(model), []
    for step in range(STEPS):
        optimizer.zero_grad()
        losses.append(0.0)
        for half in range(2):
            x, target = halves(model, step, half, 0, 1)
            loss = model.loss(model(x), target) / 2
            loss.backward()
            losses[-1] += loss.item()
        optimizer.step()
    return Outcome(losses, weights(model))


def unsynced(
    rank: int,
    world: int,
    *,
    inside: bool,
    first: bool,
    make: Callable[[nn.Module], torch.optim.Optimizer] = muon,
) -> Outcome:
    """Gradients of this rank alone: stepped in no_sync or after it, first or after a right step."""
    model = built("gpt")
    module = DistributedDataParallel(model)
    run, optimizer = Spread(module, model, rank, world), make(module)
    if not first:
        run.loss(0, torch.float64).backward()
        optimizer.step()

    def attempt() -> None:
        with module.no_sync():
            run.loss(1, torch.float64).backward()
            if inside:
                optimizer.step()
        with torch.no_grad():
            run.loss(2, torch.float64)  # an evaluation between changes nothing
        optimizer.step()

    return refusal(model, attempt)


def one_rank_unsynced(rank: int, world: int) -> Outcome:
    """The first rank alone has run its passes in no_sync: the others hear of it."""
    model = built("gpt")
    module = DistributedDataParallel(model)
    run, optimizer = Spread(module, model, rank, world), muon(module)
    run.loss(0, torch.float64).backward()
    optimizer.step()
    optimizer.zero_grad()
    with module.no_sync():
        run.loss(1, torch.float64).backward()
    if rank:  # as if it had averaged
        optimizer._copies[0]._sync.averages = True
    return refusal(model, optimizer.step)


def around(rank: int, world: int, *, hook: bool) -> Outcome:
    """Passes that never average: through the module inside, or with a hook that does nothing."""
    model = built("gpt")
    module = DistributedDataParallel(model)
    if hook:
        module.register_comm_hook(None, noop_hook)  # type: ignore[arg-type]
    optimizer = muon(module)
    Spread(module if hook else model, model, rank, world).loss(0, torch.float64).backward()
    return refusal(model, optimizer.step)


def compressed(rank: int, world: int) -> Outcome:
    """Gradients that are averaged in half precision: the ranks stay alike."""
    model = built("gpt")
    module = DistributedDataParallel(model)
    module.register_comm_hook(None, fp16_compress_hook)  # type: ignore[arg-type]
    return train(Spread(module, model, rank, world), muon(module))


def compressed_alone(world: int) -> Outcome:
    """The same in one process, which rounds what each rank would send."""
    model, losses = built("gpt"), []
    optimizer = muon(model)
    for step in range(STEPS):
        sums, total = [torch.zeros_like(p) for p in model.parameters()], 0.0
        for share in range(world):
            model.zero_grad()
            loss = Spread(model, model, share, world).loss(step, torch.float64)
            loss.backward()
            total += loss.item() / world
            for each, p in zip(sums, model.parameters(), strict=True):
                assert p.grad is not None
                each += p.grad.to(torch.float16) / world
        for each, p in zip(sums, model.parameters(), strict=True):
            p.grad = each.to(torch.float16).to(p.dtype)
        optimizer.step()
        losses.append(total)
    return Outcome(losses, weights(model))


def joined(rank: int, world: int, *, alone: bool) -> Outcome:
    """DistributedDataParallel.join; the ranks may be told to compute everything for themselves."""
    model = built("gpt")
    module = DistributedDataParallel(model)
    run, optimizer = Spread(module, model, rank, world), muon(module)
    if not alone:

        def attempt() -> None:
            with module.join():
                run.loss(0, torch.float64).backward()
                optimizer.step()

        return refusal(model, attempt)
    optimizer.set_replicas(None)
    with module.join():
        return train(run, optimizer)


def lr_of_one(rank: int, world: int, *, first: bool = True) -> Outcome:
    """Another learning rate on one rank, in the first step or after a right one."""
    model = built("gpt")
    module = DistributedDataParallel(model)
    run, optimizer = Spread(module, model, rank, world), muon(module)
    run.loss(0, torch.float64).backward()
    if not first:
        optimizer.step()
        run.loss(1, torch.float64).backward()
    optimizer.param_groups[0]["lr"] *= 1 + rank
    return refusal(model, optimizer.step)


ROWS = (
    Row(TOPIC, "the wrapped module is given", ddp, alone("gpt")),
    Row(TOPIC, "parameters are given", partial(ddp, make=muon_of_parameters), alone("gpt")),
    Row(
        TOPIC,
        "`torch.compile` of the wrapped module is given",
        partial(ddp, make=lambda module: muon(torch.compile(module, backend="eager"))),
        alone("gpt"),
    ),
    Row(TOPIC, "wrapped later, `set_replicas(module)`", later, alone("gpt")),
    Row(TOPIC, "`set_replicas(process_group)`", partial(later, group=True), alone("gpt")),
    Row(TOPIC, "`static_graph`", partial(ddp, static_graph=True), alone("gpt")),
    Row(
        TOPIC,
        "`gradient_as_bucket_view`",
        partial(ddp, gradient_as_bucket_view=True),
        alone("gpt"),
    ),
    Row(
        TOPIC,
        "`find_unused_parameters`, a layer used on one rank",
        sometimes,
        lambda world: sometimes(0, world, wrapped=False),
        fast=True,
    ),
    Row(TOPIC, "a hook that compresses gradients", compressed, compressed_alone, within=0.05),
    Row(TOPIC, "accumulation in `no_sync`", accumulated, accumulated_alone, fast=True),
    Row(TOPIC, "passes in `no_sync`, reduced by the caller", reduced, alone("gpt"), fast=True),
    Row(TOPIC, "a forward pass alone in `no_sync`", logged, alone("gpt"), fast=True),
    Row(
        TOPIC,
        "one backward pass of two forward passes, the second in `no_sync`",
        at_once,
        accumulated_alone,
        fast=True,
    ),
    Row(
        TOPIC,
        "a step inside `no_sync`",
        partial(unsynced, inside=True, first=True),
        refused="no_sync",
        fast=True,
    ),
    Row(
        TOPIC,
        "a later step inside `no_sync`",
        partial(unsynced, inside=True, first=False),
        refused="no_sync",
    ),
    Row(
        TOPIC,
        "a step whose last pass was in `no_sync`",
        partial(unsynced, inside=False, first=False),
        refused="no_sync",
        fast=True,
    ),
    Row(
        TOPIC,
        "the same with a norm of entries",
        partial(
            unsynced, inside=False, first=False, make=lambda module: steepest.Lion(module, lr=1e-3)
        ),
        refused="no_sync",
        fast=True,
    ),
    Row(
        TOPIC,
        "the same from parameters of the wrapped module",
        partial(unsynced, inside=False, first=False, make=muon_of_parameters),
        refused="no_sync",
        fast=True,
    ),
    Row(TOPIC, "the same on one rank", one_rank_unsynced, refused="no_sync|missing", fast=True),
    Row(
        TOPIC,
        "passes through the module inside",
        partial(around, hook=False),
        refused="not the same on all ranks that hold copies",
        fast=True,
    ),
    Row(
        TOPIC,
        "a communication hook that averages nothing",
        partial(around, hook=True),
        refused="not the same on all ranks that hold copies",
    ),
    Row(TOPIC, "`join`", partial(joined, alone=False), refused="join", fast=True),
    Row(
        TOPIC, "`join`, `set_replicas(None)`", partial(joined, alone=True), alone("gpt"), fast=True
    ),
    Row(TOPIC, "another learning rate on one rank", lr_of_one, refused="lr=", fast=True),
    Row(
        TOPIC,
        "another learning rate on one rank, in a later step",
        partial(lr_of_one, first=False),
        refused="lr=",
        fast=True,
    ),
)
