"""Which parameters share a stack, and who computes the directions of those on several ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steepest.norms import Couples, Geometry
from steepest.optim.batching import Bundles, Item, batches, bundles
from steepest.sharding import (
    BUCKET,
    Exchange,
    Layout,
    Parcel,
    Team,
    balanced,
    bucketed,
    is_sharded,
    layout_of,
    local,
)
from steepest.views import MatrixView


@dataclass(eq=False)
class Bucket:
    """Parameters that go to their owners together.

    Args:
        items: the parameters, each with a body like the whole.
        exchange: the way there and back.
        limit: bound on a stack, in bytes.
    """

    items: list[Item]
    exchange: Exchange
    limit: int | None

    own: Bundles = field(init=False)
    """What is stacked with what of the parameters that this rank owns."""
    number: Mapping[Item, int] = field(init=False)
    """The place of each parameter."""

    def __post_init__(self) -> None:
        own = [self.items[i] for i in self.exchange.owned]
        self.own = list(bundles(batches(own, self.limit), self.limit))
        self.number = {item: i for i, item in enumerate(self.items)}


Loads = Mapping[Team, Sequence[float]]
"""What the directions of whole matrices cost each rank of a team."""


@dataclass(eq=False)
class Plan:
    """What is done together with what in the steps of a group.

    Args:
        here: parameters, or parts of them, whose directions this rank computes for itself.
        apart: parameters whose directions all ranks compute together, each for its part.
        buckets: parameters whose directions one rank computes, for all.
        loads: what that costs each rank of a team, with that of the groups before.
    """

    here: Bundles
    apart: list[Item]
    buckets: list[Bucket]
    loads: Loads

    @property
    def at_home(self) -> Iterator[Item]:
        """The parameters of `here`."""
        return (item for bundle in self.here for batch in bundle for item in batch)


def planned(
    taking: Iterable[tuple[Tensor, torch.dtype, MatrixView | None]],
    geometry: Geometry,
    replicas: Team | None,
    limit: int | None,
    before: Loads,
) -> Plan:
    """The plan of a group; the same on every rank but for `here` and what each one owns.

    Args:
        taking: parameters, each with the type of its momentum and its view.
        geometry: of the group.
        replicas: ranks that hold copies of the parameters that are not sharded; None if unknown.
        limit: bound on a stack, in bytes.
        before: what the ranks have of the groups before.
    """
    here: list[Item] = []
    apart: list[Item] = []
    shared: dict[tuple[Team, torch.dtype, bool], list[tuple[Item, Layout]]] = {}
    matrix, turns = geometry.couples is Couples.MATRIX, geometry.symmetric
    for p, dtype, view in taking:
        if not is_sharded(p):
            if replicas and matrix:
                layout = Layout.replicated(p.shape, replicas.size)
                shared.setdefault((replicas, dtype, True), []).append(
                    (Item(p, dtype, view, turns, p), layout)
                )
            else:
                here.append(Item(p, dtype, view, turns, p))
            continue
        layout = layout_of(p)
        if layout.cut and not matrix and _axes_stay(layout, view):
            apart.append(Item(p, dtype, view, turns, p))
        elif p.device_mesh.size() == 1 or not (matrix or layout.cut) or _by_members(layout, view):
            here.append(Item(p, dtype, view, turns, local(p)))
        else:
            body = torch.empty((), dtype=p.dtype, device=p.device).expand(p.shape)
            key = Team.of_mesh(p.device_mesh), dtype, layout.copies
            shared.setdefault(key, []).append((Item(p, dtype, view, turns, body), layout))
    buckets: list[Bucket] = []
    loads = {team: list(each) for team, each in before.items()}
    for (team, dtype, _), goods in shared.items():
        costs = [cost(item) for item, _ in goods]
        load = loads.setdefault(team, [0.0] * team.size)
        owners = balanced(costs, team.size, load)
        for owner, price in zip(owners, costs, strict=True):
            load[owner] += price
        buckets += _buckets(goods, owners, team, dtype, limit)
    return Plan(list(bundles(batches(here, limit), limit)), apart, buckets, loads)


def _axes_stay(layout: Layout, view: MatrixView | None) -> bool:
    """Whether no axis along which the tensor is cut is split, or merged with another."""
    if view is None:
        return True
    alone = {axes[0] for axes in (view.batch, view.rows, view.cols) if len(axes) == 1}
    return layout.cut <= alone and _blocks_stay(layout, view)


def _by_members(layout: Layout, view: MatrixView | None) -> bool:
    """Whether every rank holds some matrices of a batch, and those whole."""
    if view is None or not layout.cut or not all(layout.sizes):
        return False
    return layout.cut <= set(view.batch) and _blocks_stay(layout, view)


def _blocks_stay(layout: Layout, view: MatrixView) -> bool:
    """Whether the view splits no axis along which the tensor is cut."""
    return view.split == 1 or view.split_dim not in layout.cut


def _buckets(
    goods: Sequence[tuple[Item, Layout]],
    owners: Sequence[int],
    team: Team,
    dtype: torch.dtype,
    limit: int | None,
) -> Iterator[Bucket]:
    """Parameters with their owners, as many to a bucket as every owner has room for."""
    sizes = [item.body.numel() * dtype.itemsize for item, _ in goods]
    for chosen in bucketed(sizes, owners, BUCKET):
        parcels = [Parcel(goods[i][1], owners[i]) for i in chosen]
        device = goods[0][0].body.device
        items = [goods[i][0] for i in chosen]
        yield Bucket(items, Exchange(team, parcels, dtype, device), limit)


def cost(item: Item) -> float:
    """What its direction costs its owner, up to a factor: m·n·min(m, n) for each matrix."""
    if not item.shapes:
        return float(item.body.numel())
    return float(sum(b * m * n * min(m, n) for b, m, n in item.shapes))
