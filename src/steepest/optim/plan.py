"""The plan of a step: which parameters share a stack, and which rank computes what."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from steepest._common.numerics import widened
from steepest.norms import Coupling
from steepest.optim.batching import Bundle, GroupStep, bundles, in_chunks, stackable
from steepest.optim.kept import KeptTensor, kept_tensors
from steepest.optim.member import Member
from steepest.optim.momentum import average_dtype
from steepest.optim.options import Group
from steepest.optim.rule import UpdateRule
from steepest.sharding import (
    BUCKET,
    Exchange,
    Layout,
    OwnedTensor,
    RankGroup,
    assign_owners,
    is_sharded,
    layout_of,
    local,
    make_buckets,
)
from steepest.views import MatrixView

PLANNED = ("momentum_dtype", "nesterov", "constraint")
"""Keys of a group that its plan follows, beside the rule, the parameters and the average."""

Types = tuple[torch.dtype, torch.dtype]
"""The types in which a tensor travels to its owner, and in which the result comes back."""

Kind = tuple[RankGroup, torch.dtype, Types, torch.device, bool]
"""Whatever parameters of one bucket have in common."""

Taking = Sequence[tuple[Tensor, MatrixView | None]]
"""The parameters of a group that take part in a step, each with its view."""


class PlacedMember(NamedTuple):
    """A parameter that lies on several ranks.

    Args:
        place: The place of its group.
        member: The parameter, with a tensor like the whole.
        layout: The part of it that each rank holds.
    """

    place: int
    member: Member
    layout: Layout


@dataclass(eq=False)
class Bucket:
    """Parameters, of one group or several, that travel to their owners together.

    Args:
        members: The parameters, each with a tensor like the whole.
        places: The place of the group of each.
        exchange: The exchange of their tensors with the owners.
        limit: Bound on a stack, in bytes.
    """

    members: list[Member]
    places: list[int]
    exchange: Exchange
    limit: int | None

    own: list[tuple[int, Bundle]] = field(init=False)
    """The parameters that this rank owns, in stacks, each with the place of its group."""
    number: Mapping[Member, int] = field(init=False)
    """The place of each parameter in the bucket."""
    of_group: dict[int, list[int]] = field(init=False)
    """The numbers of the parameters of each group, by the place of the group."""

    def __post_init__(self) -> None:
        self.number = {member: i for i, member in enumerate(self.members)}
        self.of_group = {}
        for i, place in enumerate(self.places):
            self.of_group.setdefault(place, []).append(i)
        owned, limit = set(self.exchange.owned), self.limit
        self.own = [
            (place, bundle)
            for place, numbers in self.of_group.items()
            for bundle in bundles(
                stackable([self.members[i] for i in numbers if i in owned], limit), limit
            )
        ]

    def narrowed(self, places: Collection[int], dtype: torch.dtype | None = None) -> Bucket | None:
        """The parameters of some groups alone, which travel in a type of their own.

        Args:
            places: The places of the groups.
            dtype: The type; None for that of the parameters.

        Returns:
            The bucket; None if it would be empty.
        """
        chosen = [i for i, place in enumerate(self.places) if place in places]
        if not chosen:
            return None
        members = [self.members[i] for i in chosen]
        if dtype is None:
            dtype = widened(reduce(torch.promote_types, [m.param.dtype for m in members]))
        tensors = [self.exchange.tensors[i] for i in chosen]
        exchange = replace(self.exchange, tensors=tensors, dtype=dtype, back=dtype)
        return Bucket(members, [self.places[i] for i in chosen], exchange, self.limit)


@dataclass(eq=False)
class MatrixBucket(Bucket):
    """Parameters whose averages travel to their owners, with what is kept of them.

    Args:
        rules: The rule of each group, by its place.
    """

    rules: Mapping[int, UpdateRule]

    kept: list[tuple[Member, KeptTensor]] = field(init=False)
    """Tensors that the rules keep of the parameters."""
    kept_exchange: Exchange = field(init=False)
    """The exchange of these tensors."""
    observed: Bucket | None = field(init=False)
    """The parameters whose gradients a rule looks at; None if there are none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        exchange, self.kept, tensors = self.exchange, [], []
        for member, place, tensor in zip(self.members, self.places, exchange.tensors, strict=True):
            rule = self.rules[place]
            for each in kept_tensors(member, rule.state_shapes) if rule.keeps_state else ():
                self.kept.append((member, each))
                tensors.append(OwnedTensor(each.layout(member, exchange.ranks), tensor.owner))
        first = self.members[0]
        dtype = first.compute_dtype
        self.kept_exchange = replace(exchange, tensors=tensors, dtype=dtype, back=dtype)
        # As one process looks at them: not in the type of a momentum in half precision.
        observing = [place for place, rule in self.rules.items() if rule.observes]
        self.observed = self.narrowed(observing, first.stack_dtype)


