"""The report of constraints: closed forms, Fenchel gaps, every optimizer, and nothing changed."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import steepest
from steepest import LionK, Muon, SteepestDescent, constraint_report, maps, norms
from steepest.polar import Auto, Svd
from steepest.views import MatrixView
from tests.optim.suite import assert_equal, every_optimizer, model, parameters, train

MAPS = [
    maps.L1Map(),
    maps.NuclearMap(),
    maps.FromNorm(norms.Frobenius()),
    maps.GroupRows(),
    maps.GroupColumns(),
    maps.SchattenMap(4),
    maps.FromNorm(norms.L2()),
    maps.FromNorm(norms.Operator("rms", "rms")),
    maps.SmoothNuclear(0.1),
    maps.SmoothL1(0.1),
    maps.Huber(0.5),
    maps.SpectralHuber(0.5),
    maps.TopK(2),
    3 * maps.NuclearMap(),
    maps.HalfSquare(),
    maps.NuclearMap() + maps.HalfSquare(),
]
every_map = pytest.mark.parametrize("K", MAPS, ids=repr)


def diagonal(*values, grad=None):
    w = nn.Parameter(torch.diag(torch.tensor(values, dtype=torch.float64)))
    if grad is not None:
        w.grad = torch.diag(torch.tensor(grad, dtype=torch.float64))
    return w


def lionk(w, K, weight_decay=0.5, **options):
    options = {"lr": 0.1, "betas": (0.0, 0.0), **options}
    return LionK([w], weight_decay=weight_decay, K=K, **options)


def row(w, optimizer, **options):
    (only,) = constraint_report([("w", w)], optimizer, **options)
    return only


@pytest.mark.parametrize(
    ("values", "distance", "kkt"),
    [
        ((1.0, 0.5), 0.0, (3 + 1 - (0.5 * 3 + 0.25 * 1)) / 4),
        ((2.0, 2.0), 0.0, 0.0),
        ((2.0, 1.0), 0.0, 0.125),
        ((3.5, 2.0), 1.5, math.inf),
        ((0.0, 0.0), 0.0, 1.0),
    ],
)
def test_closed_forms_in_the_spectral_ball_of_radius_two(values, distance, kkt):
    w = diagonal(*values, grad=(-3.0, -1.0))
    found = row(w, lionk(w, maps.NuclearMap()))
    assert (found.norm, found.radius) == pytest.approx((max(values), 2.0), abs=1e-12)
    assert found.distance == pytest.approx(distance, abs=1e-12)
    assert found.kkt == pytest.approx(kkt, abs=1e-12)
    assert (found.domain, found.shape, found.note) == ("Spectral()", (2, 2), "")


@every_map
def test_a_fixed_point_of_the_step_scores_zero(K):
    g = torch.randn(5, 7, dtype=torch.float64)
    w = nn.Parameter(-K.grad(g) / 0.5)
    w.grad = g
    found = row(w, lionk(w, K))
    assert found.kkt == pytest.approx(0, abs=1e-12)
    assert found.distance == pytest.approx(0, abs=1e-12)
    # The very optimizer stays there.
    before = w.detach().clone()
    lionk(w, K).step()
    assert torch.allclose(w, before, atol=1e-12)


@every_map
@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), share=st.floats(0, 1), size=st.floats(1e-6, 1e6))
def test_the_score_inside_is_the_fenchel_gap(K, seed, share, size):
    generator = torch.Generator().manual_seed(seed)
    x, g = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    g = size * g
    y = x if K.domain is None else share * x / K.domain(x)
    w = nn.Parameter(2 * y)
    w.grad = g
    found = row(w, lionk(w, K))
    assert found.kkt >= 0
    unit = g.norm() if K.domain is None else K.domain.dual(g)
    gap = K.value(-g) + K.conjugate(y) + (y * g).sum()
    assert found.kkt == pytest.approx(float(gap / unit), rel=1e-9, abs=1e-9)
    if share == 1 and K.domain is not None:
        w.data.mul_(1.01)
        assert row(w, lionk(w, K)).kkt == math.inf


def test_a_zero_gradient_scores_zero_inside_and_inf_outside():
    inside, outside = diagonal(1.0, 0.0, grad=(0.0, 0.0)), diagonal(3.0, 0.0, grad=(0.0, 0.0))
    assert row(inside, lionk(inside, maps.NuclearMap())).kkt == 0
    assert row(outside, lionk(outside, maps.NuclearMap())).kkt == math.inf


def test_the_worst_of_several_matrices_each_in_its_own_ball():
    w = nn.Parameter(torch.randn(16, 4, dtype=torch.float64))
    w.grad = torch.randn_like(w)
    view = MatrixView(split=(12, 2, 2))
    optimizer = Muon([{"params": [w], "views": view}], weight_decay=0.5, momentum=0.0, polar=Svd())
    upper = Svd().accuracy(12, 4, torch.float64).upper
    naive, scores = [], []
    for x, g in zip(w.detach().split((12, 2, 2)), w.grad.split((12, 2, 2)), strict=True):
        radius = upper * math.sqrt(max(1, x.shape[0] / x.shape[1])) / 0.5
        size, total = torch.linalg.svdvals(x)[0], torch.linalg.svdvals(g).sum()
        naive.append((float(size / radius), float(size), radius))
        scores.append(float((total + (x * g).sum() / radius) / total) if size <= radius else None)
    found = row(w, optimizer)
    assert (found.filled, found.norm, found.radius) == pytest.approx(max(naive), rel=1e-12)
    assert found.kkt == pytest.approx(math.inf if None in scores else max(scores), rel=1e-12)


def test_an_inexact_method_has_a_larger_ball():
    w = diagonal(1.0, 1.0)
    polar = Auto(error=0.05)
    found = row(w, Muon([w], weight_decay=0.1, polar=polar))
    assert found.radius == pytest.approx(10 * polar.accuracy(2, 2, torch.float64).upper)
    assert found.radius > 10.0
    assert found.domain == "Spectral()"
    projected = Muon([w], weight_decay=0.1, polar=polar, constraint="project")
    assert row(w, projected).radius == 10.0


@every_optimizer
@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
def test_every_optimizer_has_a_report_and_nothing_changes(make, weight_decay):
    m = model()
    optimizer = make(m, weight_decay=weight_decay)
    train(m, optimizer)
    before, state = parameters(m), copy.deepcopy(optimizer.state_dict())
    grads = [None if p.grad is None else p.grad.clone() for p in m.parameters()]
    entries, draws = len(optimizer.state), torch.get_rng_state()
    report = constraint_report(m, optimizer)
    assert_equal(before, parameters(m))
    assert_equal(grads, [p.grad for p in m.parameters()])
    assert torch.equal(draws, torch.get_rng_state())
    assert len(optimizer.state) == entries
    now = optimizer.state_dict()
    assert now["param_groups"] == state["param_groups"]
    for key, kept in state["state"].items():
        assert all(torch.equal(v, now["state"][key][k]) for k, v in kept.items())
    moved = [p for g in optimizer.param_groups if not g["adamw"] for p in g["params"]]
    names = {p: n for n, p in m.named_parameters()}
    assert [r.name for r in report] == [names[p] for p in moved]
    for found in report:
        assert bool(found.note) == math.isinf(found.radius)
        assert (found.kkt is None) == bool(found.note)
    if weight_decay == 0:
        assert report.worst is None
        assert {r.note for r in report} == {"no weight decay"}


def test_explicit_decay_ends_in_the_ball_that_the_report_names():
    w = diagonal(9.0, 1.0)
    optimizer = lionk(w, maps.NuclearMap(), lr=0.5)
    assert row(w, optimizer).distance == pytest.approx(7)
    for _ in range(140):
        w.grad = w.detach() - torch.diag(torch.tensor([9.0, 1.0], dtype=torch.float64))
        optimizer.step()
    w.grad = w.detach() - torch.diag(torch.tensor([9.0, 1.0], dtype=torch.float64))
    found = row(w, optimizer, gradient="grad")
    assert found.distance < 1e-14
    assert found.filled == pytest.approx(1)
    assert found.kkt < 0.15, "up to the last step, of length 0.5"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_on_the_boundary_counts_as_inside(dtype):
    g = torch.randn(8, 8, dtype=torch.float64)
    w = nn.Parameter((-2 * steepest.polar_factor(g)).to(dtype))
    w.grad = g.to(dtype)
    found = row(w, lionk(w, maps.NuclearMap()))
    exact = torch.linalg.svdvals(w.detach().double())[0]
    assert found.norm == pytest.approx(float(exact), rel=1e-12)
    assert 0 <= found.kkt < 0.01


def test_complex_weights_and_stacks():
    g = torch.randn(3, 4, 5, dtype=torch.complex128)
    w = nn.Parameter(-2 * maps.NuclearMap().grad(g))
    w.grad = g
    view = MatrixView(batch=(0,), rows=(1,), cols=(2,))
    optimizer = LionK(
        [{"params": [w], "views": view}], betas=(0, 0), weight_decay=0.5, K=maps.NuclearMap()
    )
    found = row(w, optimizer)
    assert found.kkt == pytest.approx(0, abs=1e-12)
    with torch.no_grad():
        w[1] *= 0.5
        w[2] *= 1.5
    found = row(w, optimizer)
    assert (found.norm, found.distance, found.kkt) == pytest.approx((3, 1, math.inf))


def test_which_gradient():
    w = diagonal(1.0, 1.0, grad=(-1.0, 0.0))
    optimizer = lionk(w, maps.NuclearMap(), betas=(0.9, 0.5), lr=0.0)
    assert row(w, optimizer).kkt == row(w, optimizer, gradient="grad").kkt == 0.5
    optimizer.step()
    w.grad = torch.diag(torch.tensor([0.0, 5.0], dtype=torch.float64))
    assert row(w, optimizer).kkt == 0.5
    assert row(w, optimizer, gradient="grad").kkt == 1.5
    w.grad = None
    assert row(w, optimizer).kkt == 0.5
    missing = row(w, optimizer, gradient="grad")
    assert (missing.kkt, missing.note) == (None, "no gradient yet")


@pytest.mark.parametrize("gradient", ["momentum", "grad"])
def test_to_maximise_is_to_minimise_the_opposite(gradient):
    scores = []
    for maximize in (False, True):
        w = diagonal(1.0, 0.5, grad=(1.0, 2.0) if maximize else (-1.0, -2.0))
        optimizer = lionk(w, maps.NuclearMap(), betas=(0.9, 0.9), maximize=maximize)
        optimizer.step()
        scores.append(row(w, optimizer, gradient=gradient).kkt)
    assert scores[0] == scores[1] < 1


@pytest.mark.parametrize(
    ("make", "note", "scored"),
    [
        (lambda w: lionk(w, maps.NuclearMap(), weight_decay=0.0), "no weight decay", False),
        (
            lambda w: lionk(w, maps.NuclearMap(), decay="cautious"),
            "cautious decay has no ball",
            False,
        ),
        (lambda w: lionk(w, maps.HalfSquare()), "HalfSquare(): decay is a penalty", True),
        (
            lambda w: SteepestDescent([w], norms.Spectral(), sharpness=1.0, weight_decay=0.1),
            "steps follow the gradient: decay is a penalty",
            False,
        ),
    ],
)
def test_what_has_no_ball_says_why(make, note, scored):
    w = diagonal(3.0, 1.0, grad=(1.0, 1.0))
    found = row(w, make(w))
    assert (found.note, found.radius, found.distance) == (note, math.inf, 0.0)
    assert (found.kkt is not None) == scored
    assert found.filled == 0


def test_a_projection_gives_cautious_decay_a_ball_and_no_score():
    w = diagonal(5.0, 1.0, grad=(1.0, 1.0))
    optimizer = Muon(
        [w], lr=0.1, weight_decay=0.5, decay="cautious", constraint="project", polar=Auto(error=0.1)
    )
    optimizer.step()
    found = row(w, optimizer)
    assert (found.norm, found.radius) == (pytest.approx(2.0), 2.0), "upper is 1"
    assert (found.kkt, found.note) == (None, "cautious decay has no KKT score")
    (spectrum,) = constraint_report([("w", w)], optimizer, spectra=True).spectra
    assert spectrum.limit == 2.0


def test_frozen_parameters_are_no_part_of_it():
    w, frozen = diagonal(1.0, 1.0, grad=(1.0, 1.0)), diagonal(9.0, 9.0)
    optimizer = LionK([w, frozen], weight_decay=0.5, K=maps.NuclearMap())
    frozen.requires_grad_(False)
    report = constraint_report([("w", w), ("frozen", frozen)], optimizer, spectra=True)
    assert [r.name for r in report] == [s.name for s in report.spectra] == ["w"]
    assert report.worst.name == "w"


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [({}, 0, 0.1), ({"ns_steps": 5}, 0.2, 0.5), ({"polar": Svd()}, 0, 1e-5)],
)
def test_the_score_of_an_inexact_method_has_a_floor(options, low, high):
    g = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    w = nn.Parameter(torch.zeros_like(g))
    optimizer = Muon([w], lr=0.5, weight_decay=1.0, momentum=0.0, **options)
    for _ in range(60):
        w.grad = g.clone()
        optimizer.step()
    found = row(w, optimizer, gradient="grad")
    reached = -(w.detach() * g).sum() / torch.linalg.svdvals(g).sum()
    assert found.kkt == pytest.approx(float(1 - reached / found.radius), abs=1e-5)
    assert low <= found.kkt <= high


def test_what_is_not_finite_is_said_and_not_raised():
    w = diagonal(1.0, 1.0, grad=(math.nan, 1.0))
    found = row(w, lionk(w, maps.NuclearMap()))
    assert (found.norm, found.kkt, found.note) == (1.0, None, "the gradient is not finite")
    w.data[0, 0] = math.inf
    v = diagonal(1.0, 1.0)
    optimizer = LionK([w, v], weight_decay=0.5, K=maps.NuclearMap())
    report = constraint_report([("w", w), ("v", v)], optimizer)
    assert report.rows[0].note == "the weights are not finite"
    assert report.worst is report.rows[0], "nothing is worse"
    assert json.dumps(report.to_json(), allow_nan=False).count("null") > 0


def test_names_come_from_the_model_and_a_part_of_it_gives_a_part():
    m = model()
    m.up.weight.requires_grad_(False)
    optimizer = Muon(m, weight_decay=0.1)
    assert [r.name for r in constraint_report(m, optimizer)] == ["conv.weight", "down.weight"]
    assert [r.name for r in constraint_report(m.down, optimizer)] == ["weight"]
    pairs = ((f"my.{n}", p) for n, p in m.named_parameters())
    assert constraint_report(pairs, optimizer).rows[1].name == "my.down.weight"


def test_the_table_and_the_records():
    m = model()
    optimizer = Muon(m, lr=0.05, weight_decay=0.5)
    train(m, optimizer)
    report = constraint_report(m, optimizer)
    lines = str(report).splitlines()
    assert len(lines) == 1 + len(report) == 4
    assert len({line.index("Spectral()") for line in lines[1:]}) == 1, "aligned"
    assert report.worst.filled == max(r.norm / r.radius for r in report)
    assert report.to_json()[0] == {
        "name": "conv.weight",
        "shape": [8, 8, 3],
        "domain": "Spectral()",
        "norm": report.rows[0].norm,
        "radius": report.rows[0].radius,
        "distance": 0.0,
        "kkt": report.rows[0].kkt,
        "note": "",
        "filled": report.rows[0].filled,
    }


def test_what_cannot_be_reported():
    m = model()
    optimizer = Muon(m)
    with pytest.raises(ValueError, match=r"optimizer='AdamW'.*only an optimizer of this library"):
        constraint_report(m, torch.optim.AdamW(m.parameters()))
    with pytest.raises(ValueError, match=r"model='Linear'.*none of its parameters"):
        constraint_report(nn.Linear(2, 2), optimizer)


@pytest.mark.usefixtures("unchecked")
def test_other_gradients_and_parameters_without_names_are_refused():
    m = model()
    with pytest.raises(ValueError, match=r"gradient='mean'"):
        constraint_report(m, Muon(m), gradient="mean")
    with pytest.raises(ValueError, match=r"model='generator'.*\(name, parameter\) pairs"):
        constraint_report(m.parameters(), Muon(m))
