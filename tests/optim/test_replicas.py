"""What travels between ranks and which ranks there are, as far as one process can see it.

What several processes do is in tests/sharding.
"""

from __future__ import annotations

import copy
import gc

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor

import steepest
from steepest import norms
from steepest.optim import finite, foreign, replicas
from steepest.optim.foreign import Copies
from steepest.optim.groups import replicas_of
from steepest.polar import Svd
from steepest.sharding import RankGroup, reductions
from tests.optim.test_sharded import divided, group, model, train

pytestmark = pytest.mark.usefixtures(group.__name__)


def test_ranks_that_hold_copies_are_named_by_their_module_or_their_group():
    net = model()
    optimizer = steepest.Muon(net, lr=0.1)
    for named in (nn.parallel.DistributedDataParallel(net), dist.group.WORLD, None):
        optimizer.set_replicas(named)
        assert optimizer._replicas is None  # there is one rank
    with pytest.raises(ValueError, match="replicas='Sequential': it has other parameters"):
        optimizer.set_replicas(nn.parallel.DistributedDataParallel(model()))


def in_two(monkeypatch, *found):
    """Have two ranks, as far as the search for wrappers sees, with these ranks of all wrappers."""
    monkeypatch.setattr(replicas, "several_processes", lambda: True)
    monkeypatch.setattr(replicas, "replicas_of", lambda wrap: (*found, (Copies(wrap),)))


def test_wrappers_are_found_around_their_parameters_and_garbage_is_not():
    net = model()
    with pytest.raises(RuntimeError, match="doesn't have any parameter that requires"):
        nn.parallel.DistributedDataParallel(nn.ReLU())
    other, whole = wrapped(nn.Linear(2, 2)), wrapped(net)
    every = set(net.parameters())
    assert replicas.wrappers_of(every) == [whole]
    assert replicas.wrappers_of({other.module.weight}) == [other]
    assert replicas.wrappers_of(set(model().parameters())) == []

    class Own(nn.parallel.DistributedDataParallel):
        """Of somebody else."""

    again = Own(net)
    assert set(replicas.wrappers_of(every)) == {whole, again}
    gc.freeze()
    hidden = replicas.wrappers_of(every)
    gc.unfreeze()
    assert hidden == []  # out of the collector's sight
    again.around = [again]
    del whole, again
    assert replicas.wrappers_of(every) == []


def test_what_runs_code_when_it_is_looked_at_is_not_asked():
    class Touchy:
        """As proxies that are not bound, and modules with deprecated names."""

        __slots__ = ("kind",)

        @property
        def __class__(self):
            raise RuntimeError("asked")

    kept = Touchy()
    kept.kind = nn.parallel.DistributedDataParallel  # or the search would not come across it
    assert replicas.wrappers_of(set()) == [] and type(kept) is Touchy


@pytest.mark.parametrize("first", ["optimizer", "wrapper"])
def test_a_wrapper_is_found_at_the_first_step_and_not_later(monkeypatch, first):
    group = RankGroup.of_group(dist.group.WORLD)
    in_two(monkeypatch, group)
    net = model()
    before = wrapped(net) if first == "wrapper" else None
    optimizer = steepest.Muon(net, lr=0.1, polar=Svd())
    whole = before or wrapped(net)
    assert optimizer._is_spread() and optimizer._replicas is None
    other = wrapped(nn.Linear(2, 2))
    every = set(net.parameters())
    assert replicas.common_replicas([whole], every)[0] == group
    assert replicas.common_replicas([whole, other], every) == (None, ())
    assert replicas.common_replicas([whole], every - {net[1].weight}) == (None, ())
    assert replicas.common_replicas([], every) == (None, ())
    net[0].weight.requires_grad_(False)  # which is nobody's to step
    assert replicas.common_replicas([whole], every - {net[0].weight})[0] == group
    expected = torch.tensor(
        train(twin := copy.deepcopy(net), steepest.Muon(twin, 0.1, polar=Svd()))
    )
    assert torch.allclose(torch.tensor(train(net, optimizer)), expected, rtol=1e-12)
    assert optimizer._replicas == group and len(optimizer._copies) == 1
    again = wrapped(net)
    train(net, optimizer, 1)
    assert [one.module() for one in optimizer._copies] == [whole] and again is not whole