@dataclass(eq=False)
class StepPlan:
    """The parameters that take part in a step, sorted by how they are computed.

    Args:
        here: Parameters, or shards of them, whose directions this rank computes for itself, with
            the place of their group.
        apart: Parameters whose directions all ranks compute together, each for its shard; those
            that are computed at a time, each with the place of its group.
        buckets: Parameters whose directions one rank computes, for all.
        weights: Parameters that are projected on a ball by their owners.
    """

    here: list[tuple[int, Bundle]]
    apart: list[list[tuple[int, Member]]]
    buckets: list[MatrixBucket]
    weights: list[Bucket] = field(default_factory=list)

    def members(self, place: int) -> Iterator[Member]:
        """The parameters of a group."""
        for group, bundle in self.here:
            if group == place:
                yield from (member for batch in bundle for member in batch)
        for placed in (*self.apart, *(zip(b.places, b.members, strict=True) for b in self.buckets)):
            yield from (member for group, member in placed if group == place)


def planned(
    steps: Sequence[GroupStep],
    takings: Sequence[Taking],
    replicas: RankGroup | None,
    limit: int | None,
    exchange_dtype: torch.dtype | None,
) -> StepPlan:
    """The plan of a step; the same on every rank but for `here` and the parameters it owns.

    Args:
        steps: The step of each group.
        takings: The parameters of each group that take part.
        replicas: Ranks that hold copies of the parameters that are not sharded; None if unknown.
        limit: Bound on a stack, in bytes.
        exchange_dtype: Type in which averages and directions travel; None for types in which
            nothing is rounded.
    """
    here: list[tuple[int, Bundle]] = []
    apart: list[PlacedMember] = []
    shared: list[PlacedMember] = []
    for step, taking in zip(steps, takings, strict=True):
        own: list[Member] = []
        for p, view in taking:
            _sort(p, view, step, replicas, (own, apart, shared))
        here += [(step.place, bundle) for bundle in bundles(stackable(own, limit), limit)]
    groups, rules = {s.place: s.group for s in steps}, {s.place: s.rule for s in steps}

    def types(placed: PlacedMember) -> Types:
        there, back = exact_types(placed.member, groups[placed.place])
        asked = back if back.is_complex else exchange_dtype or back
        return _smaller(there, asked), _smaller(back, asked)

    buckets = [
        MatrixBucket([x.member for x in some], [x.place for x in some], exchange, limit, rules)
        for some, exchange in in_buckets(shared, replicas, types)
    ]
    balls = {place for place, group in groups.items() if group.get("constraint")}
    weights = [b for b in (bucket.narrowed(balls) for bucket in buckets) if b is not None]

    def own_type(placed: PlacedMember) -> Types:
        dtype = widened(placed.member.param.dtype)
        return dtype, dtype

    projected = [placed for placed in apart if placed.place in balls]
    weights += [
        Bucket([x.member for x in some], [x.place for x in some], exchange, limit)
        for some, exchange in in_buckets(projected, replicas, own_type)
    ]
    return StepPlan(here, list(_together(apart)), buckets, weights)


def _sort(
    p: Tensor,
    view: MatrixView | None,
    step: GroupStep,
    replicas: RankGroup | None,
    lists: tuple[list[Member], list[PlacedMember], list[PlacedMember]],
) -> None:
    """Put a parameter that takes part among those that are computed in the same way.

    Args:
        p: The parameter.
        view: Its view.
        step: The step of its group.
        replicas: Ranks that hold copies of parameters that are not sharded.
        lists: Those that this rank computes for itself, that all ranks compute together, and that
            one rank computes.
    """
    here, apart, shared = lists
    rule = step.rule
    dtype, matrix = average_dtype(p, step.group["momentum_dtype"]), rule.couples is Coupling.MATRIX

    def member(like: Tensor) -> Member:
        return Member(p, dtype, view, rule.symmetric, like)

    if not is_sharded(p):
        if replicas and matrix:
            layout = Layout.replicated(p.shape, replicas.size)
            shared.append(PlacedMember(step.place, member(p), layout))
        else:
            here.append(member(p))
        return
    layout = layout_of(p)
    kept = rule.keeps_state or bool(rule.retraction and rule.retraction.names)
    if layout.sharded_dims and not matrix and _axes_stay(layout, view):
        apart.append(PlacedMember(step.place, member(p), layout))
    elif (
        p.device_mesh.size() == 1
        or not (matrix or layout.sharded_dims)
        or _by_members(layout, view, in_one_axis=kept)
    ):
        here.append(member(local(p)))
    else:
        like = torch.empty((), dtype=p.dtype, device=p.device).expand(p.shape)
        shared.append(PlacedMember(step.place, member(like), layout))


