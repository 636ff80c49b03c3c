"""Steps of parameters that ranks hold together, as far as one process can see them.

What several processes do is in tests/sharding.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import steepest
from steepest import maps, norms, transforms
from steepest.optim import finite, updates
from steepest.optim.batching import GroupStep
from steepest.optim.combine import Pair
from steepest.optim.member import Member
from steepest.optim.plan import StepPlan, _axes_stay, _by_members
from steepest.optim.projection import projected
from steepest.optim.rule import NormRule
from steepest.optim.sharded import sharded_batches, travelling
from steepest.polar import Svd
from steepest.retractions import Combination
from steepest.sharding import MARKS, AsyncResult, Layout, RankGroup, is_sharded


@pytest.fixture(scope="module", autouse=True)
def group(tmp_path_factory):
    """A process group of this process alone."""
    store = dist.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def model() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Embedding(7, 6), nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 6), nn.Linear(6, 3)
    return nn.Sequential(*layers).double()


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> list[float]:
    x, y = torch.arange(7), torch.arange(7) % 3

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        return loss

    return [float(optimizer.step(closure).detach()) for _ in range(steps)]


OPTIMIZERS = {
    "Muon": lambda net: steepest.Muon(net, lr=0.02, polar=Svd(), weight_decay=0.1),
    "by heads": lambda net: steepest.Muon(
        steepest.route(net, overrides={"1.weight": steepest.MatrixView(split=(4, 3, 2))}),
        lr=0.02,
        polar=Svd(),
    ),
    "projected": lambda net: steepest.Muon(
        net, lr=0.02, polar=Svd(), weight_decay=1.0, constraint="project"
    ),
    "no momentum": lambda net: steepest.LionK(
        net, lr=0.01, betas=(0.0, 0.0), K=maps.NuclearMap(polar=Svd())
    ),
    "estimate": lambda net: steepest.SteepestDescent(
        list(net.named_parameters()), norms.LInf(), sharpness="estimate"
    ),
    "line search": lambda net: steepest.SteepestDescent(
        [p for p in net.parameters() if p.ndim == 2], norms.Spectral(), scale="linesearch"
    ),
    "SOAPMuon": lambda net: steepest.SOAPMuon(net, lr=0.02, polar=Svd()),
    "Muown, NorMuon": lambda net: steepest.Muown(
        net, lr=0.02, polar=Svd(), after=transforms.RowSecondMoment()
    ),
    "column": lambda net: steepest.SteepestDescent(net, norms.ColumnNorm(), lr=0.02),
}


def divided(optimizer: steepest.optim.SteepestOptimizer) -> None:
    """Have an optimizer divide its work among the ranks of a group, of which there is one."""
    optimizer._replicas = RankGroup.of_group(dist.group.WORLD)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_shards_of_one_rank_are_the_whole(name):
    plain, shared = model(), model()
    mesh = init_device_mesh("cpu", (1,))
    for layer in shared:
        fully_shard(layer, mesh=mesh)
    fully_shard(shared, mesh=mesh)
    # FSDP lays parameters one behind the other, and how a BLAS rounds may depend on where one lies.
    expected = torch.tensor(train(plain, OPTIMIZERS[name](plain)))
    assert torch.allclose(
        torch.tensor(train(shared, OPTIMIZERS[name](shared))), expected, rtol=1e-12
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_divided_work_is_the_same_work(name):
    plain, shared = model(), model()
    optimizer = OPTIMIZERS[name](shared)
    divided(optimizer)
    expected = torch.tensor(train(plain, OPTIMIZERS[name](plain)))
    assert torch.allclose(torch.tensor(train(shared, optimizer)), expected, rtol=1e-12)
    # A copy has no processes to divide its work with.
    assert copy.deepcopy(optimizer)._replicas is None
    assert len(train(shared, optimizer, 1)) == 1


def test_ddp_is_unwrapped_and_the_names_are_those_of_one_process():
    wrapped = nn.parallel.DistributedDataParallel(model())
    for make in (steepest.Muon, steepest.Scion, steepest.Lion):
        names = [n for g in make(wrapped, lr=0.1).param_groups for n in g["param_names"]]
        assert sorted(names) == sorted(n for n, _ in model().named_parameters())


def member(x: torch.Tensor, norm: norms.Norm) -> Member:
    view = steepest.MatrixView() if norm.axes == 2 else None
    param = nn.Parameter(distribute_tensor(x, init_device_mesh("cpu", (1,)), [Shard(0)]))
    return Member(param, torch.float64, view, norm.symmetric, param)


@pytest.mark.parametrize("norm", [norms.LInf(), norms.RowNorm(), norms.ColumnNorm()], ids=str)
def test_a_norm_of_entries_sees_a_dtensor(norm):
    x, g = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)).double()
    one = member(x, norm)
    one.param.grad = distribute_tensor(g, one.param.device_mesh, one.param.placements)
    group = {"momentum": 0.0, "momentum_dtype": None, "maximize": False, "weight_decay": 10.0}
    kept = []
    rule = NormRule(norm)
    step = GroupStep(0, group, rule, {one.param: True}, {}, inner=norm, kept=kept)
    plan = StepPlan([], [[(0, one)]], [], [])
    ((joint, (batch,)),) = sharded_batches(plan, {0: step})
    batch.apply(joint.directions(batch.averages()))
    (update,) = kept
    expected = norm.dualize(g)
    assert not is_sharded(update.direction[0]) and torch.allclose(update.direction[0], expected)
    assert torch.allclose(update.dual, norm.inner(g, expected).sum())
    ((_, inside),) = projected(StepPlan([(0, ([one],))], [], []), {0: step})
    assert torch.allclose(inside, norm.project(x, 0.1))


def test_gradients_of_one_bad_rank_are_skipped_by_all(monkeypatch):
    """The other rank's word, put in place of what an all-reduce would have brought."""
    net = model()
    optimizer = OPTIMIZERS["Muon"](net)
    divided(optimizer)
    nn.functional.cross_entropy(net(torch.arange(7)), torch.arange(7) % 3).backward()
    before = [p.detach().clone() for p in net.parameters()]
    real = finite.all_reduce_codes

    def other_is_bad(codes, ranks):
        low, high = real(codes, ranks)
        low[:-MARKS].clamp_(max=1)
        return low, high

    monkeypatch.setattr(finite, "all_reduce_codes", other_is_bad)
    optimizer.step()
    assert all(map(torch.equal, before, net.parameters()))  # those of AdamW among them
    assert optimizer.skipped == len(before)
    optimizer.param_groups[0]["nonfinite"] = "raise"
    with pytest.raises(FloatingPointError, match=r"1\.weight"):
        optimizer.step()

    def other_has_none(codes, ranks):
        return torch.cat([codes[:-MARKS] * 0, codes[-MARKS:]]), codes

    monkeypatch.setattr(finite, "all_reduce_codes", other_has_none)
    with pytest.raises(ValueError, match=r"grad=.*missing on some ranks \(1\.weight, .*freeze"):
        optimizer.step()


