"""What a state may hold of a parameter: each damage to each tensor is refused by its name."""

import copy
import re

import pytest
import torch
from torch import nn

from steepest import LionK, Muon, NorMuon, maps
from tests.optim.suite import OPTIMIZERS, assert_equal, every_optimizer, model, parameters, train
from tests.optim.suite import all_in_eight_bits as all_in_eight_bits

DAMAGES = {
    "one row": lambda v: v[:1] if v.ndim else None,
    "no row": lambda v: v[:0] if v.ndim else None,
    "one column": lambda v: v[..., :1] if v.ndim > 1 else None,
    "transposed": lambda v: v.mT if v.ndim > 1 else None,
    "flat": lambda v: v.flatten() if v.ndim > 1 else None,
    "an axis more": lambda v: v[None] if v.ndim else None,
    "a scalar": lambda v: v.sum() if v.ndim else None,
    "two numbers": lambda v: v.flatten()[:1].expand(2),
    "complex": lambda v: v.to(torch.complex64),
    "whole numbers": lambda v: v.long() if v.ndim else None,
    "truths": lambda v: v.bool() if v.ndim else None,
    "a list": lambda v: v.tolist() if v.ndim else None,
    "a text": lambda v: "all",
}
COUNTS = {"nan": float("nan"), "inf": float("inf"), "before the first": -1.0, "no number": "three"}


def damaged(value):
    """The value with each damage that changes its shape or its type."""
    for kind, damage in DAMAGES.items():
        found = damage(value)
        alike = isinstance(found, torch.Tensor) and found.shape == value.shape
        if found is not None and not (alike and found.dtype == value.dtype):
            yield kind, found


def refused(optimizer, state, key, name):
    """The state is refused by the name of the value, and nothing has changed."""
    before = {p: dict(own) for p, own in optimizer.state.items()}
    groups = str([{**group, "params": 0} for group in optimizer.param_groups])
    where = re.escape(f"state[{key!r}][{name!r}]=")
    with pytest.raises(ValueError, match=f"^{where}.*: .*(load|delete)") as error:
        optimizer.load_state_dict(state)
    assert len(str(error.value).splitlines()) == 1
    assert optimizer.state.keys() == before.keys()
    for p, own in optimizer.state.items():
        assert all(own[name] is value for name, value in before[p].items())
    assert str([{**group, "params": 0} for group in optimizer.param_groups]) == groups


def check_all(make, dtype=torch.float32):
    """Every damage to every tensor of the state; the names of those that there are."""
    m = model().to(dtype)
    optimizer = make(m)
    train(m, optimizer, 2)
    saved = optimizer.state_dict()
    slots = {}  # a parameter for each name and number of axes
    for key, own in saved["state"].items():
        slots.update({(name, value.ndim): (key, value) for name, value in own.items()})
    for (name, _), (key, value) in slots.items():
        kinds = dict(damaged(value))
        if name == "step":
            kinds |= COUNTS | {kind: torch.tensor(x) for kind, x in COUNTS.items() if x != "three"}
        for bad in kinds.values():
            refused(optimizer, with_value(saved, key, name, bad), key, name)
    optimizer.load_state_dict(saved)
    train(m, optimizer, 1)
    return {name for name, _ in slots}


def with_value(saved, key, name, value):
    """A state with another value in one place."""
    state = {**saved["state"], key: {**saved["state"][key], name: value}}
    return {**saved, "state": state}


@every_optimizer
def test_each_damage_to_each_tensor_is_refused_by_name(make):
    check_all(make)


def test_averages_are_among_them():
    wanted = {"step", "exp_avg", "exp_avg_sq", "momentum_buffer"}
    assert wanted <= check_all(OPTIMIZERS["muon"])


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("NorMuon", {"after.second_moment"}),
        ("SOAPMuon", {"before.row_gram", "before.col_basis", "before.second_moment"}),
        ("Muown", {"retraction.magnitude", "retraction.steps"}),
        ("Hyperball", {"retraction.begun"}),
    ],
)
def test_the_tensors_of_maps_and_retractions_are_among_them(name, kept):
    assert kept <= check_all(OPTIMIZERS[name], torch.float64)


@pytest.mark.usefixtures("all_in_eight_bits")
@pytest.mark.parametrize("name", ["muon_8bit", "NorMuon", "lion"])
def test_eight_bits_are_among_them(name):
    def make(m):
        return OPTIMIZERS[name](m, momentum_dtype=torch.int8)

    assert {"momentum_codes", "momentum_units"} <= check_all(make)


def test_complex_parameters_have_complex_averages():
    w = nn.Parameter(torch.randn(3, 4, dtype=torch.complex64))
    b = nn.Parameter(torch.randn(3, dtype=torch.complex64))
    optimizer = Muon([{"params": [w]}, {"params": [b], "adamw": True}], lr=0.1)
    w.grad, b.grad = torch.ones_like(w), torch.ones_like(b)
    optimizer.step()
    saved = optimizer.state_dict()
    for key, name in ((0, "momentum_buffer"), (1, "exp_avg"), (1, "exp_avg_sq")):
        value = saved["state"][key][name]
        assert value.is_complex()
        refused(optimizer, with_value(saved, key, name, value.real), key, name)
    optimizer.load_state_dict(saved)
    optimizer.step()