def members_of(
    place: int, group: Group, rule: UpdateRule, views: Sequence[MatrixView | None]
) -> list[Member]:
    """The parameters of a group as its steps take them, without asking the other ranks."""
    step = GroupStep(place, group, rule, {}, {})
    found: list[Member] = []
    for p, view in zip(group["params"], views, strict=True):
        here: list[Member] = []
        several: list[PlacedMember] = []
        _sort(p, view, step, None, (here, several, several))
        found += here or [placed.member for placed in several]
    return found


def exact_types(member: Member, group: Group) -> Types:
    """The types in which an average and its direction travel without being rounded.

    A step looks at averages and makes directions in single precision at least. An average that is
    the momentum buffer itself has its type.
    """
    momentum: object = group.get("momentum", 0.0)
    kept = isinstance(momentum, Tensor) or momentum != 0
    buffer = kept and not group.get("nesterov") and "betas" not in group
    return member.dtype if buffer else member.stack_dtype, member.stack_dtype


def _smaller(dtype: torch.dtype, other: torch.dtype) -> torch.dtype:
    """The type of fewer bytes, the first one of two of equal size."""
    return dtype if dtype.itemsize <= other.itemsize else other


def _together(apart: Sequence[PlacedMember]) -> Iterator[list[tuple[int, Member]]]:
    """Parameters whose directions all ranks of a mesh compute at a time: as many as fill a bucket.

    What a rank holds is counted as its even share, so that all ranks count alike.
    """
    meshes: dict[RankGroup, list[PlacedMember]] = {}
    for placed in apart:
        assert is_sharded(placed.member.param), "so says the plan"
        ranks = RankGroup.of_mesh(placed.member.param.device_mesh)
        meshes.setdefault(ranks, []).append(placed)
    for ranks, every in meshes.items():
        for some in in_chunks(every, [x.member.nbytes // ranks.size for x in every], BUCKET):
            yield [(x.place, x.member) for x in some]


def _axes_stay(layout: Layout, view: MatrixView | None) -> bool:
    """Whether no axis along which the tensor is cut is split, or merged with another."""
    if view is None:
        return True
    # Several blocks are merged with the batch.
    batch = view.batch if view.split == 1 else ()
    alone = {axes[0] for axes in (batch, view.rows, view.cols) if len(axes) == 1}
    return layout.sharded_dims <= alone and _blocks_stay(layout, view)


def _by_members(layout: Layout, view: MatrixView | None, *, in_one_axis: bool) -> bool:
    """Whether every rank holds some matrices of a batch, and those whole.

    With one axis for the batch they are neighbours among all, and so is what is kept of them.
    """
    if view is None or not layout.sharded_dims or not all(layout.sizes):
        return False
    if in_one_axis and (len(view.batch) > 1 or view.split != 1):
        return False
    return layout.sharded_dims <= set(view.batch) and _blocks_stay(layout, view)


def _blocks_stay(layout: Layout, view: MatrixView) -> bool:
    """Whether the view splits no axis along which the tensor is cut."""
    return view.split == 1 or view.split_dim not in layout.sharded_dims


def in_buckets(
    placed: Sequence[PlacedMember],
    replicas: RankGroup | None,
    types: Callable[[PlacedMember], Types],
) -> Iterator[tuple[list[PlacedMember], Exchange]]:
    """Parameters of all groups with owners, as many to a bucket as every owner has room for.

    Args:
        placed: The parameters.
        replicas: Ranks that hold copies of those that are not sharded.
        types: The types in which the tensors of a parameter travel there and back.
    """
    alike: dict[Kind, list[PlacedMember]] = {}
    for each in placed:
        param, like = each.member.param, each.member.like
        ranks = RankGroup.of_mesh(param.device_mesh) if is_sharded(param) else replicas
        assert ranks is not None, "so says the plan"
        kind = ranks, each.member.dtype, types(each), like.device, each.layout.is_replicated
        alike.setdefault(kind, []).append(each)
    loads: dict[RankGroup, list[float]] = {}
    for (ranks, _, (there, back), device, _), some in alike.items():
        costs = [cost(each.member) for each in some]
        load = loads.setdefault(ranks, [0.0] * ranks.size)
        owners = assign_owners(costs, ranks.size, load)
        for owner, price in zip(owners, costs, strict=True):
            load[owner] += price
        sizes = [each.member.like.numel() * there.itemsize for each in some]
        for chosen in make_buckets(sizes, owners, BUCKET):
            tensors = [OwnedTensor(some[i].layout, owners[i]) for i in chosen]
            yield [some[i] for i in chosen], Exchange(ranks, tensors, there, back, device)


def cost(member: Member) -> float:
    """The cost of a direction for its owner, up to a factor: m·n·min(m, n) for each matrix."""
    if not member.shapes:
        return float(member.like.numel())
    return float(sum(b * m * n * min(m, n) for b, m, n in member.shapes))
