"""However an optimizer meets a wrapped model, the work is divided and gradients are followed."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import steepest
from steepest.polar import Svd
from steepest.sharding import CollectiveCounter, local
from tests.sharding.pool import pool
from tests.sharding.test_copies import alike, inputs, net

pytestmark = pytest.mark.xdist_group("dist")


class Within(nn.Module):
    """A model of which a wrapped module is a part, with or without other parameters."""

    def __init__(self, inner: nn.Module, *, more: bool = False) -> None:
        super().__init__()
        self.net = inner
        self.last = nn.Linear(4, 4) if more else nn.Identity()


def muon(given: Any, **options: Any) -> steepest.Muon:
    return steepest.Muon(given, lr=0.02, polar=Svd(), **options)


def compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="eager")


def named(optimizer: steepest.Muon, replicas: Any) -> steepest.Muon:
    """The optimizer, after its ranks were named."""
    optimizer.set_replicas(replicas)
    return optimizer


def grown(model: nn.Module) -> steepest.Muon:
    """An optimizer that gets the first layer of a wrapped model as a group, after a step."""
    named = dict(model.named_parameters())
    first = [(name, named.pop(f"first.{name}")) for name in ("weight", "bias")]
    optimizer = muon(list(named.items()))
    optimizer.step()
    optimizer.add_param_group({"params": first[:1]})
    optimizer.add_param_group({"params": first[1:], "adamw": True})
    return optimizer


# Functions of the model and of what is around it.
WRAPPED: Mapping[str, Callable[[nn.Module, DistributedDataParallel], steepest.Muon]] = {
    "given": lambda model, ddp: muon(ddp),
    "the bare model": lambda model, ddp: muon(model),
    "its named parameters": lambda model, ddp: muon(ddp.named_parameters()),
    "its parameters": lambda model, ddp: muon(list(ddp.parameters()), unrouted="adamw"),
    "compiled": lambda model, ddp: muon(compiled(ddp)),
    "of a compiled model": lambda model, ddp: muon(compiled(model)),
    "inside": lambda model, ddp: muon(Within(ddp)),
    "a compiled group": lambda model, ddp: muon([{"params": compiled(ddp)}]),
    "a group around it": lambda model, ddp: muon([{"params": Within(ddp)}]),
    "groups, one of them later": lambda model, ddp: grown(model),
    "named, compiled": lambda model, ddp: named(muon(model), compiled(ddp)),
    "named, inside": lambda model, ddp: named(muon(model), Within(ddp)),
    "named by the ranks": lambda model, ddp: named(muon(model), dist.group.WORLD),
}


def refused(optimizer: steepest.Muon) -> str:
    """The words of a refusal that has changed no part of this rank; "moved" if there is none."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    before = [local(p).detach().clone() for p in params]
    try:
        optimizer.step()
    except ValueError as error:
        assert all(torch.equal(a, local(p)) for a, p in zip(before, params, strict=True))
        return str(error)
    return "moved"