def test_copies_of_an_optimizer_and_one_that_was_told_look_for_nothing(monkeypatch):
    in_two(monkeypatch, RankGroup.of_group(dist.group.WORLD))
    net = model()
    whole = wrapped(net)
    optimizer = steepest.Muon(net, lr=0.1, polar=Svd())
    optimizer.set_replicas(None)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2, 2).double())]})
    assert not optimizer._is_spread()
    train(net, optimizer, 1)
    assert optimizer._replicas is None and not optimizer._copies
    assert not copy.deepcopy(steepest.Muon(whole.module, lr=0.1))._is_spread()


def test_a_wrapper_around_some_parameters_is_spoken_of_once(monkeypatch):
    in_two(monkeypatch, None)
    nets = [model() for _ in range(3)]
    makers = (steepest.Muon, steepest.Lion, steepest.Muon)
    optimizers = [make(net[1:], lr=0.1) for make, net in zip(makers, nets, strict=True)]
    assert all(optimizer._is_spread() for optimizer in optimizers)
    wraps = [wrapped(net) for net in nets]
    optimizers[2].set_replicas(None)
    assert len(wraps) == 3
    with pytest.warns(UserWarning, match=r"only slower.*set_replicas\(ddp_model\)"):
        train(nets[0], optimizers[0], 1)
    # It is said once, and not of Lion, which has nothing to divide.
    for wrap, optimizer in zip(wraps, optimizers, strict=True):
        train(wrap, optimizer, 2)
        assert optimizer._replicas is None and not optimizer._is_spread()
    with pytest.warns(UserWarning, match="no forward pass"):
        train(nets[1], optimizers[1], 2)


def test_one_rank_has_nothing_to_say():
    net = model()
    whole = wrapped(net)
    optimizer = steepest.Muon([{"params": whole}], lr=0.1, polar=Svd())
    train(whole, optimizer, 1)
    assert optimizer._replicas is None and not optimizer._is_spread()


def wrapped(net):
    return nn.parallel.DistributedDataParallel(net)


def test_groups_that_are_wrapped_modules_count_as_the_modules(monkeypatch):
    pair = RankGroup.of_group(dist.group.WORLD)
    other = RankGroup(dist.group.WORLD, (0,), 7)
    of = {}
    monkeypatch.setattr(replicas, "replicas_of", lambda wrap: (of.get(wrap, pair), (Copies(wrap),)))
    first, second = (model() for _ in range(2))
    names = [name for name, _ in first.named_parameters()]
    whole = wrapped(first)
    optimizer = steepest.Muon(iter([{"params": whole}]), lr=0.1, polar=Svd())
    assert optimizer._is_spread() and optimizer._replicas is None
    assert {n for g in optimizer.param_groups for n in g["param_names"]} == set(names)
    train(first, optimizer, 1)
    assert optimizer._replicas == pair and len(optimizer._copies) == 1
    wrap = wrapped(second)
    with pytest.raises(ValueError, match="lr=-1"):
        optimizer.add_param_group({"params": wrap, "lr": -1.0})
    assert not optimizer._wraps
    optimizer.add_param_group({"params": wrap})
    train(first, optimizer, 1)
    assert optimizer._replicas == pair and len(optimizer._copies) == 2
    third = wrapped(nn.Linear(4, 4).double())
    of[third] = other
    optimizer.add_param_group({"params": third, "adamw": True})
    with pytest.warns(UserWarning, match="but not with these parameters alone"):
        train(first, optimizer, 1)
    assert optimizer._replicas is None and len(optimizer._copies) == 3
    optimizer.set_replicas(None)
    assert not optimizer._copies


def test_part_of_an_optimizer_that_is_wrapped_is_agreed_on_and_not_divided(monkeypatch):
    pair = RankGroup.of_group(dist.group.WORLD)
    monkeypatch.setattr(replicas, "replicas_of", lambda wrap: (pair, (Copies(wrap),)))
    net, part = model(), nn.Linear(4, 4).double()
    optimizer = steepest.Muon(net, lr=0.1, polar=Svd())
    wrap = wrapped(part)
    optimizer.add_param_group({"params": wrap})
    with pytest.warns(UserWarning, match="only slower"):
        train(net, optimizer, 1)
    assert optimizer._replicas is None and optimizer._is_spread()
    ((one,),) = optimizer._replicated
    assert set(one.params) == one.alone == set(part.parameters())
    with wrap.no_sync():
        wrap(torch.ones(2, 4).double()).sum().backward()
    assert optimizer._doubtful() == [pair]
    train(net, optimizer, 1)  # alone, it agrees with itself
    net.zero_grad()
    with wrap.join(), pytest.raises(ValueError, match="join"):
        optimizer.step()


