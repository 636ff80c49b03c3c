"""Parameters that lie on several ranks: who computes their directions, and how they come back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from steepest._common.numerics import widened
from steepest.norms import Couples, Geometry, Norm
from steepest.optim.batching import Bundles, Item, Move, batches, bundles, moves, nearest
from steepest.optim.updates import Flag
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
    local_like,
    sharded_like,
    whole,
)
from steepest.views import MatrixView

Lengths = Callable[[Item], Sequence[Tensor | float]]
Directions = Callable[[Sequence[Tensor]], list[Tensor]]
Inner = Callable[[Tensor, Tensor], Tensor]


@runtime_checkable
class Write(Protocol):
    """Updates the momentum averages of parameters and writes what follows from them."""

    def __call__(
        self,
        batch: Sequence[Item],
        out: list[Tensor],
        stacks: Sequence[Tensor],
        *,
        cut: bool = True,
    ) -> None:
        """Into one tensor for each part; for each parameter if not `cut`; into none if empty.

        The tensors fill the stacks.
        """


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

    def __post_init__(self) -> None:
        own = [self.items[i] for i in self.exchange.owned]
        self.own = list(bundles(batches(own, self.limit), self.limit))


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
    travelling: dict[tuple[Team, torch.dtype, bool], list[tuple[Item, Layout]]] = {}
    for p, dtype, view in taking:
        made = partial(Item, p, dtype, view, geometry.symmetric)
        matrix = geometry.couples is Couples.MATRIX
        if not is_sharded(p):
            if replicas and matrix:
                layout = Layout.replicated(p.shape, replicas.size)
                travelling.setdefault((replicas, dtype, True), []).append((made(p), layout))
            else:
                here.append(made(p))
            continue
        layout = layout_of(p)
        if layout.cut and not matrix and _axes_stay(layout, view):
            apart.append(made(p))
        elif p.device_mesh.size() == 1 or not (matrix or layout.cut) or _by_members(layout, view):
            here.append(made(local(p)))
        else:
            body = torch.empty((), dtype=p.dtype, device=p.device).expand(p.shape)
            key = Team.of_mesh(p.device_mesh), dtype, layout.copies
            travelling.setdefault(key, []).append((made(body), layout))
    buckets: list[Bucket] = []
    loads = {team: list(each) for team, each in before.items()}
    for (team, dtype, _), goods in travelling.items():
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


def _dual(move: Move, inner: Inner) -> Tensor:
    """⟨u, direction⟩ over all parts; of DTensors on every rank."""
    pairs = zip(move.u, move.direction, strict=True)
    return torch.stack([whole(inner(u, d)).sum() for u, d in pairs]).sum()


def shared_moves(
    plan: Plan,
    ok: Mapping[Tensor, Flag],
    write: Write,
    directions: Directions,
    lengths: Lengths,
    inner: Inner | None,
) -> Iterator[list[Slice]]:
    """Where the parameters go that no rank could move alone, by this rank's parts of them.

    Args:
        plan: of the group.
        ok: of each parameter whether its gradient is finite.
        write: updates the momentum averages.
        directions: where averages point.
        lengths: of the step of each part of a parameter, over `lr`.
        inner: ⟨u, direction⟩ of a part, if the duals are asked for.
    """
    for item in plan.apart:
        yield [_together(item, ok[item.param], write, directions, lengths, inner)]
    send = partial(_averages, write)
    compute = partial(_directions, directions, lengths, inner)
    for bucket, parts, duals in _through(plan.buckets, send, compute):
        yield [
            Slice(item, ok[item.param], [], [part.to(widened(part.dtype))], duals.get(i))
            for i, (item, part) in enumerate(zip(bucket.items, parts, strict=True))
        ]


def _together(
    item: Item,
    ok: Flag,
    write: Write,
    directions: Directions,
    lengths: Lengths,
    inner: Inner | None,
) -> Slice:
    """The move of a parameter whose direction is computed as a DTensor: torch does the reducing."""
    u = torch.empty_like(item.local, dtype=widened(item.dtype))
    write([item], [u], [u], cut=False)
    assert is_sharded(item.param), "so says the plan"
    parts = item.cut(sharded_like(u, item.param))
    move = Move(item, ok, parts, directions(parts))
    # Every rank knows it, and they are going to be added up.
    dual = _dual(move, inner) / item.param.device_mesh.size() if inner else None
    return Slice(item, ok, [], [local_like(_in_one(move, lengths(item)), item.param)], dual)


Results = tuple[dict[int, Tensor], dict[int, Tensor]]
"""Of the parameters of a bucket that this rank owns: what is handed back, and the duals."""


def _through(
    plan: Sequence[Bucket],
    send: Callable[[Bucket], dict[int, Tensor]],
    compute: Callable[[Bucket, dict[int, Tensor]], Results],
) -> Iterator[tuple[Bucket, list[Tensor], dict[int, Tensor]]]:
    """Each bucket when it is back from its owners; its neighbours travel while it is computed."""
    coming = plan[0].exchange.gather(send(plan[0])) if plan else None
    back = None
    for i, bucket in enumerate(plan):
        assert coming is not None, "there is a bucket"
        wholes = coming.wait()
        if i + 1 < len(plan):
            coming = plan[i + 1].exchange.gather(send(plan[i + 1]))
        results, duals = compute(bucket, wholes)
        going = bucket.exchange.scatter(results)
        if back is not None:
            yield back[0], back[1].wait(), back[2]
        back = bucket, going, duals
    if back is not None:
        yield back[0], back[1].wait(), back[2]


def _averages(write: Write, bucket: Bucket) -> dict[int, Tensor]:
    """This rank's parts of the averages that its owner, or another, needs."""
    asked = sorted(bucket.exchange.asked)
    out = {
        i: torch.empty_like(bucket.items[i].local, dtype=widened(bucket.items[i].dtype))
        for i in asked
    }
    parts = list(out.values())
    write([bucket.items[i] for i in asked], parts, parts, cut=False)
    write([x for i, x in enumerate(bucket.items) if i not in out], [], [])
    return out


