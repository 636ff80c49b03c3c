"""The rest of a training step, so that an optimizer's time can be stated as a share of it."""

from __future__ import annotations

from dataclasses import dataclass

from steepest.apps.plan.batch import LocalBatch
from steepest.apps.plan.costs import Task
from steepest.apps.plan.exchange import largest

# Weights go through in bfloat16, for the forward and for the backward pass; gradients in float32.
WEIGHT, GRADIENT = 2, 4

ATTENTION = 3.5
"""Products of the backward pass of attention with those of the forward pass, 5 and 2, over the
latter: the scores are computed again (Dao, FlashAttention-2, arXiv 2307.08691, section 3.1)."""


@dataclass(frozen=True, kw_only=True)
class TrainingStep:
    """Forward and backward pass of one step, on one device.

    Args:
        products: seconds of products of matrices.
        sharding: seconds in which weights are gathered and gradients added up, meanwhile.
        tensor: seconds in which tensor parallelism adds up activations.
        experts: seconds in which tokens go to experts and back.
        pipeline: seconds in which a stage waits for another.
    """

    products: float
    sharding: float
    tensor: float
    experts: float
    pipeline: float

    @property
    def seconds(self) -> float:
        """max(products, sharding) + tensor + experts + pipeline."""
        return max(self.products, self.sharding) + self.tensor + self.experts + self.pipeline


def flops(task: Task, batch: LocalBatch) -> float:
    """Flops for one token, those that are repeated included.

        6 · weights that it meets + 3.5 · scores · length + the products of recomputation

    Attention is causal: half of the scores.

    Sources:
        6 flops per weight and token: Kaplan et al., arXiv 2001.08361.
    """
    model = task.model
    scores = model.scores * batch.length
    again = {
        "none": 0.0,
        "selective": 2 * model.blocks * model.block.repeated,
        "full": 2 * (model.used - model.active) + scores,
    }
    return 6 * model.used + ATTENTION * scores + again[batch.recompute]


def step(task: Task, batch: LocalBatch) -> TrainingStep:
    """The forward and backward pass of a step.

        products = flops of a token · tokens / (devices · peak · utilization)
        pipeline = (stages − 1)/rounds · (products + tensor + experts)

    Args:
        task: model and machine.
        batch: the tokens of the step.

    Sources:
        Four sums of activations per block under tensor parallelism: Shoeybi et al., arXiv
        1909.08053. The bubble of a pipeline: Narayanan et al., arXiv 2104.04473, section 2.2.
    """
    mesh, links, device = task.mesh, task.links, task.device
    model, stage = task.stage.model, mesh.stage
    mine, rounds = batch.share(mesh), batch.rounds(mesh)

    def around(numbers: float, nbytes: int, ranks: int, stride: int) -> float:
        """Seconds of one gather, or of half a sum, of numbers in a ring."""
        start = model.blocks * links.latency(ranks, stride) if ranks > 1 else 0.0
        return start + (ranks - 1) / ranks * numbers * nbytes / links.ring(ranks, stride)

    dense = sum(w.count * w.numel for w in model.weights if not w.stacked) + model.rest[0]
    stacks = sum(w.count * largest(w, stage) for w in model.weights if w.stacked)
    piece = dense / mesh.tp
    # A stage of a pipeline gathers once for all of its rounds, others for each pass of each.
    gathers, sums = (1, 1) if mesh.pp > 1 else (2 * rounds, rounds)
    once = gathers * around(piece, WEIGHT, mesh.fsdp, mesh.tp)
    once += sums * around(piece, GRADIENT, mesh.fsdp, mesh.tp)
    copies = 2 * around(piece / mesh.fsdp + stacks, GRADIENT, mesh.replicate, mesh.shards)
    away = 1 - links.within(mesh.shards) / mesh.shards
    # There and back, forward and backward.
    sent = 4 * model.sent * WEIGHT * mine / mesh.tp
    rate = mesh.devices * device.half * device.utilization
    products = flops(task, batch) * batch.tokens / rate
    tensor = 2 * 2 * around(model.added * mine, WEIGHT, mesh.tp, 1)
    experts = 0.0
    if mesh.shards > 1:
        experts = max(sent * away / links.outer, sent * (1 - away) / links.inner)
    return TrainingStep(
        products=products,
        sharding=once + copies,
        tensor=tensor,
        experts=experts,
        pipeline=(mesh.pp - 1) / rounds * (products + tensor + experts),
    )
