"""What travels in a step: in which types, for how many groups, and whoever wraps first."""

from __future__ import annotations

import gc
import math
import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from steepest import LionK, Muon, SOAPMuon, SteepestDescent, maps, norms, transforms
from steepest.polar import Svd
from steepest.sharding import CollectiveCounter, RankGroup
from tests.sharding.models import MODELS, Spread
from tests.sharding.pool import pool
from tests.sharding.wells import SHAPES, Wells

Make = Callable[[Wells], Any]

HALF = torch.bfloat16
# On parameters in float32: averages with Nesterov, without, with two weights, and without momentum.
HALVES: Mapping[str, Make] = {
    "nesterov": lambda w: Muon(w.matrices(), lr=0.1, polar=Svd(), momentum_dtype=HALF),
    "plain": lambda w: Muon(w.matrices(), lr=0.1, polar=Svd(), momentum_dtype=HALF, nesterov=False),
    "float16": lambda w: Muon(
        w.matrices(), lr=0.1, polar=Svd(), momentum_dtype=torch.float16, nesterov=False
    ),
    "two weights": lambda w: LionK(
        w.matrices(), lr=0.1, K=maps.NuclearMap(polar=Svd()), momentum_dtype=HALF
    ),
    "none": lambda w: SteepestDescent(w.matrices(), norms.Schatten(4), lr=0.1, momentum_dtype=HALF),
    "gradients that are looked at": lambda w: SOAPMuon(
        w.matrices(), lr=0.1, polar=Svd(), momentum_dtype=HALF
    ),
    "eight bits": lambda w: Muon(w.matrices(), lr=0.1, polar=Svd(), momentum_dtype=torch.int8),
}


def whole(x: Tensor) -> Tensor:
    """All of a parameter, as it is now."""
    return (x.full_tensor() if hasattr(x, "full_tensor") else x).detach().clone()


def apart(make: Make, layout: str, world: int, dtype: torch.dtype, steps: int = 2) -> float:
    """How far the weights are from those of one process, over how far these have gone."""
    spread, alone = (Wells(name, world, dtype) for name in (layout, "one"))
    start = [p.detach().clone() for p in alone.params.values()]
    pair = [(w, make(w)) for w in (spread, alone)]
    for step in range(steps):
        for wells, optimizer in pair:
            wells.pull(step)
            optimizer.step()
    worst = 0.0
    for p, q, before in zip(spread.params.values(), alone.params.values(), start, strict=True):
        end = q.detach()
        worst = max(worst, float((whole(p) - end).norm() / (end - before).norm()))
    return worst


def halves(rank: int, world: int, layout: str, dtype: torch.dtype) -> dict[str, float]:
    """For each optimizer the distance from one process."""
    return {name: apart(make, layout, world, dtype) for name, make in HALVES.items()}


SLOW = pytest.mark.slow


@pytest.mark.parametrize("layout", ["fsdp+tp", pytest.param("hsdp", marks=SLOW)])
def test_momentum_in_half_precision_makes_the_step_of_one_process(layout: str) -> None:
    for found in pool(4).run(halves, layout, torch.float32):
        for name, far in found.items():
            assert far < 2e-5, (name, far)


def asked(rank: int, world: int, momentum: torch.dtype | None) -> float:
    """The distance from one process with bfloat16 on the way."""
    options: dict[str, Any] = {"momentum_dtype": momentum, "exchange_dtype": HALF}
    return apart(
        lambda w: Muon(w.matrices(), lr=0.1, polar=Svd(), **options), "fsdp", world, torch.float32
    )


@pytest.mark.parametrize("momentum", [HALF, pytest.param(None, marks=SLOW)])
def test_tensors_are_rounded_on_the_way_if_that_is_asked_for(momentum: torch.dtype | None) -> None:
    for far in pool(2).run(asked, momentum):
        assert 1e-4 < far < 3e-2, far


# Which groups there are, by the number of them.


def grouped(wells: Wells, count: int) -> Muon:
    """A Muon with so many groups, which differ in all that groups may differ in but the type."""
    names = [n for n, (_, view) in wells.shapes.items() if view is not None]
    groups: list[dict[str, Any]] = []
    for i in range(count):
        own = names[i::count]
        groups.append(
            {
                "params": wells.named(own),
                "views": tuple(wells.shapes[n][1] for n in own),
                "lr": 0.1 / (1 + i),
                "momentum": 0.9 - 0.1 * i,
                "nesterov": i != 1,
                "weight_decay": 0.1 * i,
                "decay": ("explicit", "cautious", "implicit")[i % 3],
                "adjust_lr_fn": (None, "match_rms_adamw")[i % 2],
                "before": transforms.RowSecondMoment() if i == 2 else None,
            }
        )
    return Muon(groups, polar=Svd())


