"""Muon in the place of torch.optim.Muon: arguments, rules, steps and checkpoints."""

import ast
import contextlib
import copy
import inspect
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from steepest import Muon
from steepest.optim.rule import shape_factor
from steepest.polar import Svd
from tests.matrices import naive_polar, spectral_distance
from tests.optim.runs import gradient, pair, parameter, run

TORCH_ARGUMENTS = inspect.signature(torch.optim.Muon).parameters


def rules_of_torch():
    """What the installed torch.optim.Muon takes as `adjust_lr_fn`, of all strings in its module."""
    tree = ast.parse(inspect.getsource(torch.optim._muon))
    words = {x.value for x in ast.walk(tree) if isinstance(x, ast.Constant)}
    rules = [None]
    for word in sorted(word for word in words if isinstance(word, str) and word.isidentifier()):
        with contextlib.suppress(ValueError):
            torch.optim.Muon([parameter(2, 2)], adjust_lr_fn=word)
            rules.append(word)
    return rules


def test_arguments_and_defaults_are_torchs():
    ours = inspect.signature(Muon).parameters
    assert list(ours)[: len(TORCH_ARGUMENTS)] == list(TORCH_ARGUMENTS)
    for name, theirs in TORCH_ARGUMENTS.items():
        # `lr` depends on whether there is something that torch's does not take.
        if not name.startswith("ns_") and name != "lr":
            assert ours[name].default == theirs.default
    w = [parameter(3, 3)]
    mine, their = Muon(w).param_groups[0], torch.optim.Muon(w).param_groups[0]
    for key, value in their.items():
        if key != "params":
            assert mine[key] == value, key


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("rule", rules_of_torch())
def test_with_ns_arguments_it_follows_torch(nesterov, rule):
    """Ten steps stay together to bfloat16 rounding, in operator norm relative to the path."""
    shapes = [(16, 16), (24, 8), (8, 24), (16, 16)]
    ours, theirs = pair(*shapes)
    start = [p.detach().clone() for p in ours]
    arguments = {"lr": 0.05, "nesterov": nesterov, "adjust_lr_fn": rule, "ns_steps": 5}
    run(Muon(ours, **arguments), ours, 10)
    run(torch.optim.Muon(theirs, **arguments), theirs, 10)
    for a, b, s in zip(ours, theirs, start, strict=True):
        path = spectral_distance(b.detach(), s)
        assert spectral_distance(a.detach(), b.detach()) < 0.02 * path


def test_the_polar_method_is_torchs_newton_schulz():
    g = parameter(12, 20, dtype=torch.float32).detach()
    w = nn.Parameter(torch.zeros(12, 20))
    twin = nn.Parameter(torch.zeros(12, 20))
    for cls, p in ((Muon, w), (torch.optim.Muon, twin)):
        optimizer = cls([p], lr=1.0, weight_decay=0.0, ns_coefficients=(2.0, -1.5, 0.5), ns_steps=7)
        p.grad = g.clone()
        optimizer.step()
    assert spectral_distance(w.detach(), twin.detach()) < 0.02
    assert spectral_distance(w.detach(), -naive_polar(g)) < 0.05


@pytest.mark.parametrize("tiny", [1e-8, 1e-10, 1e-20])
def test_a_tiny_gradient_makes_a_full_step(tiny):
    """torch divides by max(‖G‖, eps): below eps its update shrinks with the gradient."""
    direction = torch.linalg.qr(parameter(8, 8, dtype=torch.float32).detach())[0]
    w, twin = nn.Parameter(torch.zeros(8, 8)), nn.Parameter(torch.zeros(8, 8))
    for cls, p in ((Muon, w), (torch.optim.Muon, twin)):
        p.grad = direction * tiny
        cls([p], lr=1.0, weight_decay=0.0, momentum=0.0, ns_steps=5).step()
    assert float(torch.linalg.matrix_norm(w.detach(), 2)) > 0.65
    if tiny < 1e-9:
        assert float(torch.linalg.matrix_norm(twin.detach(), 2)) < 0.65


