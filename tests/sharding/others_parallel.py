"""Rows of the table of other people's meshes: parts of layers, experts, stages of a pipeline."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

from tests.sharding.models import Experts, Gpt, Mixture, Spread, mesh, spread
from tests.sharding.others_row import STEPS, Outcome, Row, alone, built, muon, train, weights


def parts(rank: int, world: int, *, layout: str, name: str = "gpt") -> Outcome:
    """Tensor parallelism, by itself or under FSDP2."""
    run = spread(name, layout, rank, world, torch.float64)
    return train(run, muon(run.module))


class Even(Gpt):
    """A context that four ranks divide: torch takes parts of a sequence for equally long."""

    context = 8


def even() -> Even:
    """The same on every rank."""
    torch.manual_seed(0)
    return Even().double()


def sequence(rank: int, world: int) -> Outcome:
    """Tensor parallelism; between its layers each rank has a part of the tokens."""
    model = even()
    cut: dict[str, Any] = {"input_layouts": Shard(1)}
    plan = {
        "embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
        "norm": SequenceParallel(),
        "attention.qkv": ColwiseParallel(**cut, output_layouts=Replicate()),
        "attention.out": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
        "up": ColwiseParallel(**cut),
        "down": RowwiseParallel(output_layouts=Shard(1)),
        "lm_head": ColwiseParallel(**cut, output_layouts=Replicate()),
    }
    parallelize_module(model, mesh(tp=world), plan)
    model.tie()
    return train(Spread(model, model, 0, 1), muon(model))


def sequence_alone(_: int) -> Outcome:
    """The same in one process."""
    model = even()
    return train(Spread(model, model, 0, 1), muon(model))


def cut_experts(experts: nn.Module, mesh: DeviceMesh) -> None:
    """Give each rank of a mesh some of the experts, whole ones."""

    def cut(_: str, module: nn.Module, mesh: DeviceMesh) -> None:
        for name, p in list(module.named_parameters(recurse=False)):
            cut = distribute_tensor(p.detach(), mesh, [Shard(0)], src_data_rank=None)
            setattr(module, name, nn.Parameter(cut))

    distribute_module(
        experts,
        mesh,
        cut,
        lambda _, inputs, mesh: tuple(DTensor.from_local(x, mesh, [Replicate()]) for x in inputs),
        lambda _, out, mesh: out.redistribute(placements=[Replicate()]).to_local(),
    )


def experts(rank: int, world: int) -> Outcome:
    """Experts on a mesh of their own; the rest under fully_shard on another."""
    model = built("mixture")
    cut_experts(model.experts, mesh(ep=world))
    fully_shard(model, mesh=mesh(dp=world), ignored_params=set(model.experts.parameters()))
    return train(Spread(model, model, 0, 1), muon(model))


def wide() -> Mixture:
    """Experts whose hidden axis two ranks divide, which FSDP asks for."""
    torch.manual_seed(0)
    model = Mixture()
    model.experts = Experts(4, 6, 8)
    return model.double()


def wide_alone(_: int) -> Outcome:
    """The same in one process."""
    model = wide()
    return train(Spread(model, model, 0, 1), muon(model))


def experts_under_fsdp(rank: int, world: int, *, axis: int) -> Outcome:
    """Experts cut by both, as torchtitan does: along two axes, or twice along the first."""
    model, both = wide(), mesh(dp=world // 2, ep=2)
    cut_experts(model.experts, both["ep"])
    fully_shard(model.experts, mesh=both["dp"], shard_placement_fn=lambda _: Shard(axis))
    fully_shard(model, mesh=both["dp"])
    return train(Spread(model, model, rank // 2, world // 2), muon(model))


class Block(nn.Module):
    """A hidden layer that is added to what comes in."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(x)))


class Layers(nn.Module):
    """An embedding, two blocks and a head; a stage of a pipeline lacks some of them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding: nn.Module | None = nn.Embedding(11, 8)
        self.blocks = nn.ModuleDict({str(i): Block(8, 12) for i in range(2)})
        self.lm_head: nn.Module | None = nn.Linear(8, 11, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.embedding is None else self.embedding(x)
        for block in self.blocks.values():
            x = block(x)
        return x if self.lm_head is None else self.lm_head(x)


def layers() -> Layers:
    """The layers of all stages, the same on every rank."""
    torch.manual_seed(0)
    return Layers().double()


def stage(number: int, of: int) -> Layers:
    """One stage of two or four: of four, the first and the last have no hidden matrix."""
    model = layers()
    kept = {"0": 0 if of == 2 else 1, "1": of // 2}
    for name, home in kept.items():
        if number != home:
            del model.blocks[name]
    if number:
        model.embedding = None
    if number < of - 1:
        model.lm_head = None
    return model


def tokens(step: int, share: int = 0, shares: int = 1) -> tuple[Tensor, Tensor]:
    """The batch of a step, or a share of it."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randint(11, (16, 5), generator=generator).chunk(shares)[share]
    return x, (3 * x + 1) % 11


