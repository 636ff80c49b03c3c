"""A gradient that is exactly zero: the matrix decays, coasts for a while and comes to rest."""

import pytest
import torch
from torch import nn

from steepest import Lion, MatrixView, Muon, Muown, SteepestDescent, norms
from steepest.polar import Svd
from steepest.retractions import RowMagnitudes
from tests.optim.suite import every_optimizer

STEPS = 60
"""An average with weight 1/2 of the past needs some 40 steps from size 1 to be forgotten."""


def gradient(p, seed=0):
    return torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)).to(p.dtype)


def kick(optimizer, *params, seed=0):
    """One step along random gradients."""
    for i, p in enumerate(params):
        p.grad = gradient(p, seed + i)
    optimizer.step(lambda: torch.tensor(1.0))


def coast(optimizer, params, steps=STEPS):
    """Steps with zero gradients; how many there were until the last that moved anything."""
    last = 0
    for t in range(steps):
        before = [p.detach().clone() for p in params]
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step(lambda: torch.tensor(1.0))
        if any(not torch.equal(a, b) for a, b in zip(before, params, strict=True)):
            last = t + 1
    return last


@every_optimizer
def test_every_optimizer_comes_to_rest(make):
    """Matrices in their norm and vectors by AdamW; without decay, which would go on to zero."""
    w, b = nn.Parameter(torch.eye(6, 4)), nn.Parameter(torch.zeros(4))
    optimizer = make(
        [{"params": [w]}, {"params": [b], "adamw": True}], weight_decay=0.0, adamw_weight_decay=0.0
    )
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = (0.5, 0.5)
        else:
            group["momentum"] = min(group["momentum"], 0.5)
    if isinstance(optimizer, Muown):
        optimizer.param_groups[0]["retraction"] = RowMagnitudes(betas=(0.5, 0.5))
    kick(optimizer, w, b)
    assert bool((w != 0).any())
    assert coast(optimizer, [w, b]) < STEPS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_it_takes_no_longer_than_with_torch(dtype):
    """In every type; in torch's the update fades once its norm is below 1e-7."""
    found = []
    for make in (Muon, torch.optim.Muon):
        w = nn.Parameter(torch.zeros(16, 16, dtype=dtype))
        optimizer = make([w], lr=0.02, weight_decay=0.0, momentum=0.8)
        kick(optimizer, w)
        found.append(coast(optimizer, [w], 250))
    ours, theirs = found
    assert 0 < ours <= theirs


def test_decay_goes_on():
    w = nn.Parameter(torch.zeros(6, 4))
    optimizer = Muon([w], lr=0.1, weight_decay=0.5, momentum=0.5)
    kick(optimizer, w)
    coast(optimizer, [w])
    before = w.detach().clone()
    coast(optimizer, [w], 1)
    torch.testing.assert_close(w.detach(), (1 - 0.1 * 0.5) * before)


@pytest.mark.parametrize("scale", ["estimate", "linesearch"])
def test_one_length_for_all_comes_to_rest(scale):
    options = {"sharpness": "estimate"} if scale == "estimate" else {"scale": "linesearch"}
    w = nn.Parameter(torch.ones(6, 4))
    optimizer = SteepestDescent([w], norms.Spectral(), **options)
    kick(optimizer, w)
    before = w.detach().clone()
    assert coast(optimizer, [w], 3) == 0
    assert torch.equal(before, w)


def test_one_expert_of_a_stack_comes_to_rest_while_the_others_go_on():
    """Experts are matrices of one parameter, whose gradient as a whole is not zero."""
    w = nn.Parameter(torch.zeros(3, 6, 4))
    view = MatrixView(batch=(0,), rows=(1,), cols=(2,))
    group = {"params": [w], "views": view}
    optimizer = Muon([group], lr=0.1, weight_decay=0.0, momentum=0.5, polar=Svd())
    kick(optimizer, w)
    for t in range(STEPS):
        w.grad = gradient(w, t)
        w.grad[1] = 0
        before = w.detach().clone()
        optimizer.step()
    moved = torch.linalg.svdvals(w.detach() - before)
    factor = (6 / 4) ** 0.5
    expected = torch.tensor([1.0, 0.0, 1.0])[:, None].expand(3, 4) * 0.1 * factor
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-6)


def test_rows_that_are_never_seen_again_come_to_rest():
    """A table in the max norm: each entry moves by lr, those of unseen words as well."""
    w = nn.Parameter(torch.zeros(5, 3))
    optimizer = Lion([w], lr=0.1, betas=(0.4, 0.5))
    kick(optimizer, w)
    for t in range(STEPS):
        w.grad = gradient(w, t)
        w.grad[2:] = 0
        before = w.detach().clone()
        optimizer.step()
    moved = (w.detach() - before).abs()
    torch.testing.assert_close(moved[:2], torch.full((2, 3), 0.1), rtol=1e-4, atol=0)
    assert torch.equal(moved[2:], torch.zeros(3, 3))


@pytest.mark.parametrize("size", [1e-15, 1e-30])
@pytest.mark.parametrize("momentum", [0.0, 0.95])
@pytest.mark.parametrize("nesterov", [False, True])
def test_a_tiny_gradient_makes_full_steps_and_is_averaged(size, momentum, nesterov):
    """Nothing is forgotten where the gradient is not zero: the path does not see its size."""
    paths = []
    for scale in (1.0, size):
        w = nn.Parameter(torch.zeros(8, 8))
        optimizer = Muon([w], 0.1, 0.0, momentum, nesterov, polar=Svd())
        for t in range(5):
            w.grad = gradient(w, t) * scale
            before = w.detach().clone()
            optimizer.step()
        moved = torch.linalg.svdvals(w.detach() - before)
        torch.testing.assert_close(moved, torch.full((8,), 0.1))
        paths.append(w.detach().clone())
    assert float(torch.linalg.matrix_norm(paths[0] - paths[1], 2)) < 1e-4


def test_it_starts_again_with_the_next_gradient():
    w = nn.Parameter(torch.zeros(6, 4))
    optimizer = Muon([w], lr=0.1, weight_decay=0.0, momentum=0.5, polar=Svd())
    kick(optimizer, w)
    coast(optimizer, [w])
    before = w.detach().clone()
    kick(optimizer, w, seed=5)
    moved = torch.linalg.svdvals(w.detach() - before)
    torch.testing.assert_close(moved, torch.full((4,), 0.1 * (6 / 4) ** 0.5))


def test_zeros_in_a_gradient_that_is_not_zero_are_averaged():
    """A dead row is forgotten when it is small, not when its gradient is zero for a step."""
    w = nn.Parameter(torch.zeros(4, 4, dtype=torch.float64))
    optimizer = Muon([w], lr=0.1, weight_decay=0.0, nesterov=False, polar=Svd())
    first = gradient(w)
    w.grad = first
    optimizer.step()
    second = gradient(w, 1)
    second[1] = 0
    w.grad = second
    before = w.detach().clone()
    optimizer.step()
    u, _, v = torch.linalg.svd(0.95 * 0.05 * first + 0.05 * second)
    torch.testing.assert_close(before - w.detach(), 0.1 * u @ v)
