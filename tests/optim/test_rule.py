"""The rule of a group: it follows what the group holds, and no compiled step makes it anew."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim.lr_scheduler import OneCycleLR

from steepest import SGD, Lion, LionK, Muon, PolarGrad, SteepestDescent, maps, norms
from steepest.optim import SteepestOptimizer
from steepest.optim.rule import NormRule
from steepest.polar import Svd


def weight(*shape, seed=0):
    w = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    w.grad = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()
    return w


CHANGES = [
    (lambda w: Muon([w], lr=0.1), {"polar": Svd()}),
    (lambda w: Muon([w], lr=0.1, ns_steps=5), {"ns_steps": 3}),
    (lambda w: Muon([w], lr=0.1, ns_steps=5), {"ns_coefficients": (2.0, -1.5, 0.5)}),
    (lambda w: Muon([w], lr=0.1), {"adjust_lr_fn": "match_rms_adamw"}),
    (lambda w: SteepestDescent([w], norms.Spectral(), lr=0.1), {"norm": norms.LInf()}),
    (lambda w: SGD([w], lr=0.1), {"sharpness": 3.0}),
    (lambda w: LionK([w], lr=0.1), {"K": maps.NuclearMap()}),
]


@pytest.mark.parametrize(("make", "change"), CHANGES, ids=[str(c) for _, c in CHANGES])
def test_a_value_that_is_replaced_in_a_group_counts_from_the_next_step(make, change):
    a, b = weight(4, 6), weight(4, 6)
    changed, fresh = make(a), make(b)
    changed.step()
    with torch.no_grad():
        a.zero_()
    changed.state.clear()
    changed.param_groups[0].update(change)
    fresh.param_groups[0].update(change)
    changed.step()
    fresh.step()
    assert torch.equal(a, b)
    other = weight(4, 6)
    make(other).step()
    assert not torch.equal(a, other)


@pytest.mark.parametrize("number", [torch.tensor(4.0), np.float32(4.0), 4], ids=type)
def test_a_sharpness_of_any_type_is_one(number):
    a, b = weight(4, 6), weight(4, 6)
    optimizer, expected = (PolarGrad([w], sharpness=2.0) for w in (a, b))
    optimizer.param_groups[0]["sharpness"], expected.param_groups[0]["sharpness"] = number, 4.0
    optimizer.step()
    expected.step()
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("make", [Muon, SGD, Lion, LionK], ids=lambda make: make.__name__)
def test_a_flattened_state_goes_there_and_back(make):
    model = nn.Sequential(nn.Linear(4, 4, bias=False))
    optimizer = make(model, lr=0.1)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    state = get_optimizer_state_dict(model, optimizer, options=options)
    twin = make(model, lr=0.2)
    set_optimizer_state_dict(model, twin, state, options=options)
    assert twin.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("make", [Lion, LionK], ids=lambda make: make.__name__)
def test_a_momentum_beside_betas_is_refused_before_anything_moves(make):
    w = weight(4, 6)
    optimizer = make([w], lr=0.1)
    optimizer.param_groups[0]["momentum"] = 0.5
    with pytest.raises(ValueError, match=r"momentum=0\.5: betas=.* are the weights"):
        optimizer.step()
    assert bool((w == 0).all()) and not optimizer.state


def test_a_group_with_betas_of_its_own_survives_a_checkpoint():
    a, b = weight(4, 6), weight(4, 6)
    groups = [{"params": [a]}, {"params": [b], "betas": (0.5, 0.6)}]
    optimizer = SteepestDescent(groups, norms.Spectral(), lr=0.1, momentum=0.9)
    scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=4, cycle_momentum=False)
    optimizer.step()
    scheduler.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
    assert [group.get("betas") for group in optimizer.param_groups] == [None, (0.5, 0.6)]
    assert "momentum" not in optimizer.param_groups[1]


def test_a_subclass_has_to_say_what_its_rule_is_made_of():
    class Forgetful(SteepestOptimizer):
        def _make_rule(self, group):
            return NormRule(group["norm"])

    with pytest.raises(AttributeError, match="rule_keys"):
        Forgetful([weight(2, 2)], {"lr": 0.1, "weight_decay": 0.0, "norm": norms.LInf()}, {}).step()


def test_names_of_before_are_refused_with_those_of_today():
    w = weight(2, 2)
    with pytest.raises(ValueError, match=r"past=0\.9: this key of a group is called betas now"):
        SteepestDescent([{"params": [w], "past": 0.9}], norms.LInf(), lr=0.1)
    with pytest.raises(TypeError, match="'past': it is called betas now"):
        SteepestDescent([w], norms.LInf(), lr=0.1, past=0.9)
    with pytest.raises(TypeError, match="'rest_lr': it is called adamw_lr now"):
        Muon([w], rest_lr=0.1)
    with pytest.raises(TypeError, match="it takes"):
        Muon([w], warmup=3)


def test_a_map_whose_text_holds_a_name_of_before_reloads():
    """`norms.Nuclear` keeps the name that a map had: its text must not be taken for the map's."""
    K = maps.FromNorm(norms.Scaled(norms.Nuclear(), norms.ShapeFactor(cols=1.0)))
    optimizer = LionK([weight(4, 6)], lr=0.1, K=K)
    optimizer.step()
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert [view.geometry for view in optimizer.parameter_views()] == [K]


def test_a_group_of_adamw_has_no_map():
    w, b = weight(2, 2), weight(2)
    optimizer = Muon([{"params": [w]}, {"params": [b], "adamw": True}], adamw_lr=None)
    assert optimizer.constraint_map(optimizer.param_groups[1]) is None
    assert optimizer.param_groups[1]["lr"] == 3e-4
