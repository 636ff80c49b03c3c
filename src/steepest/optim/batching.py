"""Parameters in stacks: what is computed together in a step, how it is split and joined again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from steepest._common.numerics import empty
from steepest.norms import Norm
from steepest.optim.kept import recall
from steepest.optim.member import Member, local_grad
from steepest.optim.momentum import EIGHT_BITS, keep, new_average
from steepest.optim.options import Group
from steepest.optim.retracted import move, pulled
from steepest.optim.rule import UpdateRule
from steepest.optim.updates import Flag, accumulate, descend, replace, without_momentum
from steepest.retractions import Retraction, StepSize
from steepest.sharding import local
from steepest.transforms import State

T = TypeVar("T")
Lengths = Sequence[Tensor | float]
"""The length of a step over `lr`, for each part of a parameter."""

HOST_STACK, DEVICE_STACK = 2**24, 2**29
"""Default bounds on a stack, in bytes."""

# Measured on two x86-64 cores with 1 MiB of cache each: larger lists leave it between two passes,
# of smaller ones there are many.
HOST_ENTRIES = 2**22
"""Default bound on tensors without a stack, in bytes."""


Bundle = tuple[list[Member], ...]
"""Members of one stack each, whose averages are mapped together."""


@dataclass(eq=False, slots=True)
class Update:
    """The update of one parameter in this step, before its length is known.

    Args:
        member: The parameter.
        finite: Whether its gradient is finite, on the device; True if that is known.
        u: The parts of its momentum average.
        direction: The direction of each part.
    """

    member: Member
    finite: Flag
    u: list[Tensor]
    direction: list[Tensor]

    def joined(self, lengths: Lengths) -> tuple[Tensor, Tensor | float]:
        """The direction in one tensor, and the factor that it has yet to get.

        Several parts get their lengths here, in place.
        """
        if len(lengths) == 1:
            one = self.member.is_one_part
            return self.direction[0] if one else self.member.join(self.direction), lengths[0]
        for part, length in zip(self.direction, lengths, strict=True):
            part.mul_(length)
        return self.member.join(self.direction), 1.0

    def rate(self, lr: float | Tensor) -> Tensor:
        """The learning rate on the parameter's device, 0 where the gradient is not finite."""
        ok, dtype = self.finite, self.member.compute_dtype
        # Not of the parameter: of a DTensor it would be one.
        where = self.member.like.device
        one = ok if isinstance(ok, Tensor) else torch.ones((), dtype=dtype, device=where)
        return one.to(dtype) * scalar(lr)