@pytest.mark.parametrize("direction", ["from torch", "to torch"])
@pytest.mark.parametrize("arguments", [{}, {"ns_steps": 5}], ids=["default", "ns"])
def test_state_dicts_load_both_ways_and_step(direction, arguments):
    shapes = [(6, 6), (8, 4)]
    ours, theirs = pair(*shapes)
    mine = Muon(ours, lr=0.05, momentum=0.9, **arguments)
    torchs = torch.optim.Muon(theirs, lr=0.05, momentum=0.9)
    source, params = (torchs, theirs) if direction == "from torch" else (mine, ours)
    target, others = (mine, ours) if direction == "from torch" else (torchs, theirs)
    run(source, params, 3)
    saved = copy.deepcopy(source.state_dict())
    saved["param_groups"][0]["lr"] = 0.03
    target.load_state_dict(saved)
    assert target.param_groups[0]["lr"] == 0.03
    for p, q in zip(params, others, strict=True):
        a, b = source.state[p]["momentum_buffer"], target.state[q]["momentum_buffer"]
        assert torch.equal(a, b)
    before = [q.detach().clone() for q in others]
    run(target, others, 2, start=3)
    for p, q in zip(before, others, strict=True):
        assert 0.01 < spectral_distance(p, q.detach()) < 0.2


def test_a_trajectory_survives_the_change_of_optimizer():
    """torch for three steps, then either of them: the same path to bfloat16 rounding."""
    ours, theirs = pair((10, 10))
    torchs = torch.optim.Muon(theirs, lr=0.05)
    run(torchs, theirs, 3)
    mine = Muon(ours, lr=0.05, ns_steps=5)
    mine.load_state_dict(copy.deepcopy(torchs.state_dict()))
    with torch.no_grad():
        ours[0].copy_(theirs[0])
    start = ours[0].detach().clone()
    run(torchs, theirs, 3, start=3)
    run(mine, ours, 3, start=3)
    path = spectral_distance(theirs[0].detach(), start)
    assert spectral_distance(ours[0].detach(), theirs[0].detach()) < 0.02 * path


def test_loaded_ns_arguments_take_effect():
    w = parameter(6, 6, dtype=torch.float32)
    optimizer = Muon([w], lr=1.0, weight_decay=0.0, ns_steps=5)
    saved = optimizer.state_dict()
    saved["param_groups"][0]["ns_steps"] = 1
    optimizer.load_state_dict(saved)
    before, g = w.detach().clone(), gradient(w, 0)
    w.grad = g.clone()
    optimizer.step()
    x = g / g.norm()
    a, b, c = optimizer.param_groups[0]["ns_coefficients"]
    gram = x @ x.T
    expected = a * x + (b * gram + c * gram @ gram) @ x
    assert spectral_distance(before - w.detach(), expected) < 0.03


def test_the_rules_of_the_installed_torch_are_found():
    assert set(rules_of_torch()) >= {None, "original", "match_rms_adamw"}


@pytest.mark.parametrize("rule", rules_of_torch())
@given(st.integers(1, 500), st.integers(1, 500))
def test_shape_factor_is_torchs(rule, m, n):
    """Every rule that the installed torch takes is taken here, and is torch's own function."""
    assert Muon([parameter(2, 2)], adjust_lr_fn=rule).param_groups[0]["adjust_lr_fn"] == rule
    adjust = torch.optim._muon._adjust_lr
    assert shape_factor(m, n, rule) == pytest.approx(adjust(1.0, rule, torch.Size((m, n))))


def test_a_checkpoint_of_torch_with_spectral_unclamped_loads_and_steps():
    """torch 2.14 writes the rule into its groups; older ones only fail to make it."""
    ours, theirs = pair((8, 24))
    reference = torch.optim.Muon(theirs, lr=0.05)
    run(reference, theirs, 2)
    saved = reference.state_dict()
    saved["param_groups"][0]["adjust_lr_fn"] = "spectral_unclamped"
    optimizer = Muon(ours, polar=Svd())
    with pytest.warns(UserWarning, match="saved with adjust_lr_fn='spectral_unclamped'"):
        optimizer.load_state_dict(saved)
    before = ours[0].detach().clone()
    optimizer.param_groups[0]["weight_decay"] = 0.0
    run(optimizer, ours, 1, start=2)
    moved = torch.linalg.svdvals(before - ours[0].detach())
    torch.testing.assert_close(moved, torch.full((8,), 0.05 * math.sqrt(8 / 24)))
