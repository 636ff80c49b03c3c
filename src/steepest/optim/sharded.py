"""Parameters that lie on several ranks, in one step: how they travel to their owners and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from steepest._common.numerics import widened
from steepest.norms import Norm
from steepest.optim.batching import Item, Move, StackedBatch, Step, nearest, scalar
from steepest.optim.plan import Bucket, Plan
from steepest.sharding import Team, is_sharded, layout_of, local_like, sharded_like, whole


@dataclass(eq=False, slots=True)
class Slice(Move):
    """What this rank holds of the move of a parameter: its part of the direction, in one piece.

    Args:
        dual: ⟨u, direction⟩ if this rank is the one to count it, and if it was asked for.
    """

    dual: Tensor | None = None

    def update(self, lengths: Sequence[Tensor | float]) -> tuple[Tensor, Tensor | float]:
        """The direction, and the length that it has yet to get."""
        return self.direction[0], lengths[0] if _alike(lengths) else 1.0


def _alike(lengths: Sequence[Tensor | float]) -> bool:
    """Whether all parts of a parameter go equally far."""
    first = lengths[0]
    return all(x is first or (isinstance(x, float) and x == first) for x in lengths)


def _in_one(move: Move, lengths: Sequence[Tensor | float]) -> Tensor:
    """The direction in one piece, with what `Slice.update` no longer knows; destroys the move."""
    alike = _alike(lengths)
    return move.item.restore(move.direction) if alike else move.update(lengths)[0]


def _dual(move: Move, norm: Norm) -> Tensor:
    """⟨u, direction⟩ over all parts; of DTensors on every rank."""
    pairs = zip(move.u, move.direction, strict=True)
    return torch.stack([whole(norm.inner(u, d)).sum() for u, d in pairs]).sum()


class DTensorBatch:
    """A parameter whose direction is computed as a DTensor, in one step: torch does the reducing.

    Args:
        item: the parameter.
        step: the step of its group.
    """

    def __init__(self, item: Item, step: Step) -> None:
        self.item, self.step = item, step
        self.parts: list[Tensor] = []

    def averages(self) -> list[Tensor]:
        """Update the momentum; the average as a DTensor, cut into what the norm measures."""
        item = self.item
        u = torch.empty_like(item.local, dtype=widened(item.dtype))
        self.step.average([item], [u], [u], cut=False)
        assert is_sharded(item.param), "so says the plan"
        self.parts = item.cut(sharded_like(u, item.param))
        return self.parts

    def apply(self, directions: Sequence[Tensor]) -> None:
        """Move this rank's part of the parameter along directions, which are used up."""
        item, step = self.item, self.step
        assert is_sharded(item.param), "so says the plan"
        ok = step.finite[item.param]
        move = Move(item, ok, self.parts, list(directions))
        # Every rank knows it, and they are going to be added up.
        dual = _dual(move, step.inner) / item.param.device_mesh.size() if step.inner else None
        whole_direction = _in_one(move, step.lengths(item))
        step.move([Slice(item, ok, [], [local_like(whole_direction, item.param)], dual)])


class OwnedBatch(StackedBatch):
    """Parameters that this rank owns: their averages have come, their directions go back.

    Args:
        items: the parameters.
        step: the step of their group.
        bucket: with what they travel.
        wholes: the averages, by their number in the bucket.
        results: takes the directions, by number.
        duals: takes ⟨u, direction⟩ of each parameter, if it is asked for.
    """

    def __init__(
        self,
        items: Sequence[Item],
        step: Step,
        bucket: Bucket,
        wholes: Mapping[int, Tensor],
        results: dict[int, Tensor],
        duals: dict[Item, Tensor],
    ) -> None:
        super().__init__(items, step)
        self.bucket, self.wholes, self.results, self.duals = bucket, wholes, results, duals

    def _fill(self, places: list[Tensor], stacks: Sequence[Tensor]) -> None:
        number = self.bucket.number
        parts = [part for item in self.items for part in item.cut(self.wholes[number[item]])]
        for place, part in zip(places, parts, strict=True):
            place.copy_(part)

    def _take(self, moves: Sequence[Move]) -> None:
        for move in moves:
            if self.step.inner:
                self.duals[move.item] = _dual(move, self.step.inner)
            lengths = self.step.lengths(move.item)
            self.results[self.bucket.number[move.item]] = _in_one(move, lengths)


Batch = StackedBatch | DTensorBatch