def another(monkeypatch, gradient):
    """Have a second rank in the comparison of copies, which has this gradient."""

    def lower(ends, op, group):
        torch.minimum(ends, finite._signed_sums(gradient).expand_as(ends), out=ends)

    monkeypatch.setattr(finite.dist, "all_reduce", lower)
    monkeypatch.setattr(finite, "all_reduce_codes", lambda codes, ranks: (codes, codes))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64])
def test_in_doubt_copies_compare_their_gradients(monkeypatch, dtype):
    ranks = RankGroup(dist.group.WORLD, (0, 1), 0)
    torch.manual_seed(0)
    p = nn.Parameter(torch.zeros(90, 40, dtype=dtype))
    p.grad = torch.randn(90, 40, dtype=dtype)
    one = finite.ReplicatedParams(ranks, ["w"], [p])
    noise = torch.randn(90, 40, dtype=dtype)
    unit = torch.finfo(dtype).eps
    for far in (0.0, 0.1 * max(unit, 1e-3)):
        another(monkeypatch, p.grad + far * noise)
        assert finite.all_reduce_finite({p: True}, [one], set(), [ranks]) == {p: True}
    for different in (p.grad + 3 * max(unit, 1e-3) * noise, noise, p.grad.flip(0), -p.grad):
        another(monkeypatch, different)
        with pytest.raises(ValueError, match=r"copies \(w\).*outside of no_sync"):
            finite.all_reduce_finite({p: True}, [one], set(), [ranks])
        assert finite.all_reduce_finite({p: True}, [one], set(), []) == {p: True}
        monkeypatch.setattr(finite, "is_known", lambda _: False)  # as on an accelerator
        with pytest.raises(ValueError, match="outside of no_sync"):
            finite.all_reduce_finite({p: torch.tensor(True)}, [one], set(), [ranks])
        monkeypatch.setattr(finite, "is_known", lambda _: True)
    another(monkeypatch, p.grad * float("nan"))  # which is skipped, and not compared
    assert finite.all_reduce_finite({p: True}, [one], set(), [ranks]) == {p: True}


def test_without_waiting_what_is_stepped_alone_needs_a_gradient(monkeypatch):
    monkeypatch.setattr(finite, "is_known", lambda _: False)
    ranks = RankGroup.of_group(dist.group.WORLD)
    sent, alone = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    one = finite.ReplicatedParams(ranks, ["sent", "alone"], [sent, alone], alone={alone})
    assert finite.all_reduce_finite({}, [one], set()).keys() == {sent}


def test_the_types_on_the_way():
    net = model().float()
    for bad in (torch.float16, torch.float64, torch.int8, "bfloat16"):
        with pytest.raises(ValueError, match=r"exchange_dtype=.*give torch\.bfloat16, or None"):
            steepest.Muon(net, exchange_dtype=bad)
    half, single = torch.bfloat16, torch.float32
    for options, expected in (
        ({}, (single, single)),
        ({"momentum_dtype": half}, (single, single)),
        ({"momentum_dtype": half, "nesterov": False}, (half, single)),
        ({"momentum_dtype": half, "nesterov": False, "momentum": 0.0}, (single, single)),
        ({"momentum_dtype": half, "nesterov": False, "exchange_dtype": half}, (half, half)),
        ({"momentum_dtype": torch.float16, "nesterov": False}, (torch.float16, single)),
        ({"momentum_dtype": torch.int8}, (single, single)),
        ({"momentum_dtype": torch.int8, "exchange_dtype": half}, (half, half)),
        ({"exchange_dtype": single}, (single, single)),
        ({"momentum_dtype": torch.float64, "exchange_dtype": single}, (single, single)),
    ):
        optimizer = copy.deepcopy(steepest.Muon(net, **options))
        divided(optimizer)
        train(net_of(optimizer), optimizer, 1)
        ((_, plan),) = optimizer._plans.values()
        assert {(b.exchange.dtype, b.exchange.back) for b in plan.buckets} == {expected}
        assert "exchange_dtype" not in optimizer.param_groups[0]
    spectrum = nn.Parameter(torch.ones(3, 2) * 1j)
    optimizer = steepest.Muon([spectrum], exchange_dtype=half)
    divided(optimizer)
    spectrum.grad = torch.ones_like(spectrum)
    optimizer.step()
    ((_, plan),) = optimizer._plans.values()
    assert plan.buckets[0].exchange.back == torch.complex64


