"""What goes wrong on one rank: all of them know it, and none waits for ever."""

from __future__ import annotations

import os
import signal
import time
import warnings
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import Shard, distribute_tensor

from steepest import Muon, SteepestDescent, norms, route
from steepest.polar import Svd
from tests.sharding.models import mesh, spread
from tests.sharding.pool import Failure, PoolError, pool
from tests.sharding.wells import SHAPES, Wells


def optimizers(wells: Wells) -> list[Any]:
    """One that exchanges matrices, with AdamW for the rest, and one that stays where it is."""
    return [
        Muon(wells.matrices(), lr=0.1, polar=Svd()),
        SteepestDescent(wells.named(), norms.LInf(), lr=0.1, momentum=0.9),
    ]


def local(x: Tensor) -> Tensor:
    """What is here of a tensor, as it is now."""
    return (x.to_local() if hasattr(x, "to_local") else x).detach().clone()


def kept(wells: Wells, optimizer: Any, name: str) -> list[Tensor]:
    """A parameter and its state."""
    p = wells.params[name]
    return [local(p), *(local(x) for _, x in sorted(optimizer.state[p].items()))]


def poisoned(rank: int, world: int, layout: str, name: str) -> list[Any]:
    """Of each optimizer: whether a parameter has stayed, the others moved; what it has counted."""
    out = []
    for number in range(2):
        wells = Wells(layout, world, torch.float64)
        optimizer = optimizers(wells)[number]
        wells.pull(0)
        optimizer.step()
        wells.pull(1)
        before = {n: kept(wells, optimizer, n) for n in SHAPES}
        if rank == 1:
            wells.params[name].grad.to_local().view(-1)[0] = float("nan")
        optimizer.step()
        same = {
            n: all(map(torch.equal, kept(wells, optimizer, n), before[n]))
            for n in SHAPES
            if local(wells.params[n]).numel()
        }
        out.append((same, optimizer.skipped))
    return out


@pytest.mark.parametrize("layout", ["fsdp", "fsdp+tp", "replicated"])
def test_one_rank_is_not_finite_and_all_skip(layout: str) -> None:
    for name in "wide", "bias":
        for rank in pool(4).run(poisoned, layout, name):
            for same, skipped in rank:
                assert same == {n: n == name for n in same}
                assert skipped == 1


def refused(rank: int, world: int, kind: str) -> list[tuple[str, float]]:
    """What each optimizer says, and what the losses sum to once everything is right again."""
    out = []
    for number in range(2):
        shapes = dict(SHAPES)
        if kind == "model" and rank == 1:
            del shapes["qkv"]
        wells = Wells("fsdp", world, torch.float64, shapes)
        optimizer = optimizers(wells)[number]
        wells.pull(0)
        if kind == "gradient" and rank == 1:
            wells.params["wide"].grad = None
        said = ""
        try:
            optimizer.step()
        except ValueError as error:
            said = str(error)
        wells.pull(0)
        if kind == "gradient":
            optimizer.step()
        dist.barrier()
        out.append((said, sum(wells.pull(1))))
    return out


def test_a_gradient_on_some_ranks_only_is_refused_on_all() -> None:
    for rank in pool(4).run(refused, "gradient"):
        for said, loss in rank:
            assert "missing on some ranks" in said and "wide" in said
            assert loss >= 0


def test_ranks_with_different_models_are_refused_on_all() -> None:
    for rank in pool(4).run(refused, "model"):
        for said, _ in rank:
            assert "not the same on all 4 ranks" in said


def dies(rank: int, world: int) -> str:
    """Rank 1 is killed between two steps; what the other one sees."""
    wells = Wells("fsdp", world, torch.float64)
    optimizer = optimizers(wells)[0]
    for step in range(3):
        wells.pull(step)
        if step == 1 and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            optimizer.step()
        except RuntimeError as error:
            return str(error)
    return "nothing"


def answers(rank: int, world: int) -> int:
    """The sum of the ranks."""
    total = torch.tensor(rank)
    dist.all_reduce(total)
    return int(total)


def test_a_killed_process_ends_the_steps_of_the_others() -> None:
    started = time.monotonic()
    survivor, victim = pool(2).outcomes(dies)
    assert isinstance(victim, Failure) and victim.kind == "ProcessExit"
    # A word of the backend, and neither a step without the other nor a rank that waits.
    assert isinstance(survivor, str) and survivor != "nothing"
    assert pool(2).run(answers) == [1, 1]
    assert time.monotonic() - started < 60


def stays_away(rank: int, world: int) -> None:
    """Rank 1 does not come."""
    if rank == 1:
        raise KeyError("elsewhere")
    answers(rank, world)


def test_a_rank_that_does_not_come_is_reported() -> None:
    with pytest.raises(PoolError) as caught:
        pool(2).run(stays_away, timeout=20)
    assert "KeyError: 'elsewhere'" in str(caught.value)
    assert "rank 0: TimeoutError" in str(caught.value)
    assert pool(2).run(answers) == [1, 1]