@dataclass(eq=False)
class GroupStep:
    """One step of one group: what all of its batches have in common.

    Args:
        place: The place of the group in the optimizer.
        group: The group.
        rule: The rule of the group.
        finite: Whether the gradient of each parameter that takes part is finite.
        state: The state of the optimizer.
        inner: The norm in whose inner product ⟨u, direction⟩ is asked for, if it is.
        kept: A list that takes the updates, for a length that all parameters share; None to apply
            them at once.
        zeros: Parameters of whose gradients an entry may be zero.
    """

    place: int
    group: Group
    rule: UpdateRule
    finite: Mapping[Tensor, Flag]
    state: MutableMapping[Tensor, dict[str, Any]]
    inner: Norm | None = None
    kept: list[Update] | None = None
    zeros: Set[Tensor] = frozenset()
    pulled: dict[Tensor, Tensor] = field(default_factory=dict)
    """Gradients that a retraction has pulled."""

    def average(
        self,
        members: Sequence[Member],
        out: Sequence[Tensor] | None,
        stacks: Sequence[Tensor],
        *,
        split: bool = True,
    ) -> Sequence[Tensor]:
        """Update the momentum averages and write u; without momentum the gradients, and no state.

        Args:
            members: The parameters.
            out: A tensor for each part of each parameter, or for each parameter if not `split`;
                empty if u is not needed; None for u in memory of its own, only to be read.
            stacks: The memory that `out` fills; empty with it.
            split: Whether `out` has parts.
        """
        if not members:
            return []
        group, state, zeros = self.group, self.state, self.zeros
        finite = [self.finite[m.param] for m in members]
        grads = [
            p.grad if type(p.grad) is Tensor else local_grad(p) for p in (m.param for m in members)
        ]
        if self.rule.retraction is not None and self.rule.retraction.pulls:
            grads = self.pull(members)
        views = None if not split or all(m.is_one_part for m in members) else members
        betas, momentum = group.get("betas"), group.get("momentum", 0.0)
        weights: tuple[object, ...] = betas or (momentum,)
        dtype = members[0].stack_dtype if out is None else None
        if all(not isinstance(weight, Tensor) and weight == 0 for weight in weights):
            maximize = group["maximize"]
            return without_momentum(grads, finite, out, views=views, dtype=dtype, maximize=maximize)
        buffers = []
        for m in members:
            own = state[m.param]
            buffer = own.get("momentum_buffer")
            if buffer is None:
                buffer = new_average(m, own, group["momentum_dtype"])
            buffers.append(buffer if type(buffer) is Tensor else local(buffer))
        us = accumulate(
            grads,
            buffers,
            finite,
            out,
            views=views,
            stacks=stacks,
            dtype=dtype,
            momentum=momentum,
            nesterov=group.get("nesterov", False),
            maximize=group["maximize"],
            betas=betas,
            zeros=[i for i, m in enumerate(members) if m.param in zeros] if zeros else [],
        )
        if group["momentum_dtype"] == EIGHT_BITS:
            keep(members, buffers, grads, finite, zeros, state)
        return us

    def recall(self, member: Member) -> list[dict[str, Tensor]]:
        """The state that the rule keeps of each part of a parameter, by name."""
        return recall(member, self.rule.state_shapes, self.state)

    def observed(self, member: Member) -> Tensor:
        """The gradient that the rule looks at: zero where it is not finite."""
        finite, retraction = self.finite[member.param], self.rule.retraction
        pulls = retraction is not None and retraction.pulls
        grad = self.pull([member])[0] if pulls else local_grad(member.param)
        grad = -grad if self.group["maximize"] else grad
        return torch.where(finite, grad, 0) if isinstance(finite, Tensor) else grad

    def pull(self, members: Sequence[Member]) -> list[Tensor]:
        """The gradients that a retraction averages; once for each parameter in a step.

        Ranks that hold a parameter together have to ask for the same ones.
        """
        retraction = self.rule.retraction
        assert retraction is not None, "so says the caller"
        if rest := [m for m in members if m.param not in self.pulled]:
            finite = [self.finite[m.param] for m in rest]
            up = self.group["maximize"]
            found = pulled(rest, finite, retraction, self.state, maximize=up)
            self.pulled.update((m.param, g) for m, g in zip(rest, found, strict=True))
        return [self.pulled[m.param] for m in members]

    def apply(self, updates: Sequence[Update], lengths: Sequence[Lengths] | None = None) -> None:
        """Decay the weights and move them by −lr·length·direction, or keep the updates.

        Nothing moves where a gradient was not finite.

        Args:
            updates: The updates of parameters of one type on one device; used up.
            lengths: One step length per part, for each update; None for those of the rule.
        """
        if self.kept is not None:
            self.kept += updates
            return
        if self.rule.retraction is not None:
            self._retract(self.rule.retraction, updates)
            return
        lr, weight_decay = self.group["lr"], self.group["weight_decay"]
        if lengths is None and updates and not updates[0].member.shapes:
            lengths = [self.rule.lengths([])] * len(updates)  # of no matrices
        lengths = lengths or [self.rule.lengths(u.member.shapes) for u in updates]
        pairs = [update.joined(each) for update, each in zip(updates, lengths, strict=True)]
        common = [length for _, length in pairs]
        # Of a few types, rather than of many values.
        types = set(map(type, [lr, *common, *(update.finite for update in updates)]))
        sure = not any(issubclass(kind, Tensor) for kind in types)
        descend(
            [m.local if m.sharded else m.param for m in (update.member for update in updates)],
            [direction for direction, _ in pairs],
            rates=float(lr) if sure else [update.rate(lr) for update in updates],
            lengths=common,
            weight_decay=scalar(weight_decay) if isinstance(weight_decay, Tensor) else weight_decay,
            decay=self.group["decay"],
        )

    def _retract(self, retraction: Retraction, updates: Sequence[Update]) -> None:
        """Move the weights as a retraction does."""
        members = [update.member for update in updates]
        decay = scalar(self.group["weight_decay"])
        directions: list[Tensor] = []
        sizes: list[StepSize] = []
        for update in updates:
            rate = update.rate(self.group["lr"])
            joined, length = update.joined(self.rule.lengths(update.member.shapes))
            directions.append(joined)
            sizes.append(StepSize(lr=rate, factor=length, decay=rate * decay))
        move(members, directions, sizes, [u.finite for u in updates], retraction, self.state)