def in_batches(plan: Plan, step: Step) -> Iterator[list[Batch]]:
    """The batches of a group, in bundles whose averages are mapped together.

    A batch has two methods, to be called on each of a bundle before the next bundle is asked for:
    `averages` updates the momentum, `apply` moves the parameters. What other ranks own is moved
    when it comes back from them, while the iterator goes on.

    Args:
        plan: of the group.
        step: of the group.
    """
    for bundle in plan.here:
        yield [StackedBatch(items, step) for items in bundle]
    for item in plan.apart:
        yield [DTensorBatch(item, step)]
    averages = Averages(step)
    for bucket, wholes, results in travelling(plan.buckets, averages):
        for bundle in bucket.own:
            yield [
                OwnedBatch(items, step, bucket, wholes, results, averages.duals) for items in bundle
            ]


class Cargo(Protocol):
    """What travels to the owners, and what becomes of that which comes back."""

    def send(self, bucket: Bucket) -> dict[int, Tensor]:
        """This rank's parts of what its owner, or another, needs, by number."""

    def arrive(self, bucket: Bucket, parts: Sequence[Tensor]) -> None:
        """Take this rank's part of each result."""


def travelling(
    buckets: Sequence[Bucket], cargo: Cargo
) -> Iterator[tuple[Bucket, dict[int, Tensor], dict[int, Tensor]]]:
    """Each bucket when it has come to its owners; its neighbours travel meanwhile.

    Yields:
        The bucket, what this rank owns of it, whole and by number, and a mapping that takes what
        goes back: it leaves when the next is asked for.
    """
    coming = buckets[0].exchange.gather(cargo.send(buckets[0])) if buckets else None
    back = None
    for i, bucket in enumerate(buckets):
        assert coming is not None, "there is a bucket"
        wholes = coming.wait()
        if i + 1 < len(buckets):
            coming = buckets[i + 1].exchange.gather(cargo.send(buckets[i + 1]))
        results = dict[int, Tensor]()
        yield bucket, wholes, results
        going = bucket.exchange.scatter(results)
        if back is not None:
            cargo.arrive(back[0], back[1].wait())
        back = bucket, going
    if back is not None:
        cargo.arrive(back[0], back[1].wait())


class Averages:
    """Averages go to the owners, and this rank's parts of the directions come back.

    Args:
        step: the step of the group.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.duals: dict[Item, Tensor] = {}
        """⟨u, direction⟩ of the parameters that this rank owns."""

    def send(self, bucket: Bucket) -> dict[int, Tensor]:
        """Update the momentum of all; the averages that are needed."""
        asked = sorted(bucket.exchange.asked)
        out = {
            i: torch.empty_like(bucket.items[i].local, dtype=widened(bucket.items[i].dtype))
            for i in asked
        }
        parts = list(out.values())
        self.step.average([bucket.items[i] for i in asked], parts, parts, cut=False)
        self.step.average([x for i, x in enumerate(bucket.items) if i not in out], [], [])
        return out

    def arrive(self, bucket: Bucket, parts: Sequence[Tensor]) -> None:
        """Move this rank's parts of the parameters."""
        finite = self.step.finite
        self.step.move(
            [
                Slice(
                    *(item, finite[item.param], [], [part.to(widened(part.dtype))]),
                    self.duals.get(item),
                )
                for item, part in zip(bucket.items, parts, strict=True)
            ]
        )


class Weights:
    """Weights go to the owners, and this rank's parts of their projections come back."""

    def __init__(self) -> None:
        self.back: list[tuple[Item, Tensor]] = []

    def send(self, bucket: Bucket) -> dict[int, Tensor]:
        """The weights that are needed."""
        return {i: bucket.items[i].local for i in bucket.exchange.asked}

    def arrive(self, bucket: Bucket, parts: Sequence[Tensor]) -> None:
        """Keep them."""
        self.back += zip(bucket.items, parts, strict=True)


def projected(
    plan: Plan, ball: Norm, step: Step, weight_decay: float | Tensor
) -> Iterator[tuple[Item, Tensor]]:
    """The parameters of a group on their balls, as far as this rank holds them."""
    for item in plan.at_home:
        yield item, nearest(item, item.local, ball, _radii(item, step, weight_decay))
    for item in plan.apart:
        assert is_sharded(item.param), "so says the plan"
        full = nearest(item, whole(item.param), ball, _radii(item, step, weight_decay))
        place = Team.of_mesh(item.param.device_mesh).place
        yield item, layout_of(item.param).take(full, place)
    # Weights travel in their own type.
    own = [
        replace(b, exchange=replace(b.exchange, dtype=widened(b.items[0].param.dtype)))
        for b in plan.buckets
    ]
    weights = Weights()
    for bucket, wholes, results in travelling(own, weights):
        for i in bucket.exchange.owned:
            item = bucket.items[i]
            results[i] = nearest(item, wholes[i], ball, _radii(item, step, weight_decay))
    yield from weights.back


def _radii(item: Item, step: Step, weight_decay: float | Tensor) -> list[Tensor | float]:
    """The radius of the ball of each part of a parameter."""
    return [length / scalar(weight_decay) for length in step.lengths(item)]
