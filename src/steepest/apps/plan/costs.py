"""The costs of an optimizer's step: by this library's exchange, and by the alternatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch

from steepest.apps.plan.dtensor import newton_schulz
from steepest.apps.plan.exchange import busiest, held, largest, on_the_way, owners_of
from steepest.apps.plan.flops import polar_flops
from steepest.apps.plan.hardware import Device, Links
from steepest.apps.plan.mesh import Mesh
from steepest.apps.plan.models import Model, Weights
from steepest.apps.plan.traffic import Collective
from steepest.sharding import MARKS

STREAMED = 7
"""Numbers that a step reads and writes for each one trained: the gradient, two states or an average
and a direction, and the weight, most of them both ways."""

IN_FLIGHT = 6
"""Copies of what one owner gets in a bucket: as it arrived, stacked, in half precision, the result,
and the two buckets that travel meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A model on a machine.

    Args:
        model: the model.
        mesh: the arrangement of the devices.
        device: the kind of the devices.
        links: the links between them.
        itemsize: bytes of a parameter, of its gradient and of each of its states.
        exchanged: bytes of a number on its way to an owner and back; 0 for those of a parameter,
            and of float32 at least.
    """

    model: Model
    mesh: Mesh
    device: Device
    links: Links
    itemsize: int = 4
    exchanged: int = 0

    @property
    def stage(self) -> Task:
        """The first stage of a pipeline, alone; without a pipeline it is the task itself."""
        if self.mesh.pp == 1:
            return self
        model = self.model.stage(self.mesh.pp)
        return replace(self, model=model, mesh=self.mesh.stage)

    @property
    def rest(self) -> float:
        """Numbers a rank holds of what AdamW updates."""
        return self.model.rest[0] / self.mesh.shards

    @property
    def local(self) -> float:
        """Numbers that the rank with the most holds of what Muon updates."""
        return sum(w.count * largest(w, self.mesh) for w in self.model.weights)

    @property
    def travelling(self) -> tuple[Weights, ...]:
        """Parameters that go to owners."""
        return tuple(w for w in self.model.weights if not self._stays(w))

    @property
    def at_home(self) -> tuple[Weights, ...]:
        """Stacks of experts of which every rank holds some, whole: it takes their polar factors."""
        return tuple(w for w in self.model.weights if self._stays(w))

    def _stays(self, weights: Weights) -> bool:
        return self.mesh.shards > 1 and weights.stacked and bool(held(weights, self.mesh).all())


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One way to step, on the rank with the most of each.

    Args:
        name: the name of the way.
        flops: the flops of products of matrices.
        collectives: the collectives that it calls.
        streamed: bytes that go through the device's memory.
        state: bytes of the optimizer's state.
        temporary: bytes that are needed during the step.
        weights: numbers of parameters that a rank holds.
        overlap: the number of pieces into which products and communication are cut to overlap; 1
            for none.
        busy: share of the ranks that compute products.
        whole: whether every device holds the whole model, whatever the mesh.
        most: parameters of the busiest owner.
        refused: the reason why it cannot be done; empty if it can.
        parts: seconds for "flops", "bandwidth", "latency" and "streaming".
    """

    name: str
    flops: float = 0.0
    collectives: tuple[Collective, ...] = ()
    streamed: float = 0.0
    state: float = 0.0
    temporary: float = 0.0
    weights: float = 0.0
    overlap: int = 1
    busy: float = 1.0
    whole: bool = False
    most: int = 0
    refused: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Time of the step: max(products, communication) + min(…)/overlap + streaming."""
        communication = self.parts["bandwidth"] + self.parts["latency"]
        low, high = sorted((self.parts["flops"], communication))
        return high + low / self.overlap + self.parts["streaming"]

    @property
    def limit(self) -> str:
        """The part that takes longest."""
        return max(self.parts, key=lambda name: self.parts[name])

    @property
    def sent(self) -> float:
        """Bytes that leave a rank."""
        return sum(c.out for c in self.collectives)

    @property
    def received(self) -> float:
        """Bytes that reach a rank."""
        return sum(c.into for c in self.collectives)

    @property
    def calls(self) -> int:
        """The number of collectives."""
        return sum(c.calls for c in self.collectives)


def _factors(weights: Weights) -> float:
    """Flops of the polar factors of one parameter."""
    return sum(b * polar_flops(m, n) for b, m, n in weights.parts)


def _homework(task: Task) -> float:
    """Flops of a rank for the experts that it holds."""
    return sum(w.count * _factors(w) * largest(w, task.mesh) / w.numel for w in task.at_home)


def sharded(task: Task) -> Cost:
    """The cost of Muon for a rank that holds its shards, whichever rank takes the polar factors."""
    return Cost(
        name="",
        streamed=STREAMED * task.itemsize * (task.local + task.rest),
        state=task.itemsize * (task.local + 2 * task.rest),
        weights=task.local + task.rest,
        # As in `adamw`: nothing of it is left when matrices move.
        temporary=task.itemsize * task.rest,
    )


def _flags(task: Task) -> Collective:
    """One byte for each end of what a rank knows of each gradient, and of the marks of groups."""
    tensors = sum(w.count for w in task.model.weights)
    handed = 2 * (tensors + task.model.rest[1] + 1 + MARKS)
    return Collective(name="all_reduce", ranks=task.mesh.devices, calls=1, handed=handed)


def exchange(task: Task) -> Cost:
    """This library: whole matrices go to owners, and slices of the results come back."""
    mesh, weights, ranks = task.mesh, task.travelling, task.mesh.devices
    if not weights:
        flags = (_flags(task),) if ranks > 1 else ()
        return replace(sharded(task), name="exchange", flops=_homework(task), collectives=flags)
    itemsize = task.exchanged or on_the_way(task.itemsize)
    owners = owners_of(weights, ranks, itemsize)
    each = [k * _factors(w) for k, w in zip(owners.counts, weights, strict=True)]
    flops = torch.stack(each).sum(0)
    longest = int(flops.argmax())
    buckets, busy = len(owners.sums), len(owners.ranks)
    collectives = [_flags(task)]
    if mesh.shards == 1:
        handed = sum(owners.sums) * itemsize
        collectives.append(
            Collective(name="all_gather_into_tensor", ranks=ranks, calls=buckets, handed=handed)
        )
    else:
        sent, received = (itemsize * n for n in busiest(weights, owners, mesh))
        collectives.append(
            Collective(
                name="all_to_all_single",
                ranks=ranks,
                calls=2 * buckets,
                handed=sent,
                sent=sent,
                received=received,
                partners=min(ranks - 1, max(busy, mesh.shards)),
            )
        )
    gathered = max(owners.sums) * itemsize * (ranks if mesh.shards == 1 else 1)
    return replace(
        sharded(task),
        name="exchange",
        flops=float(flops[longest]) + _homework(task),
        collectives=tuple(collectives) if ranks > 1 else (),
        temporary=max(
            task.itemsize * task.rest,
            IN_FLIGHT * max(owners.sums) * itemsize + gathered,
        ),
        overlap=buckets,
        most=sum(int(k[longest]) for k in owners.counts),
        busy=1.0 if task.at_home else busy / ranks,
    )


def gather(task: Task) -> Cost:
    """Every rank gathers every matrix and takes every polar factor."""
    mesh, collectives = task.mesh, []
    for w in task.travelling:
        part = largest(w, mesh) * task.itemsize
        for ranks, stride, handed in ((mesh.tp, 1, part), (mesh.fsdp, mesh.tp, part * mesh.tp)):
            if ranks > 1:
                collectives.append(
                    Collective(
                        name="all_gather_into_tensor",
                        ranks=ranks,
                        stride=stride,
                        calls=w.count,
                        handed=w.count * handed,
                    )
                )
    return replace(
        sharded(task),
        name="gather all",
        flops=sum(w.count * _factors(w) for w in task.travelling) + _homework(task),
        collectives=tuple(collectives),
        temporary=task.itemsize
        * max(task.rest, 4 * max((w.numel for w in task.travelling), default=0)),
    )


def dtensor(task: Task) -> Cost:
    """torch.optim.Muon on DTensors: every product of Newton–Schulz redistributes.

    All shards count as one axis: torch plans for each axis, and on several does no better.
    """
    ranks, name = task.mesh.shards, "torch DTensor"
    if any(w.stacked for w in task.model.weights):
        return Cost(name=name, refused="takes no stacks of experts")
    if any(len(w.shape) > 2 for w in task.model.weights):
        return Cost(name=name, refused="takes matrices only")
    collectives, flops = dict[str, Collective](), 0.0
    for w in task.model.weights:
        count = newton_schulz(*w.shape, ranks, task.links.node)
        if count is None:
            return Cost(name=name, refused="more shards than rows")
        flops += w.count * count.flops
        for op, calls in count.calls.items():
            old = collectives.get(op, Collective(name=op, ranks=ranks, calls=0, handed=0))
            collectives[op] = Collective(
                name=op,
                ranks=ranks,
                calls=old.calls + w.count * calls,
                handed=old.handed + w.count * count.handed[op],
            )
    return replace(
        sharded(task),
        name=name,
        flops=flops,
        collectives=tuple(c for c in collectives.values() if c.calls),
        # X, its gathered copy, the result, and two Gram matrices, in bfloat16.
        temporary=2 * max(3 * w.numel + 2 * min(w.shape) ** 2 for w in task.model.weights),
    )


def layers(task: Task) -> Cost:
    """Whole layers in turn, as ZeRO-1: gradients are added up at the owner, who sends the weights.

    Every device holds the whole model, whatever the mesh. Its collectives take the place of the
    all-reduce of gradients, so that much of them is no loss.
    """
    ranks = task.mesh.devices
    order = sorted((w for w in task.model.weights for _ in range(w.count)), key=lambda w: -w.numel)
    loads = [sum(_factors(w) for w in order[rank::ranks]) for rank in range(min(ranks, len(order)))]
    numel = sum(w.numel for w in order)
    own = max(sum(w.numel for w in order[rank::ranks]) for rank in range(min(ranks, len(order))))
    rest = task.model.rest[0]
    calls, handed = len(order), numel * task.itemsize
    return Cost(
        name="layer owners",
        flops=max(loads),
        collectives=tuple(
            Collective(name=name, ranks=ranks, calls=calls, handed=handed)
            for name in ("reduce", "broadcast")
            if ranks > 1
        ),
        streamed=STREAMED * task.itemsize * (own + rest),
        state=task.itemsize * (own + 2 * rest),
        temporary=task.itemsize * max(rest, 4 * order[0].numel),
        weights=numel + rest,
        busy=min(1.0, len(order) / ranks),
        whole=True,
    )


def adamw(task: Task) -> Cost:
    """AdamW for all parameters: nothing travels."""
    numel = task.local + task.rest
    return Cost(
        name="AdamW",
        streamed=STREAMED * task.itemsize * numel,
        state=2 * task.itemsize * numel,
        # Square roots of all second moments: torch's AdamW works on all parameters at once.
        temporary=task.itemsize * numel,
        weights=numel,
    )


def timed(cost: Cost, task: Task) -> Cost:
    """The cost with the seconds that its parts take."""
    device, links = task.device, task.links
    parts = {
        "flops": cost.flops / (device.half * device.factors),
        "bandwidth": sum(c.transfer(links) for c in cost.collectives),
        "latency": sum(c.latency(links) for c in cost.collectives),
        "streaming": cost.streamed / device.bandwidth,
    }
    return replace(cost, parts=parts)


WAYS: tuple[Callable[[Task], Cost], ...] = (exchange, gather, dtensor, layers, adamw)
"""Every way to step; the first is this library's Muon."""