def scalar(x: float | Tensor) -> float | Tensor:
    """A hyper-parameter without axes: a tensor may hold its one number in shape (1,)."""
    return x.reshape(()) if isinstance(x, Tensor) else x


def stackable(members: Iterable[Member], limit: int | None) -> Iterator[list[Member]]:
    """Members for one stack, in order, as many as fit into `limit` bytes but at least one."""
    keyed: dict[tuple[object, ...], list[Member]] = {}
    for member in members:
        key = (member.sizes, member.param.dtype, member.dtype, member.like.device)
        keyed.setdefault(key, []).append(member)
    for same in keyed.values():
        yield from in_chunks(same, [m.nbytes for m in same], bound_of(same[0], limit))


def bundles(stacks: Iterable[list[Member]], limit: int | None) -> Iterator[Bundle]:
    """Stacks whose matrices have equal smaller sides, as many as fit into `limit` bytes.

    A norm may share work among them.
    """
    keyed: dict[tuple[object, ...], list[list[Member]]] = {}
    for stack in stacks:
        first = stack[0]
        smaller = tuple(min(s[-2:]) for s in first.sizes) if first.view else id(first)
        key = (smaller, first.param.dtype, first.dtype, first.like.device)
        keyed.setdefault(key, []).append(stack)
    for alike in keyed.values():
        sizes = [sum(m.nbytes for m in stack) for stack in alike]
        yield from map(tuple, in_chunks(alike, sizes, bound_of(alike[0][0], limit)))


def in_chunks(things: Sequence[T], sizes: Sequence[int], bound: int) -> Iterator[list[T]]:
    """The things in order, as many at a time as fit into the bound, but at least one."""
    some: list[T] = []
    total = 0
    for thing, size in zip(things, sizes, strict=True):
        if some and total + size > bound:
            yield some
            some, total = [], 0
        some.append(thing)
        total += size
    yield some


def bound_of(member: Member, limit: int | None) -> int:
    """How many bytes may be computed together with a member."""
    if limit or member.like.device.type != "cpu":
        return limit or DEVICE_STACK
    return HOST_STACK if member.view else HOST_ENTRIES


class Batch(Protocol):
    """Parameters whose averages are mapped together: two methods, called one after the other."""

    def averages(self) -> list[Tensor]:
        """Update the momentum; the averages u, as the norm measures them."""

    def states(self) -> list[State]:
        """The state that the rule keeps of each of them, if it keeps one."""

    def apply(self, directions: Sequence[Tensor]) -> None:
        """Move the parameters along the directions of these averages, which are used up."""


