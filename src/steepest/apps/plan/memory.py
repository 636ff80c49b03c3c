"""The memory of a device at the moment of a training step when it holds the most.

Weights, gradients and state stay; what else there is comes and goes. Four moments can be the
largest: the loss, with all activations and the logits; the backward pass of the last block; the end
of the backward pass, with the gradients of embedding and head; and the optimizer's step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from steepest.apps.plan.batch import RECOMPUTE, LocalBatch
from steepest.apps.plan.costs import Cost, Task
from steepest.apps.plan.mesh import Mesh
from steepest.apps.plan.models import Model
from steepest.apps.plan.training import GRADIENT, WEIGHT

GATHERED = 2
"""Blocks of weights that FSDP2 holds at a time in the backward pass: the one in use, and the next
one on its way. Source: torch 2.13, torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py,
`wait_for_unshard`. In the forward pass it is one more, but then there are fewer activations."""

LOGITS = 12
"""Bytes for each logit in the backward pass of the cross-entropy: its logarithm of the softmax, the
gradient of that, and the gradient of the logit, in float32 all of them."""

CONTEXT = 1e9
"""Bytes of the driver's context, of libraries and of communicators. No source: a margin of ours."""

FRAGMENTATION = 0.1
"""Bytes that the caching allocator reserves and does not use, as a share of what comes and goes. A
margin of ours: in docs/plan.md, what torchtitan reports as reserved is beside what is counted."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of a device at one moment.

    Args:
        moment: "loss", "backward", "end of backward" or "step".
        weights: weights that stay: master copies, where the passes take bfloat16.
        gradients: gradients in the type of the weights, of as many numbers.
        state: the state of the optimizer.
        gathered: copies of weights for the passes: gathered blocks, or those of autocast.
        unsharded: gradients on their way to their shards, or the buckets of DDP.
        activations: activations that wait for the backward pass.
        logits: logits and all that the cross-entropy makes of them.
        workspace: activations that one block computes again, and their gradients; or tensors of the
            step of the optimizer.
        margin: context, communicators, and bytes that are reserved in vain.
    """

    moment: str
    weights: float = 0.0
    gradients: float = 0.0
    state: float = 0.0
    gathered: float = 0.0
    unsharded: float = 0.0
    activations: float = 0.0
    logits: float = 0.0
    workspace: float = 0.0
    margin: float = 0.0

    @property
    def parts(self) -> Mapping[str, float]:
        """The bytes of each part by its name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "moment"}

    @property
    def counted(self) -> float:
        """All bytes but the margin."""
        return sum(self.parts.values()) - self.margin

    @property
    def total(self) -> float:
        """All bytes."""
        return sum(self.parts.values())


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """One stage of a pipeline, or all of the model without one.

    Args:
        model: its blocks, and what it has outside of them.
        mesh: its devices.
        whole: whether the model is not sharded, but whole on every device.
        flight: the number of rounds whose activations it keeps.
        batch: tokens and recomputation.
        tokens: the tokens of a round.
        itemsize: bytes of a weight.
    """

    model: Model
    mesh: Mesh
    whole: bool
    flight: int
    batch: LocalBatch
    tokens: float
    itemsize: int

    @property
    def sharded(self) -> bool:
        """Whether FSDP2 gathers the weights of a block for its passes."""
        return self.mesh.fsdp > 1 and not self.whole

    @property
    def tp(self) -> int:
        """Ranks that share a layer."""
        return 1 if self.whole else self.mesh.tp

    @property
    def root(self) -> float:
        """Numbers of embedding, head and last norm on one rank, gathered."""
        return self.model.root / self.tp

    @property
    def block(self) -> float:
        """Numbers of a block on one rank, gathered; experts that every rank has are not."""
        numbers = float(self.model.rest[0] - self.model.root)
        for w in self.model.weights:
            if not w.stacked:
                numbers += w.count * w.numel
            elif self.mesh.shards > w.shape[0]:
                numbers += w.count * w.numel / w.shape[0] * self.tp
        return numbers / self.tp / self.model.blocks

    @property
    def unreduced(self) -> float:
        """Numbers of a rank whose gradients the last block of the backward pass has yet to make."""
        shards = self.mesh.fsdp if self.sharded else 1
        return (self.block + self.root) / shards

    @property
    def activations(self) -> float:
        """Bytes that wait for the backward pass of all blocks."""
        kept = self.model.block.kept(self.batch.recompute).per_rank(self.tp)
        return WEIGHT * self.tokens * kept * self.model.blocks * self.flight

    @property
    def again(self) -> float:
        """Bytes of one block in its backward pass: what it computes again, and gradients."""
        block = self.model.block
        repeated = block.none.per_rank(self.tp) - block.kept(self.batch.recompute).per_rank(self.tp)
        return WEIGHT * self.tokens * (max(0.0, repeated) + block.working / self.tp)

    @property
    def logits(self) -> float:
        """Bytes of the loss: input of the last norm and of the head, logits and their kin."""
        ends = WEIGHT * 2 * self.model.block.width
        return self.tokens * (LOGITS * self.model.vocabulary / self.tp + ends)


def _moments(stage: _Stage, cost: Cost, *, pipeline: bool) -> list[Memory]:
    """The four moments of a stage, without a margin."""
    numbers, width = cost.weights, stage.itemsize
    staying = Memory(moment="", weights=width * numbers, state=cost.state)
    all_of_them = width * numbers
    # From the second round on, gradients are there before the loss.
    before = all_of_them if stage.batch.rounds(stage.mesh) > 1 and not pipeline else 0.0
    within = replace(staying, gradients=before, activations=stage.activations)
    last = replace(
        staying,
        moment="end of backward",
        gradients=max(before, all_of_them - width * stage.unreduced),
        activations=stage.activations / stage.model.blocks / stage.flight,
        workspace=stage.again,
    )
    over = replace(staying, moment="end of backward", gradients=all_of_them)
    if stage.sharded:
        copies = _copies_of_shards(stage, pipeline=pipeline)
    else:
        # Autocast keeps its copies; DDP keeps buckets, and gradients of their own beside them.
        casts = WEIGHT * numbers if width > WEIGHT else 0.0
        buckets = all_of_them if stage.mesh.replicate > 1 or stage.whole else 0.0
        copies = ((casts, buckets), (casts, buckets), (casts, buckets), (0.0, buckets))
    moments = (
        replace(within, moment="loss", logits=stage.logits),
        replace(within, moment="backward", workspace=stage.again),
        last,
        over,
    )
    return [
        *(
            replace(m, gathered=gathered, unsharded=unsharded)
            for m, (gathered, unsharded) in zip(moments, copies, strict=True)
        ),
        replace(staying, moment="step", gradients=all_of_them, workspace=cost.temporary),
    ]


def _copies_of_shards(stage: _Stage, *, pipeline: bool) -> tuple[tuple[float, float], ...]:
    """Bytes that FSDP2 has gathered, and those of gradients that are not yet shards.

    They are those of the loss, of the first and of the last block in the backward pass, and of its
    end.
    """
    block, root, blocks = stage.block, stage.root, stage.model.blocks
    if pipeline:
        everything = blocks * block + root
        held = (WEIGHT * everything, GRADIENT * everything)
        return held, held, held, (0.0, GRADIENT * everything)
    head = root if stage.model.tied else root / 2
    some = WEIGHT * (min(GATHERED, blocks) * block + root)
    return (
        # A last block that the backward pass needs at once may stay gathered.
        (WEIGHT * (block + root), 0.0),
        (some, WEIGHT * (head + block)),
        (WEIGHT * (block + root), WEIGHT * (head + block) + GRADIENT * block),
        (0.0, (WEIGHT + GRADIENT) * root + GRADIENT * block),
    )


def memory(task: Task, cost: Cost, batch: LocalBatch) -> Memory:
    """The moment with the most bytes, of the first or of the last stage.

    Args:
        task: model and machine.
        cost: a way to step, of the first stage.
        batch: the tokens of a step, and what is recomputed.

    Sources:
        Korthikanti et al., arXiv 2205.05198, for the activations, and for the rounds that a stage
        of a pipeline keeps at a time, section 4.2.3.
    """
    mesh = task.mesh
    flight = min(mesh.pp, batch.rounds(mesh))
    ends = [(task.stage.model, flight)]
    if mesh.pp > 1:
        ends.append((task.model.stage(mesh.pp, last=True), 1))
    found: list[Memory] = []
    for model, kept in ends:
        stage = _Stage(
            model=model,
            mesh=mesh.stage,
            whole=cost.whole,
            flight=kept,
            batch=batch,
            tokens=batch.at_once(mesh),
            itemsize=task.itemsize,
        )
        found += _moments(stage, cost, pipeline=mesh.pp > 1)
    most = max(found, key=lambda m: m.counted)
    passing = most.counted - most.weights - most.state
    return replace(most, margin=CONTEXT + FRAGMENTATION * passing)


def least_recomputed(task: Task, cost: Cost, batch: LocalBatch) -> LocalBatch:
    """The batch with the least recomputation that fits; with the most, if none does."""
    tries = [replace(batch, recompute=way) for way in RECOMPUTE]
    for one in tries:
        if memory(task, cost, one).total <= task.device.memory:
            return one
    return tries[-1]