def test_flags_on_a_device_are_not_waited_for(monkeypatch):
    """With flags that may not be looked at, everything takes part, and a skip is a step of 0."""
    monkeypatch.setattr(finite, "is_known", lambda flags: False)
    monkeypatch.setattr(updates, "is_known", lambda flags: False)
    net = model()
    optimizer = OPTIMIZERS["Muon"](net)
    divided(optimizer)
    nn.functional.cross_entropy(net(torch.arange(7)), torch.arange(7) % 3).backward()
    net[1].weight.grad[0, 0] = torch.nan
    net[3].weight.grad = None
    before = copy.deepcopy(net)
    optimizer.step()
    for name in ("1.weight", "3.weight"):
        assert torch.equal(net.get_parameter(name), before.get_parameter(name))


def test_what_need_not_travel():
    cut_rows = Layout.of((6, 4, 4), (2,), (Shard(0),))
    empty = Layout.of((2, 4, 4), (4,), (Shard(0),))
    experts, heads = steepest.views.EXPERTS, steepest.MatrixView(split=3)
    assert _by_members(cut_rows, experts, in_one_axis=True)
    assert not _by_members(empty, experts, in_one_axis=False)
    assert not _by_members(cut_rows, None, in_one_axis=False)
    assert not _by_members(Layout.of((6, 4), (2,), (Shard(0),)), heads, in_one_axis=False)
    assert _axes_stay(cut_rows, None) and _axes_stay(cut_rows, experts)
    kernel = steepest.views.conv(2)
    assert _axes_stay(Layout.of((6, 4, 3, 3), (2,), (Shard(0),)), kernel)
    assert not _axes_stay(Layout.of((6, 4, 3, 3), (2,), (Shard(1),)), kernel)
    assert not _axes_stay(Layout.of((6, 4), (2,), (Shard(0),)), heads)


def test_owners_are_balanced_over_groups():
    net = nn.ModuleList(nn.Linear(6, 6, bias=False) for _ in range(8))
    groups = [{"params": [layer.weight]} for layer in net]
    optimizer = steepest.SteepestDescent(groups, norms.Spectral(), lr=0.1)
    optimizer._replicas = RankGroup(dist.group.WORLD, (0, 1, 2, 3), 0)
    ok = {layer.weight: True for layer in net}
    plan = optimizer._plan(
        [
            GroupStep(place, group, optimizer._rule(place), ok, {})
            for place, group in enumerate(optimizer.param_groups)
        ]
    )
    (bucket,) = plan.buckets
    owners = [tensor.owner for tensor in bucket.exchange.tensors]
    assert sorted(owners) == [0, 0, 1, 1, 2, 2, 3, 3]


@dataclass
class _Road:
    """An exchange that notes when it is used."""

    name: str
    log: list[str] = field(default_factory=list)

    def gather(self, parts):
        self.log.append(f"gather {self.name}")
        return AsyncResult(dict)

    def scatter(self, wholes):
        self.log.append(f"scatter {self.name}")

        def arrive():
            self.log.append(f"back {self.name}")
            return []

        return AsyncResult(arrive)