@dataclass(eq=False)
class StackedBatch:
    """Parameters of this rank alone, whose matrices lie in common stacks in one step.

    Args:
        members: The parameters, with matrices of equal sizes.
        step: The step of their group.
    """

    members: Sequence[Member]
    step: GroupStep
    u: list[list[Tensor]] = field(default_factory=list, init=False)
    """The parts of each average, in the memory of the stacks."""
    kept: list[list[dict[str, Tensor]]] = field(default_factory=list, init=False)
    """The state of each part of each parameter, if the rule keeps one."""
    stacked: list[State] = field(default_factory=list, init=False)
    """The same states in stacks, as the step changes them."""

    def averages(self) -> list[Tensor]:
        """Update the momentum and stack the averages u, shape (matrices, rows, columns) each.

        There is a stack for each part of a parameter that an unequal split makes. Without a view
        nothing is stacked: there is one average for each parameter, in its shape, only to be read.
        """
        first = self.members[0]
        if first.view is None:
            us = list(self.step.average(self.members, None, [], split=False))
            self.u = self.places(us)
            return us
        # (matrices of all members, rows, columns), one stack for each size of a split.
        stacks = [
            empty((sum(i.shapes[k][0] for i in self.members), m, n), first.like, first.stack_dtype)
            for k, (m, n) in enumerate(first.sizes)
        ]
        self.u = self.places(stacks)
        self.step.average(self.members, [part for parts in self.u for part in parts], stacks)
        return stacks

    def states(self) -> list[State]:
        """The state that the rule keeps of each stack."""
        self.kept = [self.step.recall(m) for m in self.members]
        self.stacked = [
            {name: torch.cat([kept[k][name] for kept in self.kept]) for name in part}
            for k, part in enumerate(self.kept[0])
        ]
        if self.step.rule.observes:
            dtype = self.members[0].stack_dtype
            seen = [m.split(self.step.observed(m).to(dtype)) for m in self.members]
            places = [[_stack(part) for part in parts] for parts in seen]
            gradients = [torch.cat(list(parts)) for parts in zip(*places, strict=True)]
            self.step.rule.observe(gradients, self.stacked)
        return self.stacked

    def apply(self, directions: Sequence[Tensor]) -> None:
        """Move the parameters along stacks of directions, which are used up; keep the state."""
        finite = [self.step.finite[m.param] for m in self.members]
        if self.kept:
            self._keep(finite)
        updates = list(map(Update, self.members, finite, self.u, self.places(directions)))
        self.u = []  # the memory of the averages goes with the batch
        self.step.apply(updates)

    def _keep(self, finite: Sequence[Flag]) -> None:
        """Write the state back; it stays where a gradient was not finite."""
        old: list[Tensor] = []
        new: list[Tensor] = []
        flags: list[Flag] = []
        for k, stacks in enumerate(self.stacked):
            for name, stack in stacks.items():
                old += (kept[k][name] for kept in self.kept)
                new += stack.split([len(kept[k][name]) for kept in self.kept])
                flags += finite
        replace(old, new, flags)

    def places(self, stacks: Sequence[Tensor]) -> list[list[Tensor]]:
        """The parts of each parameter in the stacks, each of the shape that its view gives it."""
        members = self.members
        if members[0].view is None:
            # A tensor of the parameter's own shape for each.
            return [[stack] for stack in stacks]
        if all(m.is_one_part for m in members):
            # One (rows, columns) matrix for each member; back to its own orientation.
            turns = [m.transposed[0] for m in members]
            return [
                [x.mT if turn else x] for x, turn in zip(stacks[0].unbind(), turns, strict=True)
            ]
        places: list[list[Tensor]] = [[] for _ in members]
        for k, stack in enumerate(stacks):
            # Along the first axis: (batch of the member, rows, columns) for each of them.
            slices = stack.split([m.shapes[k][0] for m in members])
            for parts, member, place in zip(places, members, slices, strict=True):
                place = place.squeeze(0) if member.is_one_part else place
                parts.append(place.mT if member.transposed[k] else place)
        return places


def _stack(part: Tensor) -> Tensor:
    """A part of a parameter as a stack, (matrices, rows, columns)."""
    return part if part.ndim > 2 else part.unsqueeze(0)
