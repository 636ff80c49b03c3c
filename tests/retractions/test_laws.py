"""Ways in which weights take a step, held against their formulas on one matrix."""

import inspect

import pytest
import torch
from torch import nn

import steepest
from steepest import MatrixView, retractions
from steepest.polar import Svd
from steepest.retractions import Retraction
from steepest.views import EXPERTS, INPUT_FIRST, conv

RETRACTIONS = [
    retractions.Sphere(),
    retractions.Sphere(scale=3.0),
    retractions.UpdateFloor(1.5),
    retractions.UpdateFloor(1.5, rows=True),
    retractions.RadialBrake(),
    retractions.RadialBrake(outward=0.2, inward=0.6),
    retractions.RowMagnitudes(),
    retractions.SplitDecay(),
]
every_retraction = pytest.mark.parametrize("retraction", RETRACTIONS, ids=repr)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(params, retraction, **options):
    values = {"lr": 0.1, "polar": Svd(), "weight_decay": 0.0, **options}
    return steepest.Muon(params, retraction=retraction, **values)


def steps(groups, weights, retraction, count=3, **options):
    """The weights after some steps."""
    optimizer = make(groups, retraction, **options)
    for step in range(count):
        for i, w in enumerate(weights):
            w.grad = randn(*w.shape, seed=10 * step + i).to(w.dtype)
        optimizer.step()
    return [w.detach() for w in weights]


def test_the_table_is_complete():
    public = {m for _, m in inspect.getmembers(retractions, inspect.isclass)}
    kinds = {m for m in public if issubclass(m, Retraction)} - {Retraction}
    assert {type(each) for each in RETRACTIONS} == kinds


@every_retraction
def test_at_lr_zero_nothing_moves(retraction):
    w = nn.Parameter(randn(5, 4).float())
    (after,) = steps([w], [w], retraction, lr=0.0, weight_decay=0.3)
    assert torch.equal(after, randn(5, 4).float())


VIEWS = [
    ((12, 5), MatrixView(split=3)),
    ((12, 5), MatrixView(split=(6, 4, 2))),
    ((5, 12), MatrixView(rows=(1,), cols=(0,), split=3, split_dim=1)),
    ((5, 12), MatrixView(split=3, split_dim=1)),
    ((5, 6), INPUT_FIRST),
    ((4, 5, 3), EXPERTS),
    ((4, 3, 2, 2), conv(2)),
]


@every_retraction
@pytest.mark.parametrize(("shape", "view"), VIEWS, ids=str)
def test_matrices_of_one_parameter_are_matrices_by_themselves(retraction, shape, view):
    whole = nn.Parameter(randn(*shape))
    parts = [nn.Parameter(m.clone()) for s in view.matrices(whole.detach()) for m in s]
    options = {"lr": 0.1, "weight_decay": 0.2}
    one = make([{"params": [whole], "views": [view]}], retraction, **options)
    many = make(parts, retraction, **options)
    for step in range(3):
        whole.grad = randn(*shape, seed=step)
        for p, g in zip(parts, (m for s in view.matrices(whole.grad) for m in s), strict=True):
            p.grad = g.clone()
        one.step()
        many.step()
    found = [m for s in view.matrices(whole.detach()) for m in s]
    for a, b in zip(found, parts, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_a_sphere_keeps_the_norm_but_for_decay(decay, scale):
    w = nn.Parameter(randn(5, 4))
    (after,) = steps([w], [w], retractions.Sphere(scale), weight_decay=decay)
    torch.testing.assert_close(after.norm(), scale * randn(5, 4).norm() * (1 - 0.1 * decay) ** 3)


def test_the_length_of_a_step_on_a_sphere_is_relative():
    w = nn.Parameter(1e-3 * randn(5, 4))
    (after,) = steps([w], [w], retractions.Sphere(), count=1)
    direction = steepest.polar_factor(randn(5, 4))
    raw = 1e-3 * randn(5, 4)
    moved = raw - 0.1 * raw.norm() * direction / direction.norm()
    torch.testing.assert_close(after, moved * raw.norm() / moved.norm())


@pytest.mark.parametrize("rows", [False, True])
def test_a_step_is_not_shorter_than_its_floor(rows):
    w = nn.Parameter(randn(6, 4))
    (after,) = steps([w], [w], retractions.UpdateFloor(0.9, rows=rows), count=1)
    start, dims = randn(6, 4), (1,) if rows else (0, 1)
    update = (start - after) / 0.1
    sizes = [x.square().sum(dims).sqrt() for x in (update, start)]
    plain = steepest.polar_factor(randn(6, 4)) * 1.5**0.5
    lengths = plain.square().sum(dims).sqrt()
    torch.testing.assert_close(sizes[0], torch.maximum(0.9 * sizes[1], lengths))
    assert bool((lengths < 0.9 * sizes[1]).any()), "the floor is reached"


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_brake_takes_a_share_of_the_growth(sign):
    w = nn.Parameter(randn(4, 4))
    optimizer = make([w], retractions.RadialBrake(outward=0.25, inward=0.75))
    w.grad = sign * randn(4, 4)  # along the weights, or against them
    optimizer.step()
    start = randn(4, 4)
    free = start - 0.1 * sign * steepest.polar_factor(start)
    share = 0.25 if sign < 0 else 0.75
    wanted = start.norm() + share * (free.norm() - start.norm())
    torch.testing.assert_close(w.detach(), free * wanted / free.norm())


def test_magnitudes_and_directions_are_those_of_torch():
    """One step of Muown: SGD's chain rule by torch's own weight normalisation."""
    w = randn(5, 4, seed=7)
    g, v = w.norm(dim=1, keepdim=True).requires_grad_(), w.clone().requires_grad_()
    (g * v / v.norm(dim=1, keepdim=True)).backward(randn(5, 4, seed=0))
    p = nn.Parameter(w.clone())
    (after,) = steps([p], [p], retractions.RowMagnitudes(), count=1)
    moved = v.detach() - 0.1 * 1.25**0.5 * steepest.polar_factor(v.grad)
    sizes = g.detach() - 0.1 * g.grad.sign()  # Adam's first step
    torch.testing.assert_close(
        after, sizes * moved / moved.norm(dim=1, keepdim=True), rtol=1e-6, atol=1e-6
    )


def test_a_row_of_zeros_gets_a_magnitude_with_its_first_direction():
    w = nn.Parameter(torch.zeros(3, 4, dtype=torch.float64))
    optimizer = make([w], retractions.RowMagnitudes(zero_row=0.5))
    w.grad = randn(3, 4)
    w.grad[0] = 0
    optimizer.step()
    sizes = w.detach().norm(dim=1)
    torch.testing.assert_close(sizes[1:], torch.full((2,), 0.5, dtype=torch.float64))
    assert float(sizes[0]) < 1e-12


@every_retraction
def test_its_text_is_the_call_that_makes_it(retraction):
    assert eval(repr(retraction), vars(retractions)) == retraction


WRONG = [
    (lambda: retractions.UpdateFloor(0.0), "ratio=0.0: give a positive number"),
    (lambda: retractions.Sphere(scale=0.0), "scale=0.0: give a positive number"),
    (lambda: retractions.RadialBrake(outward=1.5), r"outward=1.5: give a share in \[0, 1\]"),
    (lambda: retractions.RowMagnitudes(betas=(0.9, 1.0)), "betas=1.0: give the weight of the past"),
    (lambda: retractions.RowMagnitudes(zero_row=0.0), "zero_row=0.0: give a positive number"),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[m for _, m in WRONG])
def test_wrong_values(make, message):
    with pytest.raises(ValueError, match=message):
        make()
