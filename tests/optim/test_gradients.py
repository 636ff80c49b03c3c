"""Gradients that are not finite, sparse or zero."""

import copy

import pytest
import torch

from tests.optim.suite import (
    assert_equal,
    every_optimizer,
    loss,
    model,
    parameters,
    train,
)


@every_optimizer
def test_sparse_gradients_are_refused_by_name_and_change_nothing(make):
    m = model()
    m.embedding.sparse = True
    optimizer = make(m)
    loss(m).backward()
    before = parameters(m)
    with pytest.raises(ValueError, match=r"sparse \(embedding.weight\).*sparse=False"):
        optimizer.step()
    assert_equal(before, parameters(m))


@every_optimizer
def test_zero_gradients_only_decay(make):
    m = model()
    optimizer = make(m, lr=0.5, weight_decay=0.25)
    for p in m.parameters():
        p.grad = torch.zeros_like(p)
    before = m.up.weight.detach().clone()
    optimizer.step()
    assert all(bool(torch.isfinite(p).all()) for p in m.parameters())
    torch.testing.assert_close(m.up.weight, before * (1 - 0.5 * 0.25))


BAD = [float("nan"), float("inf"), float("-inf")]


@every_optimizer
@pytest.mark.parametrize("bad", BAD)
def test_skip_leaves_parameter_and_state_as_they_are(make, bad):
    m = model()
    optimizer = make(m)
    train(m, optimizer, 2)
    optimizer.zero_grad()
    loss(m, 2).backward()
    m.up.weight.grad[1, 2] = bad
    m.embedding.weight.grad[0, 0] = bad
    names = ("up.weight", "embedding.weight")
    before = {n: p.detach().clone() for n, p in m.named_parameters()}
    states = {n: copy.deepcopy(optimizer.state[p]) for n, p in m.named_parameters()}
    optimizer.step()
    assert optimizer.skipped == 2
    for name, p in m.named_parameters():
        kept = {
            k: v for k, v in states[name].items() if k != "retraction.begun"
        }  # once and for all
        same = [torch.equal(v, optimizer.state[p][k]) for k, v in kept.items()]
        if name in names:
            assert torch.equal(p, before[name])
            assert all(same)
        else:
            assert not torch.equal(p, before[name])
            assert not any(same)
    train(m, optimizer, 1, start=3)
    assert all(bool(torch.isfinite(p).all()) for p in m.parameters())
    assert optimizer.skipped == 2


@every_optimizer
def test_skip_in_the_first_step(make):
    m = model()
    optimizer = make(m)
    loss(m).backward()
    for p in m.parameters():
        p.grad.fill_(float("nan"))
    before = parameters(m)
    optimizer.step()
    assert_equal(before, parameters(m))
    assert optimizer.skipped == len(before)
    train(m, optimizer, 2)
    assert all(bool(torch.isfinite(p).all()) for p in m.parameters())


@every_optimizer
@pytest.mark.parametrize("bad", BAD)
def test_raise_names_the_parameter_and_changes_nothing(make, bad):
    m = model()
    optimizer = make(m, nonfinite="raise")
    train(m, optimizer, 1)
    optimizer.zero_grad()
    loss(m).backward()
    m.head.weight.grad[1, 2] = bad
    before = parameters(m)
    state = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(FloatingPointError, match=r"gradient of head.weight has NaN or inf"):
        optimizer.step()
    assert_equal(before, parameters(m))
    for key, buffers in optimizer.state_dict()["state"].items():
        assert all(torch.equal(v, state["state"][key][name]) for name, v in buffers.items())


@every_optimizer
def test_large_finite_gradients_are_no_overflow(make):
    """float64 gradients beyond float32, and squares that overflow, are finite numbers."""
    m = model().double()
    optimizer = make(m)
    loss(m).backward()
    m.up.weight.grad.mul_(1e200)
    before = m.up.weight.detach().clone()
    optimizer.step()
    assert optimizer.skipped == 0
    assert not torch.equal(before, m.up.weight)