def test_a_bucket_travels_while_its_neighbour_is_computed():
    log: list[str] = []
    buckets = [type("Stop", (), {"exchange": _Road(str(i), log)})() for i in range(3)]

    class Cargo:
        def send(self, bucket):
            return {}

        def arrive(self, bucket, parts):
            log.append(f"move {bucket.exchange.name}")

    for bucket, _, _ in travelling(buckets, Cargo()):
        log.append(f"compute {bucket.exchange.name}")
    order = [
        *("gather 0", "gather 1", "compute 0", "scatter 0"),
        *("gather 2", "compute 1", "scatter 1", "back 0", "move 0"),
        *("compute 2", "scatter 2", "back 1", "move 1", "back 2", "move 2"),
    ]
    assert log == order


def test_state_is_laid_out_as_the_parameter():
    net = model()
    fully_shard(net, mesh=init_device_mesh("cpu", (1,)))
    optimizer = steepest.Muon(net, momentum_dtype=torch.float32)
    train(net, optimizer, 1)
    for p, state in optimizer.state.items():
        buffers = [v for k, v in state.items() if k != "step"]
        assert all(isinstance(b, DTensor) and b.placements == p.placements for b in buffers)
    saved = optimizer.state_dict()
    assert all(view.radii[0] > 0 for view in optimizer.parameter_views())
    plain = model()
    other = steepest.Muon(plain, momentum_dtype=torch.float32)
    train(plain, other, 1)
    with pytest.raises(ValueError, match=r"state\[0\].*whole tensor.*1\.weight.*set_optimizer"):
        optimizer.load_state_dict(other.state_dict())
    again = steepest.Muon(net, momentum_dtype=torch.float32)
    again.load_state_dict(saved)
    matrix = next(iter(again.state))
    assert again.state[matrix]["momentum_buffer"].dtype == torch.float32


@pytest.mark.parametrize("axis", [0, 1])
def test_momentum_in_8_bits_is_laid_out_as_the_parameter(axis):
    mesh = init_device_mesh("cpu", (1,))
    whole = torch.randn(40, 300)
    w = nn.Parameter(distribute_tensor(whole, mesh, [Shard(axis)]))
    optimizer = steepest.Muon([w], momentum_dtype=torch.int8)
    w.grad = distribute_tensor(whole, mesh, [Shard(axis)])
    optimizer.step()
    codes, units = (optimizer.state[w][f"momentum_{key}"] for key in ("codes", "units"))
    assert codes.placements == units.placements == w.placements and units.shape == (40, 1, 2)
    assert codes.dtype == torch.int8 and codes.shape == w.shape
    saved, numbers = optimizer.state_dict(), next(iter(optimizer.parameter_views())).momentum
    del saved["param_groups"][0]["momentum_dtype"]
    other, again = steepest.Muon([w]), steepest.Muon([w], momentum_dtype=torch.int8)
    other.load_state_dict(saved)
    assert torch.equal(other.state[w]["momentum_buffer"].to_local(), numbers.to_local())
    saved = other.state_dict()
    del saved["param_groups"][0]["momentum_dtype"]
    again.load_state_dict(saved)
    for key, value in again.state[w].items():
        assert value.placements == w.placements
        assert torch.equal(value.to_local(), optimizer.state[w][key].to_local())


VIEWS = {
    "linear": ((7, 5), steepest.MatrixView()),
    "fused": ((6, 5), steepest.MatrixView(split=(3, 2, 1))),
    "across columns": ((5, 6), steepest.MatrixView(split=2, split_dim=1)),
    "kernel": ((4, 3, 2, 2), steepest.views.conv(2)),
    "experts": ((3, 4, 5), steepest.views.EXPERTS),
}


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("shape", "view"), VIEWS.values(), ids=VIEWS.keys())
def test_the_parts_of_all_ranks_make_up_the_sums_of_the_whole(shape, view, axis, rows):
    """Products of rows and matrices, and the combination that each rank makes of its part."""
    x, y = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
    member = Member(nn.Parameter(x), torch.float64, view, False, x)
    layout = Layout.of(shape, (2, 2), (Replicate(), Shard(axis)))
    whole = Pair(member, x, y)
    expected = whole.parts(whole.sums(), rows=rows)
    pairs = []
    for rank in range(4):
        pair = Pair(member, layout.take(x, rank), layout.take(y, rank))
        pair.layout, pair.ranks = layout, RankGroup(dist.group.WORLD, (0, 1, 2, 3), rank)
        pairs.append(pair)
    total = sum(pair.sums() for pair in pairs)
    for part, wanted in zip(whole.parts(total, rows=rows), expected, strict=True):
        for a, b in zip(part, wanted, strict=True):
            torch.testing.assert_close(a, b)
    weights = [Combination(1 / (1 + p.xx), p.xy) for p in expected]
    made = whole.combined(weights)
    for rank, pair in enumerate(pairs):
        torch.testing.assert_close(pair.combined(weights), layout.take(made, rank))
    assert not torch.equal(made, x)
