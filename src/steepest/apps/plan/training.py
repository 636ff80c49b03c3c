"""The rest of a training step, so that an optimizer's time can be stated as a share of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from steepest.apps.plan.costs import Task
from steepest.apps.plan.exchange import largest

AT_ONCE = 8192
"""Tokens that a device, or the devices of one tensor parallel group, take forward at a time."""

# Weights go through in bfloat16, for the forward and for the backward pass; gradients in float32.
WEIGHT, GRADIENT = 2, 4


@dataclass(frozen=True, kw_only=True)
class Step:
    """Forward and backward pass of one step, on one device.

    Args:
        products: seconds of products of matrices.
        sharding: seconds in which weights are gathered and gradients added up, meanwhile.
        tensor: seconds in which tensor parallelism adds up activations.
        experts: seconds in which tokens go to experts and back.
        activations: bytes.
    """

    products: float
    sharding: float
    tensor: float
    experts: float
    activations: float

    @property
    def seconds(self) -> float:
        """max(products, sharding) + tensor + experts."""
        return max(self.products, self.sharding) + self.tensor + self.experts


def step(task: Task, tokens: int) -> Step:
    """The forward and backward pass of a step.

        products = 6 · parameters that a token meets · tokens / (devices · peak · utilization)

    Args:
        task: model and machine.
        tokens: the tokens of the step.

    Sources:
        6 flops per parameter and token: Kaplan et al., arXiv 2001.08361. Four sums of activations
        per block under tensor parallelism: Shoeybi et al., arXiv 1909.08053.
    """
    model, mesh, links = task.model, task.mesh, task.links
    device = task.device
    mine = tokens * mesh.tp / mesh.devices
    rounds = max(1, math.ceil(mine / AT_ONCE))

    def around(numbers: float, nbytes: int, ranks: int, stride: int) -> float:
        """Seconds of one gather, or of half a sum, of numbers in a ring."""
        start = model.blocks * links.latency(ranks, stride) if ranks > 1 else 0.0
        return start + (ranks - 1) / ranks * numbers * nbytes / links.ring(ranks, stride)

    dense = sum(w.count * w.numel for w in model.weights if not w.stacked) + model.rest[0]
    stacks = sum(w.count * largest(w, mesh) for w in model.weights if w.stacked)
    piece = dense / mesh.tp
    once = 2 * around(piece, WEIGHT, mesh.fsdp, mesh.tp)
    once += around(piece, GRADIENT, mesh.fsdp, mesh.tp)
    copies = 2 * around(piece / mesh.fsdp + stacks, GRADIENT, mesh.replicate, mesh.shards)
    away = 1 - links.within(mesh.shards) / mesh.shards
    # There and back, forward and backward.
    sent = 4 * model.sent * WEIGHT * tokens / mesh.devices
    return Step(
        products=6 * model.used * tokens / (mesh.devices * device.half * device.utilization),
        sharding=rounds * once + copies,
        tensor=2 * 2 * around(model.added * mine, WEIGHT, mesh.tp, 1),
        experts=max(sent * away / links.outer, sent * (1 - away) / links.inner)
        if mesh.shards > 1
        else 0.0,
        # The inputs of all blocks, everything else computed again; sequences are cut by tp as well.
        activations=WEIGHT * min(mine, AT_ONCE) * model.added / 2 / mesh.tp,
    )
