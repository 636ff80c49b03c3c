"""Small models of every kind of parameter, their data, and ways to spread them over processes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

EXAMPLES = 8
"""The batch of all ranks together; the share of each of 1, 2, 4 or 8 has whole examples."""


class Model(nn.Module):
    """A model with its loss; `units` are the parts that FSDP gathers one by one."""

    units: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[tuple[int, ...]] = (6,)

    def tie(self) -> None:
        """Make shared weights one again, after each place has got its own DTensor."""

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        """The mean over the examples, so that that of equal shares is that of all."""
        return (out - target).square().mean()

    def batch(self, step: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The inputs and targets of all ranks together: a function of the step alone."""
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(EXAMPLES, *self.inputs, generator=generator, dtype=torch.float64)
        return x.to(dtype), torch.stack([x.flatten(1).sum(1), x.flatten(1)[:, 0]], 1).to(dtype)


class Mlp(Model):
    """No size that two or four divides; a layer of three rows leaves a fourth rank without any.

    The gradient of the second layer has at most the rank of the batch, which is below its sizes.
    """

    units = ("second",)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 13)
        self.second = nn.Linear(13, 11)
        self.third = nn.Linear(11, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.third(self.second(self.first(x).tanh()).tanh()).tanh())


class Gpt(Model):
    """Fused query, key and value; the head shares its weight with the embedding."""

    units = ("attention",)
    width, vocabulary, heads, context = 8, 11, 2, 5

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(self.vocabulary, self.width)
        self.norm = nn.LayerNorm(self.width)
        self.attention = Attention(self.width, self.heads)
        self.up = nn.Linear(self.width, 12)
        self.down = nn.Linear(12, self.width)
        self.lm_head = nn.Linear(self.width, self.vocabulary, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.2)
        self.tie()

    def tie(self) -> None:
        self.lm_head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        x = x + self.attention(self.norm(x))
        return self.lm_head(x + self.down(F.gelu(self.up(x))))

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(out.flatten(0, 1), target.flatten())

    def batch(self, step: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step)
        shape = EXAMPLES, self.context
        x = torch.randint(self.vocabulary, shape, generator=generator)
        return x, (3 * x + 1) % self.vocabulary


class Attention(nn.Module):
    """Causal, with one projection for query, key and value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p.unflatten(-1, (self.heads, -1)).mT for p in self.qkv(x).chunk(3, -1))
        q, k, v = (p.movedim(-1, -3) for p in (q, k, v))
        scores = (q @ k.mT).tril().softmax(-1)
        return self.out((scores @ v).movedim(-3, -1).mT.flatten(-2))


class Conv(Model):
    """Two convolutions, five and three filters, and a head."""

    units = ("second",)
    inputs = (2, 5, 5)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 5, 3)
        self.second = nn.Conv2d(5, 3, 2)
        self.hidden = nn.Linear(12, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.second(self.first(x).tanh()).tanh().flatten(1)).tanh())


class Mixture(Model):
    """Four stacked experts, all of which see every example, weighed by a router."""

    units = ("experts",)

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 4)
        self.experts = Experts(4, 6, 5)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(
            x + torch.einsum("be,ebd->bd", self.router(x).softmax(-1), self.experts(x))
        )


class Experts(nn.Module):
    """Three-dimensional weights: experts × out × in."""

    def __init__(self, count: int, width: int, hidden: int) -> None:
        super().__init__()
        self.up_proj = nn.Parameter(torch.randn(count, hidden, width) / width**0.5)
        self.down_proj = nn.Parameter(torch.randn(count, width, hidden) / hidden**0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = (x.expand(self.up_proj.shape[0], -1, -1) @ self.up_proj.mT).tanh()
        return h @ self.down_proj.mT


class Adapters(Model):
    """Frozen layers with low-rank updates, and a head that is trained."""

    units = ("first",)

    def __init__(self) -> None:
        super().__init__()
        self.first = Adapter(6, 9)
        self.second = Adapter(9, 7)
        self.head = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).tanh()).tanh())


class Adapter(nn.Module):
    """W·x + B·A·x with names as PEFT gives them."""

    def __init__(self, inputs: int, outputs: int, rank: int = 3) -> None:
        super().__init__()
        self.base_layer = nn.Linear(inputs, outputs).requires_grad_(False)
        self.lora_A = nn.Linear(inputs, rank, bias=False)
        self.lora_B = nn.Linear(rank, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


MODELS: Mapping[str, type[Model]] = {"mlp": Mlp, "gpt": Gpt, "conv": Conv, "mixture": Mixture}
SPECIAL: Mapping[str, type[Model]] = {"adapters": Adapters}
"""Models that are not for every optimizer."""


class ExpertsParallel(ParallelStyle):
    """Every expert cut along its hidden axis."""

    def _apply(self, module: nn.Module, mesh: DeviceMesh) -> nn.Module:
        def cut(_: str, module: nn.Module, mesh: DeviceMesh) -> None:
            for name, dim in (("up_proj", 1), ("down_proj", 2)):
                whole = getattr(module, name)
                setattr(module, name, nn.Parameter(distribute_tensor(whole, mesh, [Shard(dim)])))

        return distribute_module(
            module,
            mesh,
            cut,
            lambda _, inputs, mesh: tuple(
                DTensor.from_local(x, mesh, [Replicate()]) for x in inputs
            ),
            lambda _, out, mesh: out.redistribute(placements=[Replicate()]).to_local(),
        )


class Spread(NamedTuple):
    """A model on its processes, and which share of each batch is this rank's."""

    module: nn.Module
    model: Model
    share: int
    shares: int

    def loss(self, step: int, dtype: torch.dtype) -> Tensor:
        """The mean over this rank's share."""
        x, target = (t.chunk(self.shares)[self.share] for t in self.model.batch(step, dtype))
        return self.model.loss(self.module(x), target)


