"""The data of the steps: the sharpness is exact, the step minimises the model, nothing rises."""

from __future__ import annotations

import math

import pytest
import torch

from steepest import norms
from steepest.apps._figures import plot_style
from steepest.apps.gallery.balls import boundary
from steepest.apps.gallery.descent import (
    NORMS,
    SHARPNESSES,
    STEPS,
    CentredQuadratic,
    draw_sharpness,
    example,
    loss_and_models,
    path,
    start,
    step,
)
from tests.apps.gallery.pictures import size

F, X = example(), start()
G = F.grad(X)


def test_the_gradient_is_the_derivative() -> None:
    x = X.clone().requires_grad_()
    F(x).backward()
    torch.testing.assert_close(G, x.grad)


@pytest.mark.parametrize("name", NORMS)
def test_the_sharpness_is_the_largest_change_of_the_gradient(name: str) -> None:
    norm, exact = NORMS[name](), F.smoothness(NORMS[name]())
    change = NORMS[name](dims=-1).dual(F.grad(boundary(NORMS[name](dims=-1))))
    assert exact * (1 - 1e-3) < float(change.max()) <= exact * (1 + 1e-12)
    assert norm == eval(name, dict(vars(norms)))


@pytest.mark.parametrize("dimension", [1, 3, 6])
def test_the_sharpness_in_more_dimensions(dimension: int) -> None:
    a = torch.randn(dimension, dimension, dtype=torch.float64)
    h = a @ a.mT
    f = CentredQuadratic(h)
    assert f.smoothness(norms.L1()) == float(h.abs().max())
    assert f.smoothness(norms.L2()) == pytest.approx(float(torch.linalg.eigvalsh(h).max()))
    found = float(norms.estimate(h, math.inf, 1))
    assert found <= f.smoothness(norms.LInf()) * (1 + 1e-12)
    assert found == pytest.approx(f.smoothness(norms.LInf()))


def test_a_norm_without_a_formula_is_refused() -> None:
    with pytest.raises(ValueError, match=r"norm=Lp\(3\): give norms.L1"):
        F.smoothness(norms.Lp(3))


@pytest.mark.parametrize("sharpness", [0.5, 4.0])
@pytest.mark.parametrize("name", NORMS)
def test_the_step_minimises_the_model(name: str, sharpness: float) -> None:
    norm, rows = NORMS[name](), NORMS[name](dims=-1)
    delta = step(norm, G, sharpness=sharpness)
    best = float(G @ delta + sharpness / 2 * norm(delta) ** 2)
    assert best == pytest.approx(-(float(norm.dual(G)) ** 2) / (2 * sharpness), rel=1e-12)
    others = torch.randn(2000, 2, dtype=torch.float64) * delta.norm() + delta
    values = others @ G + sharpness / 2 * rows(others) ** 2
    assert float(values.min()) >= best - 1e-12


@pytest.mark.parametrize("name", NORMS)
def test_the_curves_begin_together_and_f_stays_below_the_safe_model(name: str) -> None:
    data = loss_and_models(F, NORMS[name](), X)
    assert set(data.models) == set(SHARPNESSES)
    for curve in (data.f, *data.models.values()):
        assert float(curve[0]) == 0
    assert bool((data.f <= data.models["L"] + 1e-12).all())
    assert bool((data.models["L"] <= data.models["2L"] + 1e-12).all())
    assert bool((data.f > data.models["L/2"] - 1e-12).all()), "the picture shows L/2 as too hopeful"
    # The last model's bottom is in the picture.
    bottom = float(data.models["L/2"].min())
    assert bottom == pytest.approx(
        -(float(NORMS[name]().dual(G)) ** 2) / F.smoothness(NORMS[name]()), rel=1e-3
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", NORMS)
def test_no_step_of_the_safe_sharpness_rises(name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(3, 3, dtype=torch.float64, generator=generator)
    f = CentredQuadratic(a @ a.mT + 0.1 * torch.eye(3, dtype=torch.float64))
    norm = NORMS[name]()
    points = path(f, norm, torch.randn(3, dtype=torch.float64, generator=generator), steps=30)
    promised = norm.dual(f.grad(points[0])) ** 2 / (2 * f.smoothness(norm))
    values = f(points)
    assert bool((values.diff() <= 1e-15).all())
    assert float(values[0] - values[1]) >= float(promised) * (1 - 1e-9)
    assert points.shape == (31, 3)


def test_the_paths_have_the_gait_of_their_norm() -> None:
    moves = {name: path(F, make(), X, steps=STEPS).diff(dim=0) for name, make in NORMS.items()}
    assert bool(((moves["L1()"] == 0).sum(dim=-1) == 1).all())
    assert bool((moves["LInf()"][:, 0].abs() - moves["LInf()"][:, 1].abs()).abs().max() < 1e-12)
    torch.testing.assert_close(moves["L2()"][0], -G / F.smoothness(norms.L2()))


def test_the_picture() -> None:
    with plot_style():
        content = draw_sharpness()
    assert size(content)[0] == 1170