def _directions(
    directions: Directions,
    lengths: Lengths,
    inner: Inner | None,
    bucket: Bucket,
    wholes: Mapping[int, Tensor],
) -> Results:
    """The directions of the parameters that this rank owns."""
    number = {id(item): i for i, item in enumerate(bucket.items)}

    def put(batch: Sequence[Item], places: list[Tensor], _: Sequence[Tensor]) -> None:
        parts = [part for item in batch for part in item.cut(wholes[number[id(item)]])]
        for place, part in zip(places, parts, strict=True):
            place.copy_(part)

    sure = {item.param: True for item in bucket.items}
    results, duals = dict[int, Tensor](), dict[int, Tensor]()
    for bundle in bucket.own:
        for batch in moves(bundle, sure, put, directions):
            for move in batch:
                i = number[id(move.item)]
                if inner:
                    duals[i] = _dual(move, inner)
                results[i] = _in_one(move, lengths(move.item))
    return results, duals


def projected(plan: Plan, ball: Norm, radii: Lengths) -> Iterator[tuple[Item, Tensor]]:
    """The parameters of a group on their balls, as far as this rank holds them."""
    for item in plan.at_home:
        yield item, nearest(item, item.local, ball, radii(item))
    for item in plan.apart:
        assert is_sharded(item.param), "so says the plan"
        full = nearest(item, whole(item.param), ball, radii(item))
        place = Team.of_mesh(item.param.device_mesh).place
        yield item, layout_of(item.param).take(full, place)

    def compute(bucket: Bucket, wholes: Mapping[int, Tensor]) -> Results:
        items = ((i, bucket.items[i]) for i in bucket.exchange.owned)
        return {i: nearest(x, wholes[i], ball, radii(x)) for i, x in items}, {}

    # Weights travel in their own type.
    own = [
        replace(b, exchange=replace(b.exchange, dtype=widened(b.items[0].param.dtype)))
        for b in plan.buckets
    ]

    def weights(bucket: Bucket) -> dict[int, Tensor]:
        return {i: bucket.items[i].local for i in bucket.exchange.asked}

    for bucket, parts, _ in _through(own, weights, compute):
        yield from zip(bucket.items, parts, strict=True)