@cache
def mesh(**axes: int) -> DeviceMesh:
    """The mesh with these axes, over all processes; made once, as its groups stay."""
    return init_device_mesh("cpu", tuple(axes.values()), mesh_dim_names=tuple(axes))


def spread(name: str, layout: str, rank: int, world: int, dtype: torch.dtype) -> Spread:
    """A model of the table, the same on every rank, spread over the processes.

    Args:
        name: of `MODELS` or `SPECIAL`.
        layout: "one", "ddp", "fsdp", "hsdp", "tp" or "fsdp+tp"; the last of two axes has two ranks.
        rank: of this process.
        world: number of processes.
        dtype: of the parameters.
    """
    torch.manual_seed(0)
    model = {**MODELS, **SPECIAL}[name]().to(dtype)
    if layout == "one":
        return Spread(model, model, 0, 1)
    if layout == "ddp":
        return Spread(DistributedDataParallel(model), model, rank, world)
    if layout == "fsdp":
        return Spread(sharded(model, mesh(dp=world)), model, rank, world)
    if layout == "hsdp":
        return Spread(sharded(model, mesh(replicate=world // 2, shard=2)), model, rank, world)
    if layout == "tp":
        return Spread(tensor_parallel(model, mesh(tp=world)), model, 0, 1)
    both = mesh(dp=world // 2, tp=2)
    tensor_parallel(model, both["tp"])
    return Spread(sharded(model, both["dp"]), model, rank // 2, world // 2)


def sharded(model: Model, mesh: DeviceMesh) -> Model:
    """FSDP2, unit by unit, and then what is left."""
    for unit in model.units:
        fully_shard(model.get_submodule(unit), mesh=mesh)
    return fully_shard(model, mesh=mesh)


def tensor_parallel(model: Model, mesh: DeviceMesh) -> Model:
    """Linear layers cut along their outputs and inputs in turn, an embedding along its rows.

    What flows between them is whole, so that sizes need not be divisible.
    """
    outputs = ColwiseParallel(output_layouts=Replicate())
    inputs = RowwiseParallel(input_layouts=Replicate())
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    plan: dict[str, ParallelStyle] = {n: (outputs, inputs)[i % 2] for i, n in enumerate(linear)}
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            plan |= {name: inputs, "lm_head": outputs}  # both by the rows of the one weight
        if isinstance(module, Experts):
            plan[name] = ExpertsParallel()
    parallelize_module(model, mesh, plan)
    model.tie()
    return model
