"""The plan of a step: which parameters share a stack, and which rank computes what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steepest.norms import Coupling
from steepest.optim.batching import Bundle, bundles, stackable
from steepest.optim.member import Member
from steepest.optim.momentum import average_dtype
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


@dataclass(eq=False)
class Bucket:
    """Parameters that travel to their owners together.

    Args:
        members: The parameters, each with a tensor like the whole.
        exchange: The exchange of their tensors with the owners.
        limit: Bound on a stack, in bytes.
    """

    members: list[Member]
    exchange: Exchange
    limit: int | None

    own: list[Bundle] = field(init=False)
    """The parameters that this rank owns, in stacks."""
    number: Mapping[Member, int] = field(init=False)
    """The place of each parameter."""

    def __post_init__(self) -> None:
        own = [self.members[i] for i in self.exchange.owned]
        self.own = list(bundles(stackable(own, self.limit), self.limit))
        self.number = {member: i for i, member in enumerate(self.members)}


Loads = Mapping[RankGroup, Sequence[float]]
"""The cost of the directions of whole matrices, for each rank of a group of ranks."""


@dataclass(eq=False)
class StepPlan:
    """The parameters of a group that take part in a step, sorted by how they are computed.

    Args:
        here: Parameters, or shards of them, whose directions this rank computes for itself.
        apart: Parameters whose directions all ranks compute together, each for its shard.
        buckets: Parameters whose directions one rank computes, for all.
        loads: The cost of that for each rank of a group of ranks, with the groups before.
    """

    here: list[Bundle]
    apart: list[Member]
    buckets: list[Bucket]
    loads: Loads

    @property
    def at_home(self) -> Iterator[Member]:
        """The parameters of `here`."""
        return (member for bundle in self.here for batch in bundle for member in batch)


def planned(
    taking: Iterable[tuple[Tensor, MatrixView | None]],
    momentum_dtype: torch.dtype | None,
    rule: UpdateRule,
    replicas: RankGroup | None,
    limit: int | None,
    before: Loads,
) -> StepPlan:
    """The plan of a group; the same on every rank but for `here` and the parameters it owns.

    Args:
        taking: The parameters that take part, each with its view.
        momentum_dtype: Type of their momentum; None means the parameter's.
        rule: The rule of the group.
        replicas: Ranks that hold copies of the parameters that are not sharded; None if unknown.
        limit: Bound on a stack, in bytes.
        before: The work that the ranks have from the groups before.
    """
    here: list[Member] = []
    apart: list[Member] = []
    shared: dict[tuple[RankGroup, torch.dtype, bool], list[tuple[Member, Layout]]] = {}
    kept = rule.keeps_state or bool(rule.retraction and rule.retraction.names)
    matrix, symmetric = rule.couples is Coupling.MATRIX, rule.symmetric
    for p, view in taking:
        dtype = average_dtype(p, momentum_dtype)
        if not is_sharded(p):
            if replicas and matrix:
                layout = Layout.replicated(p.shape, replicas.size)
                shared.setdefault((replicas, dtype, True), []).append(
                    (Member(p, dtype, view, symmetric, p), layout)
                )
            else:
                here.append(Member(p, dtype, view, symmetric, p))
            continue
        layout = layout_of(p)
        if layout.sharded_dims and not matrix and _axes_stay(layout, view):
            apart.append(Member(p, dtype, view, symmetric, p))
        elif (
            p.device_mesh.size() == 1
            or not (matrix or layout.sharded_dims)
            or _by_members(layout, view, in_one_axis=kept)
        ):
            here.append(Member(p, dtype, view, symmetric, local(p)))
        else:
            like = torch.empty((), dtype=p.dtype, device=p.device).expand(p.shape)
            key = RankGroup.of_mesh(p.device_mesh), dtype, layout.is_replicated
            shared.setdefault(key, []).append((Member(p, dtype, view, symmetric, like), layout))
    buckets: list[Bucket] = []
    loads = {ranks: list(each) for ranks, each in before.items()}
    for (ranks, dtype, _), placed in shared.items():
        costs = [cost(member) for member, _ in placed]
        load = loads.setdefault(ranks, [0.0] * ranks.size)
        owners = assign_owners(costs, ranks.size, load)
        for owner, price in zip(owners, costs, strict=True):
            load[owner] += price
        buckets += _buckets(placed, owners, ranks, dtype, limit)
    return StepPlan(list(bundles(stackable(here, limit), limit)), apart, buckets, loads)


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


def _buckets(
    placed: Sequence[tuple[Member, Layout]],
    owners: Sequence[int],
    ranks: RankGroup,
    dtype: torch.dtype,
    limit: int | None,
) -> Iterator[Bucket]:
    """Parameters with their owners, as many to a bucket as every owner has room for."""
    sizes = [member.like.numel() * dtype.itemsize for member, _ in placed]
    for chosen in make_buckets(sizes, owners, BUCKET):
        tensors = [OwnedTensor(placed[i][1], owners[i]) for i in chosen]
        device = placed[0][0].like.device
        members = [placed[i][0] for i in chosen]
        yield Bucket(members, Exchange(ranks, tensors, dtype, device), limit)


def cost(member: Member) -> float:
    """The cost of a direction for its owner, up to a factor: m·n·min(m, n) for each matrix."""
    if not member.shapes:
        return float(member.like.numel())
    return float(sum(b * m * n * min(m, n) for b, m, n in member.shapes))
