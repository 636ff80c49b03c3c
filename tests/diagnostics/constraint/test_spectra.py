"""The numbers that a ball bounds: the largest of them fills the ball as the report says."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from steepest import LionK, Muon, Scion, constraint_report, maps, norms
from steepest.diagnostics import constraint_spectra
from steepest.polar import Svd
from steepest.views import MatrixView
from tests.optim.suite import model, train


@pytest.mark.parametrize(
    ("K", "kind", "naive"),
    [
        (maps.NuclearMap(), "singular values", torch.linalg.svdvals),
        (3 * maps.SmoothNuclear(0.1), "singular values", torch.linalg.svdvals),
        (maps.L1Map(), "entries", lambda w: w.abs().flatten()),
        (maps.GroupRows(), "lengths of rows", lambda w: w.norm(dim=1)),
        (maps.GroupColumns(), "lengths of columns", lambda w: w.norm(dim=0)),
        (maps.FromNorm(norms.Operator("rms", "rms").dual), "singular values", torch.linalg.svdvals),
    ],
    ids=["nuclear", "smooth", "l1", "rows", "columns", "operator"],
)
def test_all_magnitudes_and_the_most_that_they_can_be(K, kind, naive):
    w = nn.Parameter(torch.randn(4, 9))
    optimizer = LionK([w], weight_decay=0.5, K=K)
    (found,) = constraint_spectra([("w", w)], optimizer)
    assert (found.name, found.kind) == ("w", kind)
    expected = naive(w.detach().double()).sort(descending=True).values
    assert torch.allclose(found.values, expected, rtol=1e-12)
    (row,) = constraint_report([("w", w)], optimizer)
    assert float(found.values[0]) / found.limit == pytest.approx(row.filled, rel=1e-12)


@pytest.mark.parametrize("K", [maps.NuclearMap(), maps.L1Map(), maps.SchattenMap(4)], ids=repr)
def test_what_is_not_finite_is_left_out_and_a_report_gives_the_same(K):
    w, v = (nn.Parameter(torch.randn(4, 9)) for _ in range(2))
    optimizer = LionK([w, v], weight_decay=0.5, K=K)
    pairs = [("w", w), ("v", v)]
    beside = constraint_report(pairs, optimizer, spectra=True).spectra
    for own, other in zip(constraint_spectra(pairs, optimizer), beside, strict=True):
        assert (own.name, own.kind, own.limit) == (other.name, other.kind, other.limit)
        assert torch.equal(own.values, other.values)
    w.data[0, 0] = math.nan
    assert [s.name for s in constraint_spectra(pairs, optimizer)] == ["v"]
    assert constraint_report(pairs, optimizer).spectra == ()


def test_the_ball_of_a_sum_of_powers_bounds_a_single_value():
    w = nn.Parameter(torch.randn(4, 9))
    (found,) = constraint_spectra([("w", w)], LionK([w], weight_decay=0.5, K=maps.SchattenMap(4)))
    assert (found.kind, found.limit) == ("singular values", 2.0)


def test_matrices_with_balls_of_different_radii_share_the_largest():
    w = nn.Parameter(torch.randn(16, 4, dtype=torch.float64))
    view = MatrixView(split=(12, 4))
    optimizer = Muon([{"params": [w], "views": view}], weight_decay=0.5, polar=Svd())
    (found,) = constraint_spectra([("w", w)], optimizer)
    upper = Svd().accuracy(12, 4, torch.float64).upper
    assert found.limit == pytest.approx(2 * math.sqrt(3) * upper)
    tall, square = (torch.linalg.svdvals(x) for x in w.detach().split((12, 4)))
    expected = torch.cat([tall, square * math.sqrt(3)]).sort(descending=True).values
    assert torch.allclose(found.values, expected)


def test_what_has_no_such_numbers_is_left_out():
    m = model()
    optimizer = Scion(m, lr=0.05, weight_decay=0.1)
    train(m, optimizer)
    found = {s.name: s.kind for s in constraint_spectra(m, optimizer)}
    assert found["embedding.weight"] == "lengths of rows"
    assert found["up.weight"] == "singular values"
    assert not {"up.bias", "norm.weight"} & found.keys(), "a vector in RMS is bounded as a whole"
    assert constraint_spectra(m, Muon(m, weight_decay=0.0)) == ()
