"""What wrappers leave behind, as far as one process sees it: refused in one line, or followed."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp._common_utils import FSDP_FLATTENED, _set_fsdp_flattened
from torch.nn.parallel import DistributedDataParallel

import steepest
from steepest.optim import foreign
from steepest.polar import Svd


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def flatten(net: nn.Module, *, cut: bool) -> None:
    """Leave parameters as FSDP1 does: views of one memory, flat where they are cut."""
    params = list(net.parameters())
    memory = torch.cat([p.detach().reshape(-1) for p in params])
    for p, part in zip(params, memory.split([p.numel() for p in params]), strict=True):
        p.data = part if cut else part.view(p.shape)
        _set_fsdp_flattened(p)


def backward(net: nn.Module) -> None:
    net(torch.arange(5)).square().sum().backward()


def test_the_mark_is_that_of_torch() -> None:
    assert foreign.FLATTENED == FSDP_FLATTENED


@pytest.mark.parametrize("given", ["module", "routing", "list", "names", "generator", "groups"])
def test_flat_pieces_are_refused_however_they_are_given(given: str) -> None:
    net = model()
    routing = steepest.route(net)
    flatten(net, cut=True)
    params = {
        "module": net,
        "routing": routing,
        "list": list(net.parameters()),
        "names": list(net.named_parameters()),
        "generator": net.parameters(),
        "groups": [{"params": net.parameters()}],
    }[given]
    with pytest.raises(ValueError, match="FSDP1"):
        steepest.NormalizedSGD(params, lr=0.1)


def test_whole_parameters_of_fsdp1_are_taken_in_any_order_of_the_groups() -> None:
    net = model()
    flatten(net, cut=False)
    vectors = [p for p in net.parameters() if p.ndim < 2]
    matrices = [p for p in net.parameters() if p.ndim > 1]
    optimizer = steepest.Muon([{"params": vectors, "adamw": True}, {"params": matrices}], lr=0.1)
    backward(net)
    optimizer.step()


def test_flat_pieces_that_come_later_are_refused() -> None:
    net, other = model(), model()
    optimizer = steepest.Scion(net, lr=0.1)
    flatten(other, cut=True)
    count = len(optimizer.param_groups)
    with pytest.raises(ValueError, match="FSDP1"):
        optimizer.add_param_group({"params": list(other.parameters())})
    assert len(optimizer.param_groups) == count
    backward(net)
    optimizer.step()
    flatten(net, cut=True)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(ValueError, match="FSDP1"):
        optimizer.step()
    assert all(map(torch.equal, before, net.parameters()))


@pytest.mark.parametrize("empty", [False, True])
def test_flat_groups_in_the_place_of_matrices_are_refused(empty: bool) -> None:
    net = model()
    optimizer = steepest.NormalizedSGD(net, lr=0.1)
    flat = torch.cat([p.detach().reshape(-1) for p in net.parameters()]).requires_grad_()
    flat.grad = torch.zeros_like(flat)
    if empty:
        optimizer.param_groups[0]["params"] = []
        optimizer.step()
    optimizer.param_groups[0]["params"] = [flat]
    with pytest.raises(ValueError, match="ZeRO"):
        optimizer.step()


def test_parameters_that_deepspeed_has_emptied_are_refused() -> None:
    net = model()
    for p in net.parameters():
        p.ds_shape, p.data = p.shape, torch.empty(0)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="stage 3"):
        steepest.SGD(net, lr=0.1)


@pytest.mark.parametrize("known", [True, False])
def test_an_optimizer_made_on_the_meta_device_is_refused_after_it(known: bool) -> None:
    with torch.device("meta"):
        net = model()
    params = net if known else list(net.named_parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = steepest.Muon(params, lr=0.1)
    net.to_empty(device="cpu")
    backward(net)
    with pytest.raises(ValueError, match="to_empty"):
        optimizer.step()


@pytest.fixture
def alone(tmp_path):
    """A process group of this process alone."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_passes_in_no_sync_are_seen_and_evaluations_are_not(alone) -> None:
    net = DistributedDataParallel(nn.Linear(4, 3))
    copies = foreign.Copies(net)
    assert foreign.Copies(net)._sync is copies._sync  # one hook for all optimizers
    x = torch.ones(2, 4)
    net(x)
    assert not copies.doubtful()
    with net.no_sync():
        net(x)
        with torch.no_grad():
            net(x)
    assert copies.doubtful()
    with net.no_sync():
        net(x)
    net.require_forward_param_sync = True  # as accelerate asks for an average after all
    assert not copies.doubtful()
    net(x)
    assert not copies.doubtful()
    with torch.no_grad():
        net(x)
    net.module(x)
    assert copies.doubtful()  # the wrapper had no pass since the last step
    net(x)
    assert not copies.doubtful()
    assert copies.params() == set(net.parameters())
    copies.check_not_joined()
    with net.join(), pytest.raises(ValueError, match="join"):
        copies.check_not_joined()
    del net
    assert not copies.doubtful() and not copies.params()
    copies.check_not_joined()


def test_without_a_matrix_one_process_is_an_error_and_a_stage_a_warning(monkeypatch) -> None:
    stage = nn.Sequential(nn.Embedding(5, 4))
    with pytest.raises(ValueError, match="no matrix"):
        steepest.Muon(stage, lr=0.02)
    monkeypatch.setattr("steepest.optim.notices.several_processes", lambda: True)
    with pytest.warns(UserWarning, match="stage of a pipeline"):
        optimizer = steepest.Muon(stage, lr=0.02, polar=Svd())
    assert optimizer.lrs(0.04) == [6e-4]
    stage(torch.arange(5)).sum().backward()
    optimizer.step()
    with pytest.raises(ValueError, match="no matrix"):
        steepest.Muon([{"params": list(stage.parameters()), "adamw": True}], lr=0.02)