def many(rank: int, world: int, layout: str, count: int) -> tuple[dict[str, int], float]:
    """The collectives of a step of so many groups, and the distance from one process."""
    wells = Wells(layout, world, torch.float64)
    optimizer = grouped(wells, count)
    for step in range(2):
        wells.pull(step)
        with CollectiveCounter() as counter:
            optimizer.step()
    far = apart(lambda w: grouped(w, count), layout, world, torch.float64)
    return dict(counter.calls), far


@pytest.mark.parametrize("layout", ["fsdp", pytest.param("replicated", marks=SLOW)])
def test_groups_travel_together(layout: str) -> None:
    matrices = sum(view is not None for _, view in SHAPES.values())
    assert matrices == 5
    calls = {}
    for count in (1, 2, 5):
        for found, far in pool(4).run(many, layout, count):
            assert far < 1e-11, (count, far)
            calls[count] = found
    assert calls[1] == calls[2]
    # What one group of five keeps travels too: there and back.
    more = {name: n - calls[1].get(name, 0) for name, n in calls[5].items()}
    assert sum(more.values()) <= 2, more


# Optimizers of a part of a model.

PARTS: Mapping[str, Callable[[nn.Module, int, int], list[nn.Parameter]]] = {
    # Matrices here, the rest in an optimizer of its own: all ranks have the same.
    "some": lambda m, rank, world: [p for p in m.parameters() if p.ndim == 2],
    # Each rank has its share of the parameters, as with ZeRO by hand.
    "shared out": lambda m, rank, world: [p for p in m.parameters() if p.ndim == 2][rank::world],
}


def in_part(rank: int, world: int, kind: str) -> tuple[list[str], list[list[int]]]:
    """What an optimizer of some of the parameters says when the model is wrapped later."""
    torch.manual_seed(0)
    model = MODELS["mlp"]().double()
    optimizer = Muon(PARTS[kind](model, rank, world), lr=0.05, polar=Svd())
    run = Spread(DistributedDataParallel(model), model, rank, world)
    owned: list[list[int]] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(3):
            if step == 2 and kind == "some":
                optimizer.set_replicas(run.module)  # type: ignore[arg-type]
            run.loss(step, torch.float64).backward()
            optimizer.step()
            plans = [plan for _, plan in optimizer._plans.values()]
            owned.append([t.owner for p in plans for b in p.buckets for t in b.exchange.tensors])
    return [str(w.message) for w in caught if "set_replicas" in str(w.message)], owned


@pytest.mark.parametrize("kind", PARTS)
def test_an_optimizer_of_some_parameters_says_that_it_divides_nothing(kind: str) -> None:
    for said, owned in pool(2).run(in_part, kind):
        assert len(said) == 1 and "only slower" in said[0]
        assert owned[:2] == [[], []]
        assert set(owned[2]) == ({0, 1} if kind == "some" else set())


# Norms of columns and of the whole tensor.


def layers(count: int) -> Mapping[str, Any]:
    """Matrices of three shapes in so many layers, a convolution in each, and vectors."""
    out: dict[str, Any] = {}
    for i in range(count):
        for name in ("wide", "low", "conv"):
            out[f"{i}.{name}"] = SHAPES[name]
        out[f"{i}.bias"] = SHAPES["bias"]
    return out


def modular(wells: Wells) -> SteepestDescent:
    """Each parameter in a norm and a group of its own, and one length for all."""
    kinds = norms.ColumnNorm(), norms.Frobenius(), norms.RowNorm()
    named = {
        n: (kinds[i % 3] if len(shape) == 2 else norms.RMS(), 1.0)
        for i, (n, (shape, _)) in enumerate(wells.shapes.items())
    }
    return SteepestDescent(wells.named(), norms.Modular(named), sharpness=50.0, momentum=0.9)


