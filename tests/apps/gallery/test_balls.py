"""The data of the unit balls: what the picture claims is true of every norm in it."""

from __future__ import annotations

import pytest
import torch

from steepest import norms
from steepest.apps._figures import plot_style
from steepest.apps.gallery.balls import GRADIENT, NORMS, POINTS, boundary, draw, dual_label, duality
from tests.apps.gallery.pictures import size

G = torch.tensor(GRADIENT, dtype=torch.float64)


@pytest.mark.parametrize("name", NORMS)
def test_the_name_is_the_norm(name: str) -> None:
    assert eval(name, dict(vars(norms))) == NORMS[name]()


@pytest.mark.parametrize("name", NORMS)
def test_the_boundaries_have_norm_1(name: str) -> None:
    norm, data = NORMS[name](), duality(NORMS[name], G)
    assert len(data.ball) == len(data.dual_ball) == POINTS + 1
    for points, measure in ((data.ball, norm), (data.dual_ball, norm.dual)):
        for point in points[::9]:
            assert abs(float(measure(point)) - 1) < 1e-12
        torch.testing.assert_close(points[0], points[-1], rtol=0, atol=1e-12)


def test_the_corners_are_on_the_boundaries() -> None:
    for norm, corner in ((norms.L1(dims=-1), [0.0, 1.0]), (norms.LInf(dims=-1), [1.0, 1.0])):
        away = boundary(norm) - torch.tensor(corner, dtype=torch.float64)
        assert float(away.norm(dim=-1).min()) < 1e-12


@pytest.mark.parametrize("name", NORMS)
def test_the_line_touches_the_ball_where_dualize_says(name: str) -> None:
    norm, data = NORMS[name](), duality(NORMS[name], G)
    assert float(norm(data.touch)) == pytest.approx(1, abs=1e-12)
    top = float(norm.dual(G))
    for point in (data.touch, *data.line):
        assert float(G @ point) == pytest.approx(top, rel=1e-12)
    # The ball lies on one side, and as close to the line as the spacing of its points lets it.
    gains = data.ball @ G
    assert top * (1 - 1e-3) < float(gains.max()) <= top * (1 + 1e-12)


@pytest.mark.parametrize("name", NORMS)
def test_the_gradient_ends_on_the_dual_ball(name: str) -> None:
    data = duality(NORMS[name], G)
    assert float(NORMS[name]().dual(data.g)) == pytest.approx(1, abs=1e-12)
    assert float(data.g[0] * G[1] - data.g[1] * G[0]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", NORMS)
def test_the_label_of_the_dual_is_the_dual(name: str) -> None:
    factor, _, label = dual_label(NORMS[name]()).rpartition("·")
    named = eval(label, dict(vars(norms)))
    assert float(NORMS[name]().dual(G)) == pytest.approx(float(factor or 1) * float(named(G)))


def test_the_picture() -> None:
    with plot_style():
        content = draw()
    assert size(content)[0] == 1170