def loss_of(out: Tensor, target: Tensor) -> Tensor:
    """The mean over tokens."""
    return F.cross_entropy(out.flatten(0, 1), target.flatten())


def pipeline(
    rank: int,
    world: int,
    *,
    schedule: Callable[..., Any] = ScheduleGPipe,
    inner: str = "",
    bare: bool = False,
) -> Outcome:
    """Every rank has a stage; with `inner` two of them have one stage together."""
    stages = world // 2 if inner else world
    number = rank // 2 if inner else rank
    grid = mesh(pp=stages, dp=2) if inner else mesh(pp=world)
    part = module = stage(number, stages)
    if inner == "fsdp":
        fully_shard(part, mesh=grid["dp"])
    elif inner == "ddp":
        # Without the flag torch rebuilds its buckets within no_sync, and fails.
        module = DistributedDataParallel(  # type: ignore[assignment]
            part, process_group=grid["dp"].get_group(), find_unused_parameters=True
        )
    with warnings.catch_warnings():
        # A stage without a matrix says so, and of the last layer of another it is asked whether it
        # is a head.
        warnings.filterwarnings("ignore", "no parameter here is a hidden matrix")
        warnings.filterwarnings("ignore", "the routing had to guess")
        warnings.filterwarnings("ignore", ".*by their names they are embeddings or output heads")
        optimizer = muon(list(part.named_parameters()) if bare else module)
    group = grid["pp"].get_group() if inner else grid.get_group()
    run = schedule(
        PipelineStage(module, number, stages, torch.device("cpu"), group=group), 4, loss_of
    )
    losses, share, shares = [], rank % 2 if inner else 0, 2 if inner else 1
    for step in range(STEPS):
        optimizer.zero_grad()
        x, target = tokens(step, share, shares)
        found: list[Tensor] = []
        if number == 0:
            run.step(x)
        elif number == stages - 1:
            run.step(target=target, losses=found)
        else:
            run.step()
        optimizer.step()
        if found:
            losses.append(torch.stack(found).mean().item())
    return Outcome(losses, weights(part))


def pipeline_alone(_: int) -> Outcome:
    """All layers in one process."""
    model = layers()
    optimizer, losses = muon(model), []
    for step in range(STEPS):
        optimizer.zero_grad()
        x, target = tokens(step)
        loss = loss_of(model(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return Outcome(losses, weights(model))


TENSORS, EXPERTS, PIPELINE = "Tensor parallelism", "Expert parallelism", "Pipeline"

ROWS = (
    Row(TENSORS, "columns and rows in turn", partial(parts, layout="tp"), alone("gpt")),
    Row(
        TENSORS,
        "experts cut along their hidden axis",
        partial(parts, layout="tp", name="mixture"),
        alone("mixture"),
    ),
    Row(TENSORS, "with `SequenceParallel`", sequence, sequence_alone, fast=True),
    Row(TENSORS, "under `fully_shard`", partial(parts, layout="fsdp+tp"), alone("gpt"), fast=True),
    Row(
        EXPERTS,
        "`Shard(0)` on a mesh of their own, the rest under `fully_shard`",
        experts,
        alone("mixture"),
        fast=True,
    ),
    Row(
        EXPERTS,
        "`Shard(1) × Shard(0)`, under `fully_shard`",
        partial(experts_under_fsdp, axis=1),
        wide_alone,
    ),
    Row(
        EXPERTS,
        "`_StridedShard(0) × Shard(0)`, under `fully_shard`",
        partial(experts_under_fsdp, axis=0),
        wide_alone,
    ),
    Row(PIPELINE, "`ScheduleGPipe`", pipeline, pipeline_alone, fast=True),
    Row(PIPELINE, "`Schedule1F1B`", partial(pipeline, schedule=Schedule1F1B), pipeline_alone),
    Row(PIPELINE, "named parameters of a stage", partial(pipeline, bare=True), pipeline_alone),
    Row(
        PIPELINE,
        "stages under `fully_shard`",
        partial(pipeline, inner="fsdp"),
        pipeline_alone,
        worlds=(4,),
    ),
    Row(PIPELINE, "stages under DDP", partial(pipeline, inner="ddp"), pipeline_alone, worlds=(4,)),
)
