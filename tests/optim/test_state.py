"""What every optimizer saves, loads and copies."""

import copy
import dataclasses
import io
import pickle

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from steepest import LionK, Muon, SteepestDescent, maps, norms
from steepest.optim.state import OLD_NAMES
from steepest.polar import (
    JORDAN,
    Auto,
    GramEigh,
    GramNewtonSchulz,
    NewtonSchulz,
    PolarMethod,
    Schedule,
    Svd,
    Zolotarev,
    design_schedule,
)
from tests.optim.suite import (
    OPTIMIZERS,
    assert_equal,
    every_optimizer,
    model,
    parameters,
    train,
)


@every_optimizer
@pytest.mark.parametrize("through", ["deepcopy", "pickle"])
def test_copies_go_on_alike(make, through):
    m = model()
    optimizer = make(m)
    train(m, optimizer, 2)
    pair = (m, optimizer)
    other, twin = copy.deepcopy(pair) if through == "deepcopy" else pickle.loads(pickle.dumps(pair))
    assert twin.skipped == optimizer.skipped
    assert str(twin.routing) == str(optimizer.routing)
    train(m, optimizer, 2, start=2)
    train(other, twin, 2, start=2)
    assert_equal(parameters(m), parameters(other))


def plain(value):
    """Whether torch.load(weights_only=True) and a distributed checkpoint take it."""
    if isinstance(value, dict):
        return all(isinstance(k, str | int) and plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(plain(v) for v in value)
    return value is None or type(value) in (bool, int, float, str, torch.Tensor)


@every_optimizer
def test_state_dict_is_plain_and_resumes_bit_for_bit(make):
    m = model()
    optimizer = make(m)
    train(m, optimizer, 2)
    assert plain(optimizer.state_dict())
    file = io.BytesIO()
    torch.save({"model": m.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(m, optimizer, 3, start=2)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = model(seed=5)
    resumed = make(other)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    train(other, resumed, 3, start=2)
    assert_equal(parameters(m), parameters(other))


@every_optimizer
def test_a_loaded_state_is_not_shared_with_the_checkpoint(make):
    m = model()
    optimizer = make(m)
    train(m, optimizer, 1)
    saved = optimizer.state_dict()
    frozen = copy.deepcopy(saved)
    other = model()
    resumed = make(other)
    resumed.load_state_dict(frozen)
    before = copy.deepcopy(frozen)
    train(other, resumed, 2)
    for key, state in before["state"].items():
        assert all(torch.equal(v, frozen["state"][key][name]) for name, v in state.items())


@every_optimizer
def test_loaded_hyper_parameters_take_effect(make):
    """`param_groups` is what step reads, whatever has been loaded into it."""
    m = model()
    optimizer = make(m)
    train(m, optimizer, 1)
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        group["lr"] = 0.0
    optimizer.load_state_dict(saved)
    before = parameters(m)
    train(m, optimizer, 1)
    assert_equal(before, parameters(m))


@every_optimizer
def test_momentum_dtype_survives_a_checkpoint(make):
    """torch's loader casts every buffer to the parameter's type."""
    m = model().bfloat16()
    optimizer = make(m, momentum=0.9, momentum_dtype=torch.float32)
    train(m, optimizer, 2)
    buffer = optimizer.state[m.up.weight]["momentum_buffer"]
    assert buffer.dtype == torch.float32
    assert not torch.equal(buffer, buffer.bfloat16().float())
    resumed = make(m, momentum=0.9, momentum_dtype=torch.float32)
    resumed.load_state_dict(optimizer.state_dict())
    assert torch.equal(resumed.state[m.up.weight]["momentum_buffer"], buffer)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@every_optimizer
def test_distributed_checkpoint(make, tmp_path):
    m = model()
    optimizer = make(m, momentum=0.9)
    train(m, optimizer, 2)
    saved = get_optimizer_state_dict(m, optimizer)
    dcp.save(saved, checkpoint_id=tmp_path, no_dist=True)
    loaded = copy.deepcopy(saved)
    for state in loaded["state"].values():
        for value in state.values():
            value.zero_()
    dcp.load(loaded, checkpoint_id=tmp_path, no_dist=True)
    name = "up.weight"
    assert torch.equal(
        loaded["state"][name]["momentum_buffer"], optimizer.state[m.up.weight]["momentum_buffer"]
    )


def test_methods_are_named_in_the_state():
    m = model()
    texts = {
        OPTIMIZERS[name](m).state_dict()["param_groups"][0]["polar"]
        for name in ("muon", "muon_svd")
    }
    assert texts == {repr(Auto(error=0.05)), repr(Svd())}
    with pytest.raises(ValueError, match=r"polar.*saved with this, but the optimizer has GramEigh"):
        Muon(m, polar=GramEigh()).load_state_dict(Muon(m, polar=Svd()).state_dict())


def as_before_the_release(state):
    """A state with the keys and the names in texts that groups had then."""
    old = copy.deepcopy(state)
    for group in old["param_groups"]:
        group["rest"] = group.pop("adamw")
        if not group["rest"]:
            group["past"], momentum = group.pop("betas", (None, group.get("momentum")))
            group["momentum"] = momentum
        for key, names in OLD_NAMES.items():
            for before, now in names.items():
                if key in group:
                    group[key] = group[key].replace(now, before)
    return old


@pytest.mark.parametrize("name", ["muon", "lion", "lion_k", "scion", "polar_grad"])
def test_a_state_of_before_the_release_is_still_read(name):
    m = model()
    optimizer = OPTIMIZERS[name](m)
    train(m, optimizer, 2)
    other = model()
    other.load_state_dict(m.state_dict())
    twin = OPTIMIZERS[name](other)
    twin.load_state_dict(as_before_the_release(optimizer.state_dict()))
    train(m, optimizer, 2, start=2)
    train(other, twin, 2, start=2)
    assert_equal(parameters(m), parameters(other))
    assert not {"rest", "past"} & {key for group in twin.param_groups for key in group}


def written_in_full(value):
    """The text of a polar method, and of its schedule, with all of their fields."""
    names = [f.name for f in dataclasses.fields(value) if f.repr]
    pairs = ((name, getattr(value, name)) for name in names)
    plain = (Schedule, PolarMethod)
    texts = (f"{k}={written_in_full(v) if isinstance(v, plain) else repr(v)}" for k, v in pairs)
    return f"{type(value).__name__}({', '.join(texts)})"


@pytest.mark.parametrize(
    "method",
    [
        Auto(error=0.05),
        Auto(error=0.01, resolution=1e-3),
        GramEigh(),
        GramEigh(refine=1),
        GramNewtonSchulz(design_schedule(lower=1e-3, error=0.05), torch.bfloat16, tight=True),
        NewtonSchulz(JORDAN),
        NewtonSchulz(),
        Svd(),
        Zolotarev(3, 1e-2, tight=True),
    ],
    ids=repr,
)
def test_a_method_that_was_saved_with_all_of_its_fields_is_known(method):
    old = written_in_full(method)
    assert old == repr(method) == "Svd()" or len(old) > len(repr(method))
    m = model()
    for optimizer, key in (
        (Muon(m, polar=method), "polar"),
        (SteepestDescent(m, norms.Operator("rms", "rms", polar=method), lr=0.1), "norm"),
        (LionK(m, K=maps.NuclearMap(polar=method)), "K"),
    ):
        state = optimizer.state_dict()
        group = state["param_groups"][0]
        assert repr(method) in group[key]
        group[key] = group[key].replace(repr(method), old)
        optimizer.load_state_dict(state)
        group[key] = group[key].replace(old, written_in_full(Zolotarev(4, 1e-2)))
        with pytest.raises(ValueError, match=r"saved with this, but the optimizer has .*"):
            optimizer.load_state_dict(state)


def test_rest_in_a_group_is_refused_by_its_new_name():
    w, b = (torch.nn.Parameter(torch.zeros(size)) for size in ((2, 2), (2,)))
    with pytest.raises(ValueError, match="rest=True: this key of a group is called adamw now"):
        Muon([{"params": [w]}, {"params": [b], "rest": True}])
