"""Checkpoints of torch's optimizers, read by the names of parameters in one process."""

import re
import warnings
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from steepest import Muon, load_torch_checkpoint

MUON = {"lr": 0.02, "weight_decay": 0.3, "momentum": 0.9, "nesterov": False}
ADAMW = {"lr": 0.01, "weight_decay": 0.4, "betas": (0.8, 0.9), "eps": 1e-7}
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)
ALONE = r"torch.distributed is disabled, unavailable or uninitialized"
pytestmark = pytest.mark.filterwarnings(f"ignore:{ALONE}")


def network():
    torch.manual_seed(0)
    layers = {"first": nn.Linear(4, 6), "second": nn.Linear(6, 5), "head": nn.Linear(5, 2)}
    return nn.Sequential(OrderedDict(layers))


def trained(kind):
    """A model and optimizers of torch that have stepped it: Muon the first two matrices."""
    m = network()
    matrices = [m.first.weight, m.second.weight]
    rest = [m.first.bias, m.second.bias, *m.head.parameters()]
    if kind == "adamw":
        optimizers = [torch.optim.AdamW([*matrices, *rest], **ADAMW)]
    elif kind == "mixed":
        optimizers = [
            torch.optim.Muon(matrices[:1], **MUON),
            torch.optim.AdamW([*matrices[1:], *rest], **ADAMW),
        ]
    else:
        groups = [{"params": rest[:1]}, {"params": rest[1:], "lr": 0.03}]
        others = groups if kind == "rates" else rest
        optimizers = [torch.optim.Muon(matrices, **MUON)]
        optimizers += [torch.optim.AdamW(others, **ADAMW)] if kind != "muon" else []
    for step in range(3):
        m(torch.full((3, 4), 1.0 + step)).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
    return m, optimizers


def saved(kind, folder, options=None):
    """The model whose optimizers were saved, with their state by the names of parameters."""
    m, optimizers = trained(kind)
    state = get_optimizer_state_dict(m, optimizers, options=options)
    content = {"optimizer": state}
    if kind == "two":
        pairs = zip(("app.muon", "app.adamw"), optimizers, strict=True)
        content = {key: get_optimizer_state_dict(m, one) for key, one in pairs}
    checkpoint.save(content, checkpoint_id=folder)
    names = {p: name for name, p in m.named_parameters()}
    return {names[p]: own for one in optimizers for p, own in one.state.items()}


@pytest.mark.parametrize("kind", ["both", "flat", "two", "reader"])
def test_all_is_restored_by_names(kind, tmp_path):
    expected = saved(kind, tmp_path, FLAT if kind == "flat" else None)
    m = network()
    optimizer = Muon(m, lr=0.05, adamw_lr=0.007)
    key = ("app.muon", "app.adamw") if kind == "two" else "optimizer"
    source = FileSystemReader(tmp_path) if kind == "reader" else tmp_path
    load_torch_checkpoint(m, optimizer, source, key=key)
    for name, p in m.named_parameters():
        assert optimizer.state[p].keys() == expected[name].keys()
        for slot, value in expected[name].items():
            assert torch.equal(torch.as_tensor(optimizer.state[p][slot]), torch.as_tensor(value))
    for group in optimizer.param_groups:
        values = ADAMW if group["adamw"] else MUON
        assert {slot: group[slot] for slot in values} == values


def test_what_the_checkpoint_lacks_begins_anew_and_is_named(tmp_path):
    saved("muon", tmp_path)
    m = network()
    optimizer = Muon(m, lr=0.05, adamw_lr=0.007)
    part = r"loaded in part: param_groups\[1\] keeps its lr.*no average of gradients of "
    with pytest.warns(UserWarning, match=part):
        load_torch_checkpoint(m, optimizer, tmp_path)
    assert optimizer.param_groups[0]["lr"] == 0.02 and optimizer.param_groups[1]["lr"] == 0.007
    assert not any(optimizer.state.get(p) for p in optimizer.param_groups[1]["params"])


REFUSED = {
    "adamw": ({}, "optimizer='first.weight, second.weight': matrices here"),
    "mixed": ({}, "optimizer='second.weight': matrices here"),
    "both": (
        {"overrides": {"second.weight": "adamw"}},
        "optimizer='second.weight': AdamW's here, and matrices with momentum",
    ),
    "rates": ({}, "saved in two groups, and in one here"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_restored_is_refused_and_nothing_changed(kind, tmp_path):
    options, reason = REFUSED[kind]
    saved(kind, tmp_path)
    m = network()
    optimizer = Muon(m, lr=0.05, **options)
    before = repr(optimizer)
    with pytest.raises(ValueError, match=re.escape(reason)):
        load_torch_checkpoint(m, optimizer, tmp_path)
    assert repr(optimizer) == before and not optimizer.state


def test_another_key_and_a_checkpoint_of_this_library_are_refused(tmp_path):
    saved("both", tmp_path)
    m = network()
    optimizer = Muon(m, lr=0.05)
    with pytest.raises(
        ValueError, match=r"key='optim': the checkpoint has nothing of first\.weight"
    ):
        load_torch_checkpoint(m, optimizer, tmp_path, key="optim")
    own = {"optimizer": get_optimizer_state_dict(m, optimizer)}
    checkpoint.save(own, checkpoint_id=tmp_path / "own")
    with pytest.raises(ValueError, match="a checkpoint of this library"):
        load_torch_checkpoint(m, optimizer, tmp_path / "own")


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_load_in_part_by_torchs_functions_says_what_is_missing(kind, tmp_path):
    saved(kind, tmp_path)
    m = network()
    optimizer = Muon(m, lr=0.05, adamw_lr=0.007)
    content = {"optimizer": get_optimizer_state_dict(m, optimizer)}
    planner = DefaultLoadPlanner(allow_partial_load=True)
    checkpoint.load(content, checkpoint_id=tmp_path, planner=planner)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        set_optimizer_state_dict(m, optimizer, content["optimizer"])
    texts = [str(w.message) for w in told if "loaded in part" in str(w.message)]
    assert len(texts) == 1
    kept, fresh = {"muon": (1, "first.bias"), "adamw": (0, "first.weight")}[kind]
    assert f"param_groups[{kept}] keeps its lr" in texts[0] and fresh in texts[0]