COLUMNS = norms.ColumnNorm()
REDUCED: Mapping[str, Make] = {
    "columns": lambda w: SteepestDescent(w.matrices()[:1], COLUMNS, lr=0.1, momentum=0.9),
    "columns, dual": lambda w: SteepestDescent(w.matrices()[:1], COLUMNS, sharpness=9.0),
    "rows": lambda w: SteepestDescent(w.matrices()[:1], norms.RowNorm(), lr=0.1, momentum=0.9),
    "frobenius": lambda w: SteepestDescent(w.matrices()[:1], norms.Frobenius(), lr=0.1),
    "length": lambda w: SteepestDescent(w.named(), norms.L2(), lr=0.1, momentum=0.9),
    "third power": lambda w: SteepestDescent(w.named(), norms.Lp(3), lr=0.1, momentum=0.9),
    "one": lambda w: SteepestDescent(w.named(), norms.L1(), sharpness=9.0, momentum=0.9),
    "rms": lambda w: SteepestDescent(w.named(), norms.RMS(), lr=0.1, momentum=0.9),
    "largest": lambda w: SteepestDescent(w.named(), norms.LInf(), sharpness=300.0),
    "a map": lambda w: LionK(w.matrices()[:1], lr=0.05, K=maps.GroupColumns()),
    "modular": modular,
    "projected": lambda w: SteepestDescent(
        w.matrices()[:1], COLUMNS, lr=0.1, weight_decay=5.0, constraint="project"
    ),
}


def reduced(rank: int, world: int, layout: str) -> dict[str, tuple[list[dict[str, int]], float]]:
    """Of each optimizer the collectives for 2 and 5 layers, and the distance from one process."""
    out = {}
    for name, make in REDUCED.items():
        calls = []
        for count in (2, 5):
            wells = Wells(layout, world, torch.float64, layers(count))
            optimizer = make(wells)
            for step in range(2):
                wells.pull(step)
                with CollectiveCounter() as counter:
                    optimizer.step()
            calls.append(dict(counter.calls))
        out[name] = calls, apart(make, layout, world, torch.float64)
    return out


@pytest.mark.parametrize("layout", ["fsdp+tp", pytest.param("fsdp", marks=SLOW)])
def test_reductions_of_all_parameters_are_carried_out_together(layout: str) -> None:
    for found in pool(4).run(reduced, layout):
        for name, ((few, many), far) in found.items():
            assert few == many, (name, few, many)
            # The flags, and two reductions on each mesh axis for the scale and the length.
            assert sum(few.values()) <= 1 + 2 * (2 if "+" in layout else 1) * 2, (name, few)
            assert far < 1e-11, (name, far)
            assert math.isfinite(far)


def compiled(rank: int, world: int, name: str) -> tuple[float, list[str], str]:
    """The distance of compiled from eager steps, why the compiler stops, and what it says if told
    not to.
    """
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    pair = [Wells("fsdp", world, torch.float64) for _ in range(2)]
    takes = [make(w) for make, w in zip([REDUCED.get(name, grouped_once)] * 2, pair, strict=True)]
    steps = [takes[0].step, torch.compile(takes[1].step, backend="eager")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's, that it does not trace its own profiler
        for i in range(3):
            for wells, step in zip(pair, steps, strict=True):
                wells.pull(i)
                step()
        ends = zip(*(w.params.values() for w in pair), strict=True)
        far = max(float((whole(a) - whole(b)).abs().max()) for a, b in ends)
        reasons = list(torch._dynamo.utils.counters["graph_break"])
        torch.compiler.reset()
        said = ""
        try:
            torch.compile(takes[1].step, backend="eager", fullgraph=True)()
        except torch._dynamo.exc.Unsupported as error:
            said = str(error)
    return far, reasons, said


def grouped_once(wells: Wells) -> Muon:
    """A Muon with two groups."""
    return grouped(wells, 2)


@pytest.mark.parametrize("name", ["columns", "muon"])
def test_a_compiled_step_is_the_eager_one_and_says_why(name: str) -> None:
    reason = "asks the other ranks"
    for far, reasons, said in pool(2).run(compiled, name):
        assert far == 0
        assert len(reasons) == 1 and reason in reasons[0], reasons
        assert reason in said


def _group_of_a_part() -> None:
    mesh = init_device_mesh("cpu", (2, 2, 1), mesh_dim_names=("stage", "shard", "copy"))
    part = mesh["shard", "copy"]
    group = RankGroup.of_mesh(part).group
    assert RankGroup.of_mesh(part).group is group, "one is made, not one for every step"
    assert dist.get_process_group_ranks(group) == [0, 1]


def test_a_world_that_was_left_is_not_kept() -> None:
    """Groups of an earlier world hold its threads and sockets, and are of no use in the next."""
    for _ in range(2):
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
        try:
            world = weakref.ref(dist.group.WORLD)
            _group_of_a_part()
        finally:
            dist.destroy_process_group()
        gc.collect()
        assert world() is None