def strict_in_part(rank: int, world: int, kind: str) -> str:
    """What a rank says where a parameter that only half of the ranks hold has a bad gradient."""
    both = mesh(dp=world // 2, tp=2)
    weight = torch.eye(6)
    lone = nn.Parameter(distribute_tensor(weight, both["dp"], [Shard(0)], src_data_rank=None))
    all_ = nn.Parameter(distribute_tensor(weight, both, [Shard(0)] * 2, src_data_rank=None))
    for p in (lone, all_):
        p.grad = p.detach().clone()
    if rank == 0 and kind == "nan":
        lone.grad.to_local()[0, 0] = float("nan")
    elif rank == 0:
        lone.grad = None
    try:
        Muon([lone, all_], lr=0.1, polar=Svd(), nonfinite="raise").step()
    except (ValueError, FloatingPointError) as error:
        return str(error)
    return "nothing"


def test_ranks_that_do_not_hold_a_bad_gradient_do_not_wait_for_those_that_do() -> None:
    for kind, word in ("nan", "NaN"), ("none", "missing on some ranks"):
        assert all(word in said for said in pool(4).run(strict_in_part, kind, timeout=30))


def halves(rank: int, world: int) -> tuple[list[Tensor], list[int]]:
    """The parameters after steps with momentum in half precision; the owners, a group a matrix."""
    wells = Wells("hsdp", world, torch.float32)
    groups = [{"params": [(n, wells.params[n])], "views": v} for n, (_, v) in SHAPES.items() if v]
    optimizer = Muon(groups, lr=0.1, polar=Svd(), momentum_dtype=torch.bfloat16)
    for step in range(2):
        wells.pull(step)
        optimizer.step()
    plans = [plan for _, plan in optimizer._plans.values()]
    owners = [p.owner for plan in plans for b in plan.buckets for p in b.exchange.tensors]
    return [local(p) for p in wells.params.values()], owners


def test_replicas_stay_alike_and_groups_share_the_ranks() -> None:
    ranks = pool(4).run(halves)
    for a, b in (0, 2), (1, 3):
        assert all(map(torch.equal, ranks[a][0], ranks[b][0]))
    assert len(set(ranks[0][1])) == 4


def searched(rank: int, world: int) -> list[float]:
    """The weights after line searches along the signs, which each rank computes for itself."""
    run = spread("mlp", "ddp", rank, world, torch.float64)
    optimizer = SteepestDescent(run.module, norms.LInf(), scale="linesearch")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = run.loss(0, torch.float64)
        loss.backward()
        return loss

    optimizer.step(closure)
    return [float(p.detach().sum()) for p in run.model.parameters()]


def test_replicas_search_along_one_line() -> None:
    one, other = pool(2).run(searched, timeout=30)
    assert one == other


def wrapped_later(rank: int, world: int) -> tuple[list[Tensor], list[list[int]]]:
    """The weights of an optimizer whose ranks compute for themselves, and how often each rank owns.

    The ranks hear of each other in the middle of the training.
    """
    torch.manual_seed(0)
    run = spread("gpt", "ddp", rank, world, torch.float64)
    optimizer = Muon(run.model, lr=0.05, polar=Svd())
    optimizer.set_replicas(None)  # or the first step would find them
    owned = []
    for step in range(4):
        if step == 2:
            optimizer.set_replicas(run.module)  # type: ignore[arg-type]
        optimizer.zero_grad()
        run.loss(step, torch.float64).backward()
        optimizer.step()
        plans = [plan for _, plan in optimizer._plans.values()]
        owned.append([p.owner for plan in plans for b in plan.buckets for p in b.exchange.tensors])
    return [p.detach() for p in run.model.parameters()], owned


def whole(rank: int, world: int) -> list[Tensor]:
    """The same training, by an optimizer that is given the wrapped model."""
    torch.manual_seed(0)
    run = spread("gpt", "ddp", rank, world, torch.float64)
    optimizer = Muon(run.module, lr=0.05, polar=Svd())
    for step in range(4):
        optimizer.zero_grad()
        run.loss(step, torch.float64).backward()
        optimizer.step()
    return [p.detach() for p in run.model.parameters()]


def test_ranks_that_are_named_later_divide_the_work_from_then_on() -> None:
    (one, owned), (other, _) = pool(2).run(wrapped_later, timeout=60)
    expected = pool(2).run(whole, timeout=60)[0]
    assert all(map(torch.equal, one, other))
    for a, b in zip(one, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert [set(owners) for owners in owned] == [set(), set(), {0, 1}, {0, 1}]


def zero(rank: int, world: int) -> list[Tensor]:
    """The weights after steps of ZeroRedundancyOptimizer around Muon, with a fused projection."""
    torch.manual_seed(0)
    run = spread("gpt", "ddp", rank, world, torch.float64)
    routed = route(run.model).groups()
    groups = [{**group, "params": [p for _, p in group["params"]]} for group in routed]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's, and ours of what it writes into the groups
        from torch.distributed.optim import ZeroRedundancyOptimizer

        optimizer = ZeroRedundancyOptimizer(groups, Muon, lr=0.05, polar=Svd())
    for step in range(4):
        optimizer.zero_grad()
        run.loss(step, torch.float64).backward()
        optimizer.step()
    return [p.detach() for p in run.model.parameters()]


def test_an_optimizer_that_gives_each_rank_some_of_the_parameters() -> None:
    one, other = pool(2).run(zero, timeout=60)
    expected = pool(2).run(whole, timeout=60)[0]
    assert all(map(torch.equal, one, other))
    for a, b in zip(one, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