def test_the_state_of_a_model_of_another_size_is_refused():
    def resized(width):
        return nn.Sequential(nn.Linear(6, 10), nn.Linear(10, width), nn.Linear(width, 3))

    first, second = resized(7), resized(9)
    optimizer = NorMuon(first, lr=0.1)
    first(torch.ones(2, 6)).sum().backward()
    optimizer.step()
    with pytest.raises(
        ValueError,
        match=r"^state\[1\]\['momentum_buffer'\]='7×10': 9×10 belongs here, since 1\.weight",
    ):
        NorMuon(second, lr=0.1).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("name", ["muon", "NorMuon", "lion_k"])
def test_each_parameter_has_a_number_of_its_own(name):
    m = model()
    optimizer = OPTIMIZERS[name](m)
    train(m, optimizer, 1)
    saved = optimizer.state_dict()
    for place, params in ((0, [0] * 50), (-1, [0])):
        groups = copy.deepcopy(saved["param_groups"])
        count = len(groups[place]["params"])
        groups[place]["params"] = (params * count)[:count]
        with pytest.raises(ValueError, match=r"^param_groups\[\d\]\['params'\]=0: .*give each"):
            optimizer.load_state_dict({**saved, "param_groups": groups})
    more = {**saved["state"], 99: saved["state"][0]}
    with pytest.raises(ValueError, match=r"^state\[99\]=.*no group has a parameter of this number"):
        optimizer.load_state_dict({**saved, "state": more})
    with pytest.raises(ValueError, match=r"^state\[0\]='list': a dictionary belongs here"):
        optimizer.load_state_dict({**saved, "state": {**saved["state"], 0: [1]}})
    # As torch does: what a user keeps under another name is no parameter's.
    optimizer.load_state_dict({**saved, "state": {**saved["state"], "mine": {"x": 1}, 98: {}}})
    train(m, optimizer, 1)


@every_optimizer
def test_what_is_missing_begins_anew(make):
    """A parameter of which there is no state, or a tensor of it."""
    m = model()
    optimizer = make(m)
    train(m, optimizer, 2)
    saved = optimizer.state_dict()
    adamws = {k for group in saved["param_groups"] if group["adamw"] for k in group["params"]}
    first = {
        key: own if key in adamws else {k: v for k, v in own.items() if k.startswith("momentum")}
        for key, own in saved["state"].items()
    }
    some = dict(list(saved["state"].items())[1::2])
    for state in ({}, {key: {} for key in saved["state"]}, some, first):
        twin = model()
        other = make(twin)
        other.load_state_dict({**saved, "state": state})
        train(twin, other, 1)


def test_what_adamw_keeps_goes_together():
    m = model()
    optimizer = OPTIMIZERS["muon"](m)
    train(m, optimizer, 2)
    saved = optimizer.state_dict()
    key = next(key for key, own in saved["state"].items() if "step" in own)
    for name in saved["state"][key]:
        rest = {k: v for k, v in saved["state"][key].items() if k != name}
        refused(optimizer, {**saved, "state": {**saved["state"], key: rest}}, key, name)


@every_optimizer
@pytest.mark.parametrize("dtypes", [(64, 32), (32, 64), (32, 16), (16, 32)], ids=str)
def test_a_state_goes_on_in_another_precision(make, dtypes):
    """Whatever is kept: what maps keep has the type of their arithmetic."""
    types = {16: torch.bfloat16, 32: torch.float32, 64: torch.float64}
    first, second = (types[bits] for bits in dtypes)
    m, twin = model().to(first), model().to(second)
    optimizer, other = make(m), make(twin)
    train(m, optimizer, 2)
    other.load_state_dict(optimizer.state_dict())
    expected = make(twin)
    train(twin, expected, 1)
    for p, own in other.state.items():
        kinds = {name: value.dtype for name, value in own.items()}
        assert kinds == {name: value.dtype for name, value in expected.state[p].items()}
    train(twin, other, 1, start=2)
    assert all(p.isfinite().all() for p in parameters(twin))


def test_a_momentum_that_torchs_sgd_does_not_have_is_none():
    w = nn.Parameter(torch.randn(40, 300))
    w.grad = torch.ones_like(w)
    theirs = torch.optim.SGD([w], lr=0.1)
    theirs.step()
    saved = theirs.state_dict()
    saved["state"] = {0: {"momentum_buffer": None}}
    for options in ({}, {"momentum_dtype": torch.int8}):
        optimizer = Muon([w], lr=0.1, **options)
        optimizer.load_state_dict(saved)
        optimizer.step()


def test_the_count_of_steps_may_be_a_number():
    m = model()
    optimizer = LionK(m, K=maps.SmoothNuclear(1e-3), lr=0.1)
    train(m, optimizer, 2)
    saved = optimizer.state_dict()
    key = next(key for key, own in saved["state"].items() if "step" in own)
    after = []
    for count in (2, 2.0, torch.tensor(2), torch.tensor([2.0])):
        twin = copy.deepcopy(m)
        other = LionK(twin, K=maps.SmoothNuclear(1e-3), lr=0.1)
        other.load_state_dict(with_value(saved, key, "step", count))
        train(twin, other, 1, start=2)
        after.append(parameters(twin))
    for other in after:
        assert_equal(after[0], other)