def net_of(optimizer: steepest.Muon) -> nn.Module:
    """A model with the parameters of an optimizer."""
    net, names = model().float(), {}
    for one in optimizer.param_groups:
        names.update(zip(one["param_names"], one["params"], strict=True))
    for name, p in names.items():
        owner, _, key = name.rpartition(".")
        setattr(net.get_submodule(owner), key, p)
    return net


def test_reductions_that_are_carried_out_together_give_what_each_gives_alone(monkeypatch):
    mesh = init_device_mesh("cpu", (1,))
    draw = torch.Generator().manual_seed(0)
    xs = [torch.randn(4, 3, generator=draw, dtype=torch.float64) for _ in range(3)]
    parts = [distribute_tensor(x, mesh, [Shard(0)]) for x in xs]
    partial = [DTensor.from_local(x, mesh, [Partial("max")]) for x in xs]
    calls, rounds, carry_out = [], [], reductions._all_reduce_partials

    def counted(partials):
        rounds.extend([partials] if partials else [])
        return carry_out(partials)

    def one(x, y):
        calls.append(x)
        return reductions.reduce_partials(y).amax() + norms.L2().dualize(x).sum()

    pairs = list(zip(parts, partial, strict=True))
    monkeypatch.setattr(reductions, "_all_reduce_partials", counted)
    found = reductions.together([lambda p=p: one(*p) for p in pairs])
    # That of y, the scale, the length, and whether all is finite, which torch 2.14 has whole.
    flag = torch.isfinite(parts[0]).all()
    assert len(rounds) == 3 + flag.placements[0].is_partial()
    assert all(len(partials) == 3 for partials in rounds)
    assert len(calls) == 3 * (1 + len(rounds))
    for a, (x, y) in zip(found, pairs, strict=True):
        torch.testing.assert_close(a.full_tensor(), one(x, y).full_tensor())
    # A reduction that is no sum, maximum or minimum is torch's own business.
    mean = [DTensor.from_local(x, mesh, [Partial("avg")]) for x in xs]
    for a, x in zip(reductions._all_reduce_partials(mean), xs, strict=True):
        torch.testing.assert_close(a.to_local(), x)
    with pytest.raises(ZeroDivisionError):
        reductions.together([lambda: 1 / 0, lambda: 1])
    assert reductions._REPLAY.get() is None


def test_a_parameter_that_was_sharded_after_the_optimizer_was_made_is_named():
    net = nn.Linear(4, 4, bias=False)
    groups = [{"params": [net.weight], "param_names": ["weight"]}]
    modules = foreign.modules_in(net)
    foreign.check_followed(groups, modules)
    mesh = init_device_mesh("cpu", (1,))
    net.weight = nn.Parameter(distribute_tensor(torch.ones(4, 4), mesh, [Shard(0)]))
    net.weight.grad = distribute_tensor(torch.ones(4, 4), mesh, [Shard(0)])
    with pytest.raises(ValueError, match="weight is not the one that the model has now"):
        foreign.check_followed(groups, modules)


def test_a_model_of_which_torch_ignores_a_part_is_not_copied_as_a_whole(monkeypatch):
    wrapped = nn.parallel.DistributedDataParallel(model())
    monkeypatch.setattr(dist, "get_world_size", lambda *_: 2)
    wrapped.parameters_to_ignore = set()
    ranks, copies = replicas_of(wrapped)
    assert ranks is not None and [type(c) for c in copies] == [Copies]
    wrapped.parameters_to_ignore = {"0.weight"}
    assert replicas_of(wrapped)[0] is None