def met(rank: int, world: int, order: str) -> tuple[bool, bool, dict[str, int], list[str]]:
    """Whether the work is divided and the copies stay alike, collectives, and refusals."""
    model = net()
    if order == "wrapped later":
        optimizer, ddp = muon(model), DistributedDataParallel(model)
    else:
        ddp = DistributedDataParallel(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of shapes that decide, and what is not divided yet
            optimizer = WRAPPED[order](model, ddp)

    def backward(module: nn.Module, step: int) -> None:
        optimizer.zero_grad()
        module(inputs(rank, step)).square().mean().backward()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(2):
            backward(ddp, step)
            with CollectiveCounter() as counter:
                optimizer.step()
    said = []
    with ddp.no_sync():
        backward(ddp, 2)
    said.append(refused(optimizer))
    backward(ddp, 3)
    optimizer.step()
    backward(ddp.module, 4)
    said.append(refused(optimizer))
    backward(ddp, 5)
    optimizer.step()
    plans = [plan for _, plan in optimizer._plans.values()]
    owners = {t.owner for plan in plans for b in plan.buckets for t in b.exchange.tensors}
    return owners == set(range(world)), alike(model), dict(counter.calls), said


@pytest.mark.parametrize("order", ["wrapped later", *WRAPPED])
def test_the_work_is_divided_and_no_sync_refused_whoever_wraps_first(order: str) -> None:
    for divided, same, calls, said in pool(2).run(met, order):
        assert divided and same
        assert calls == {"all_reduce": 1, "all_gather_into_tensor": 1}
        assert all("outside of no_sync" in words for words in said)


def dropped(rank: int, world: int) -> tuple[bool, bool]:
    """Whether a wrapper counts that is garbage, and that one rank has collected already."""
    model = net()
    garbage = DistributedDataParallel(model)
    garbage.around = [garbage]  # type: ignore[assignment]
    gc.disable()
    try:
        del garbage
        if rank:
            gc.collect()
        optimizer = muon(model)
        for p in model.parameters():
            p.grad = torch.full_like(p, 1.0 + rank)
        optimizer.step()
    finally:
        gc.enable()
    return optimizer._replicas is not None, optimizer._is_spread()


def test_a_wrapper_that_was_dropped_does_not_count() -> None:
    assert pool(2).run(dropped) == [(False, False)] * 2


def in_part(rank: int, world: int, kind: str) -> tuple[list[str], str]:
    """What is said of an optimizer with other parameters than a wrapper, and after `no_sync`."""
    model = net()
    ddp = DistributedDataParallel(model)
    around = Within(ddp, more=True)
    some = [p for p in model.parameters() if p.ndim == 2]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer = muon(around if kind == "more" else some)
        if kind == "named":
            optimizer = named(muon(around), around)
        for step in range(2):
            optimizer.zero_grad()
            ddp(inputs(rank, step)).square().mean().backward()
            optimizer.step()
        assert alike(model)
        with ddp.no_sync():
            ddp(inputs(rank, 2)).square().mean().backward()
        said = refused(optimizer)
    return [str(w.message) for w in caught if "set_replicas" in str(w.message)], said


@pytest.mark.parametrize("kind", ["more", "named"])
def test_what_is_wrapped_in_a_module_is_agreed_on(kind: str) -> None:
    for warned, said in pool(2).run(in_part, kind):
        assert len(warned) == 1 and "not with these parameters alone" in warned[0]
        assert "outside of no_sync" in said


def test_where_ranks_may_have_other_parameters_no_sync_is_a_warning() -> None:
    for warned, said in pool(2).run(in_part, "some"):
        assert said == "moved"
        assert len(warned) == 2 and "in no_sync" in warned[1]


def test_modules_without_these_parameters_are_refused() -> None:
    assert all(pool(2).run(others))


def others(rank: int, world: int) -> bool:
    optimizer = muon(net())
    for other in (compiled(DistributedDataParallel(net())), Within(DistributedDataParallel(net()))):
        with pytest.raises(ValueError, match=r"replicas='\w+': it has other parameters"):
            optimizer.set_replicas(other)
    with pytest.raises(ValueError, match="replicas='Within': give the DistributedDataParallel"):
        optimizer.set_replicas(Within(net()))
    return True


def before_the_world(rank: int, world: int) -> tuple[bool, bool]:
    """Whether the work is divided, and the copies alike, for an optimizer that came first."""
    model = net()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "is_initialized", lambda: False)
        optimizer = muon(model)
    ddp = DistributedDataParallel(model)
    for step in range(2):
        optimizer.zero_grad()
        ddp(inputs(rank, step)).square().mean().backward()
        optimizer.step()
    return optimizer._replicas is not None, alike(model)


def test_an_optimizer_may_be_made_before_the_processes_meet() -> None:
    assert pool(2).run(before_the_world) == [(True, True)] * 2
