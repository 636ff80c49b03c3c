"""Peaks of memory of small real models, by torch's trackers, and what a plan says of them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn import functional as F
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from steepest.apps.plan.batch import LocalBatch
from steepest.apps.plan.blocks import transformer
from steepest.apps.plan.costs import Task, adamw
from steepest.apps.plan.hardware import preset
from steepest.apps.plan.memory import Memory, memory
from steepest.apps.plan.mesh import Mesh
from steepest.apps.plan.models import Model, linear

HEADS = 4


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """A small language model and its batch."""

    gated: bool
    layers: int = 3
    width: int = 128
    hidden: int = 512
    vocabulary: int = 1024
    length: int = 128
    sequences: int = 4
    recompute: str = "none"

    def table(self) -> Model:
        """What a plan is told of it."""
        width, layers = self.width, self.layers
        if self.gated:
            weights = (
                linear(4 * layers, width, width),
                linear(2 * layers, self.hidden, width),
                linear(layers, width, self.hidden),
            )
        else:
            weights = (
                linear(layers, 3 * width, width, 3),
                linear(layers, width, width),
                linear(layers, self.hidden, width),
                linear(layers, width, self.hidden),
            )
        root = 2 * self.vocabulary * width + width
        return Model(
            name="small",
            source="",
            weights=weights,
            rest=(root + 2 * layers * width, 2 * layers + 3),
            active=self.vocabulary * width,
            tokens=self.sequences * self.length,
            blocks=layers,
            added=2 * layers * width,
            block=transformer(width, self.hidden, keys=width if self.gated else 0),
            length=self.length,
            vocabulary=self.vocabulary,
            root=root,
        )


class Layer(nn.Module):
    """A block of attention and a perceptron, Llama's or GPT's."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, hidden = sizes.width, sizes.hidden
        make = partial(nn.Linear, bias=False)
        self.gated = sizes.gated
        self.first, self.second = (nn.LayerNorm(width, bias=False) for _ in range(2))
        shapes = [(width, width)] * 3 if self.gated else [(width, 3 * width)]
        self.inputs = nn.ModuleList(make(*s) for s in shapes)
        self.output = make(width, width)
        self.ups = nn.ModuleList(make(width, hidden) for _ in range(1 + self.gated))
        self.down = make(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        parts = [layer(y) for layer in self.inputs]
        q, k, v = parts if self.gated else parts[0].chunk(3, dim=-1)
        heads = [t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q, k, v)]
        found = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.output(found.transpose(1, 2).flatten(-2))
        y = self.second(x)
        up = self.ups[0](y)
        inner = F.silu(up) * self.ups[1](y) if self.gated else F.gelu(up)
        return x + self.down(inner)


def _every_second() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """torchtitan's choice: the results of attention and of every other product are kept."""
    count = {False: 0, True: 0}
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default

    def policy(ctx: object, op: object, *_: object, **__: object) -> CheckpointPolicy:
        again = ctx.is_recompute  # type: ignore[attr-defined]
        kept = op == attention
        if op == torch.ops.aten.mm.default:
            count[again] += 1
            kept = count[again] % 2 == 1
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)  # type: ignore[return-value]


class LanguageModel(nn.Module):
    """Embedding, blocks, norm and head."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.width)
        self.layers = nn.ModuleList(Layer(sizes) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.width, bias=False)
        self.head = nn.Linear(sizes.width, sizes.vocabulary, bias=False)
        self.recompute = sizes.recompute

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            if self.recompute == "none":
                x = layer(x)
            elif self.recompute == "full":
                x = checkpoint(layer, x, use_reentrant=False)
            else:
                x = checkpoint(layer, x, use_reentrant=False, context_fn=_every_second)
        return self.head(self.norm(x))


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """The cross-entropy in float32; the logits have no name that outlives it."""
    return F.cross_entropy(model(tokens).flatten(0, 1).float(), tokens.flatten())


def _steps(tracker: MemTracker, sizes: Sizes, model: nn.Module, steps: int) -> dict[str, int]:
    """The categories of the peak in the last of some steps, which has the optimizer's state."""
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    tokens = torch.randint(sizes.vocabulary, (sizes.sequences, sizes.length))
    tracker.track_external(model, optimizer, tokens)
    with tracker as counting:
        for step in range(steps):
            loss_of(model, tokens).backward()
            optimizer.step()
            optimizer.zero_grad()
            if step == 0:
                counting.reset_mod_stats()
    (peak,) = (
        counts
        for device, counts in tracker.get_tracker_snapshot("peak").items()
        if device.type == "cpu"
    )
    return {getattr(name, "value", str(name)): count for name, count in peak.items()}


def alone(sizes: Sizes) -> dict[str, int]:
    """The peak of one process, all of it in bfloat16."""
    torch.manual_seed(0)
    model = LanguageModel(sizes).to(torch.bfloat16)
    return _steps(MemTracker(), sizes, model, 2)


def sharded(rank: int, world: int, sizes: Sizes) -> dict[str, int]:
    """The peak of a rank of FSDP2: weights in float32, passes in bfloat16."""
    from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker

    torch.manual_seed(0)
    model = LanguageModel(sizes)
    mesh = init_device_mesh("cpu", (world,))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    tokens = torch.randint(sizes.vocabulary, (sizes.sequences, sizes.length))
    tracker = FSDPMemTracker(model, optimizer)
    tracker.track_inputs((tokens,))
    with tracker:
        for step in range(2):
            loss_of(model, tokens).backward()
            optimizer.step()
            optimizer.zero_grad()
            if step == 0:
                tracker.reset_mod_stats()
    (peak,) = (
        counts
        for device, counts in tracker.get_tracker_snapshot("peak").items()
        if device.type == "cpu"
    )
    return {getattr(name, "value", str(name)): count for name, count in peak.items()}


def predicted(sizes: Sizes, world: int) -> Memory:
    """What a plan says of the same run."""
    device, links = preset("h100")
    task = Task(
        model=sizes.table(),
        mesh=Mesh(fsdp=world),
        device=device,
        links=links,
        itemsize=2 if world == 1 else 4,
    )
    batch = LocalBatch(
        tokens=sizes.sequences * sizes.length * world,
        length=sizes.length,
        sequences=sizes.sequences,
        recompute=sizes.recompute,
    )
    return memory(task, adamw(task), batch)
