"""What a step puts into collectives, counted, against what it has to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import pytest
import torch

from steepest import Muon, SteepestDescent, norms
from steepest.optim import plan as planning
from steepest.optim.member import Member
from steepest.polar import Svd
from steepest.sharding import MARKS, CollectiveCounter, assign_owners
from steepest.views import EXPERTS, LINEAR, MatrixView
from tests.sharding.pool import pool
from tests.sharding.wells import Wells

Shapes = Mapping[str, tuple[tuple[int, ...], MatrixView | None]]

MAKE: Mapping[str, Callable[[Wells], torch.optim.Optimizer]] = {
    "muon": lambda w: Muon(w.matrices()[:1], lr=0.1, polar=Svd()),
    "half": lambda w: Muon(w.matrices()[:1], lr=0.1, polar=Svd(), exchange_dtype=torch.bfloat16),
    "half momentum": lambda w: Muon(
        w.matrices()[:1], lr=0.1, polar=Svd(), momentum_dtype=torch.bfloat16
    ),
    "half buffer": lambda w: Muon(
        w.matrices()[:1], lr=0.1, polar=Svd(), momentum_dtype=torch.bfloat16, nesterov=False
    ),
    "half both": lambda w: Muon(
        w.matrices()[:1],
        lr=0.1,
        polar=Svd(),
        momentum_dtype=torch.bfloat16,
        exchange_dtype=torch.bfloat16,
    ),
    "torch": lambda w: torch.optim.Muon(list(w.params.values()), lr=0.1),
    "entries": lambda w: SteepestDescent(w.named(), norms.LInf(), lr=0.1, momentum=0.9),
    "length": lambda w: SteepestDescent(w.named(), norms.L2(), lr=0.1, momentum=0.9),
    "rows": lambda w: SteepestDescent(
        w.matrices()[:1], norms.Operator("rms", math.inf), lr=0.1, momentum=0.9
    ),
    "columns": lambda w: SteepestDescent(
        w.matrices()[:1], norms.Operator(1, "rms"), lr=0.1, momentum=0.9
    ),
}


class Count(NamedTuple):
    """The collectives of one rank in one step: calls and bytes by name."""

    calls: dict[str, int]
    sent: dict[str, int]


def alike(count: int, rows: int = 8, cols: int = 24) -> Shapes:
    """So many matrices of one shape."""
    return {f"w{i}": ((rows, cols), LINEAR) for i in range(count)}


def gpt(width: int, layers: int) -> Shapes:
    """The hidden matrices of a GPT-2."""
    kinds = {"qkv": (3, 1), "out": (1, 1), "up": (4, 1), "down": (1, 4)}
    views = {"qkv": MatrixView(split=3)}
    return {
        f"{i}.{name}": ((m * width, n * width), views.get(name, LINEAR))
        for i in range(layers)
        for name, (m, n) in kinds.items()
    }


def size(shapes: Shapes, itemsize: int = 4) -> int:
    """Bytes of all of them."""
    return itemsize * sum(math.prod(shape) for shape, _ in shapes.values())


def count(
    rank: int,
    world: int,
    name: str,
    shapes: Shapes,
    layout: str = "fsdp",
    bucket: int | None = None,
) -> Count:
    """The collectives of the second step: in the first one the ranks look who they are."""
    before, planning.BUCKET = planning.BUCKET, bucket or planning.BUCKET
    try:
        wells = Wells(layout, world, torch.float32, shapes)
        optimizer = MAKE[name](wells)
        for step in range(2):
            wells.pull(step)
            with CollectiveCounter() as counter:
                optimizer.step()
    finally:
        planning.BUCKET = before
    return Count(dict(counter.calls), dict(counter.sent))


def flags(shapes: Shapes) -> dict[str, int]:
    """What is sent where nothing moves: which gradients are finite, whether to raise, the marks."""
    return {"all_reduce": 2 * (len(shapes) + 1 + MARKS)}


# Bytes of an entry, there and back: a Nesterov average is no number of half precision.
WIDTHS = {
    "muon": (4, 4),
    "half": (2, 2),
    "half momentum": (4, 4),
    "half buffer": (2, 4),
    "half both": (2, 2),
}


@pytest.mark.parametrize("world", [2, 4])
def test_a_rank_sends_what_it_holds_and_what_it_owns(world: int) -> None:
    shapes = alike(8)
    for name, widths in WIDTHS.items():
        for found in pool(world).run(count, name, shapes):
            share = size(shapes, sum(widths)) / world
            assert found.sent["all_to_all_single"] == share * (world - 1) / world
            assert sum(found.sent.values()) <= share


def on_the_wire(found: Count, world: int) -> float:
    """Bytes that leave a rank if reductions and gathers go around a ring."""
    around = {"all_reduce": 2 * (world - 1) / world, "all_gather_into_tensor": world - 1}
    return sum(n * around.get(name, 1) for name, n in found.sent.items())


def test_far_less_is_sent_than_by_torch() -> None:
    world, shapes = 4, gpt(16, 3)
    ranks = zip(
        *(pool(world).run(count, n, shapes) for n in ("torch", "half", "muon")), strict=True
    )
    for theirs, half, single in ranks:
        # torch multiplies in bfloat16, whatever the type of the momentum.
        assert 5 * sum(half.sent.values()) <= sum(theirs.sent.values())
        assert 5 * on_the_wire(single, world) <= on_the_wire(theirs, world)
        assert sum(single.calls.values()) == 3  # there, back, and the flags
        assert sum(theirs.calls.values()) > 10 * len(shapes)


def test_the_collectives_grow_with_the_buckets() -> None:
    few, many = alike(4), alike(16)
    matrix = size(alike(1))
    for shapes, bucket, buckets in (few, None, 1), (many, None, 1), (many, 2 * matrix, 2):
        for found in pool(4).run(count, "muon", shapes, "fsdp", bucket):
            assert found.calls == {"all_reduce": 1, "all_to_all_single": 2 * buckets}


def test_norms_that_couple_no_matrix_move_none() -> None:
    shapes = alike(2, 8, 24)
    column = 4 * 24  # one number for each
    # Bytes of a parameter: what is reduced for the scale, and for the length at that scale.
    bounds = {"entries": 0, "rows": 0, "length": 2 * 4, "columns": 2 * column}
    for name, bound in bounds.items():
        for found in pool(4).run(count, name, shapes):
            moved = sum(found.sent.values()) - sum(flags(shapes).values())
            assert moved <= len(shapes) * bound, (name, found)


def test_experts_that_are_whole_stay_where_they_are() -> None:
    shapes: Shapes = {"up": ((8, 6, 5), EXPERTS), "down": ((8, 5, 6), EXPERTS)}
    for found in pool(4).run(count, "muon", shapes):
        assert found.sent == flags(shapes)


def test_copies_are_not_gathered_and_their_results_are_shared() -> None:
    shapes = alike(4)
    for found in pool(4).run(count, "muon", shapes, "replicated"):
        assert found.sent == {**flags(shapes), "all_gather_into_tensor": size(shapes) // 4}


def quintic(m: int, n: int) -> int:
    """Flops of a Newton–Schulz step: two products with the short side, and its square."""
    short, long = min(m, n), max(m, n)
    return 4 * short**2 * long + 2 * short**3


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_the_polar_work_is_divided(ranks: int) -> None:
    matrices = gpt(768, 12)
    items = [
        Member(p, torch.float32, view, True, p)
        for shape, view in matrices.values()
        for p in [torch.empty(shape, device="meta")]
    ]
    owners = assign_owners([planning.cost(item) for item in items], ranks)
    work = [0] * ranks
    for item, owner in zip(items, owners, strict=True):
        work[owner] += sum(b * quintic(m, n) for b, m, n in item.shapes)
    assert max(work) <= 1.25 * sum(work) / ranks
    assert sorted(set(owners)) == list(range(ranks))
