"""The loss along directions: against dense Hessians, and each direction against its definition."""

from __future__ import annotations

import copy
import json
import math
from functools import partial

import pytest
import torch
from torch import nn

import steepest
from steepest import norms
from steepest.diagnostics import (
    DIRECTIONS,
    adam_step,
    compare_directions,
    compare_geometries,
    directional_sharpness,
    gradient_step,
    quadratic_model,
    smoothness,
)
from steepest.views import MatrixView
from tests.diagnostics.dense import dense_hessian, flat
from tests.diagnostics.models import MODELS
from tests.matrices import naive_polar
from tests.refusals import assert_refused


def trained(name, make, steps=3):
    """A model after a few steps of an optimizer, without gradients."""
    model, loss = MODELS[name]()
    optimizer = make(model)
    for _ in range(steps):
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, loss, optimizer


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


@pytest.mark.parametrize("name", MODELS)
def test_every_direction_and_layer_against_the_dense_hessian(name):
    model, loss, optimizer = trained(name, adamw)
    grads = {}
    seen = {**DIRECTIONS, "gradient": lambda g: grads.update(g) or gradient_step(g)}
    report = compare_directions(loss, model, seen, optimizer=optimizer, over="all")
    params = dict(model.named_parameters())
    h = dense_hessian(loss, list(params.values()))
    loss().backward()
    for k, p in params.items():
        torch.testing.assert_close(grads[k], p.grad, rtol=1e-9, atol=1e-13)
    assert report.loss == pytest.approx(float(loss().detach()), rel=1e-12)
    assert report.directions == tuple(DIRECTIONS) and {*report.layers} == {*params}
    made = {"gradient": {k: -g for k, g in grads.items()}}
    made["sign"] = {k: -g.sign() for k, g in grads.items()}
    made["adam"] = adam_step(grads, params=params, optimizer=optimizer)
    for direction, d in made.items():
        for layers in ([*params], *([k] for k in params)):
            v = flat([d[k] if k in layers else torch.zeros_like(p) for k, p in params.items()])
            row = report[direction, layers[0]] if len(layers) == 1 else report[direction]
            assert row.sharpness == pytest.approx(float(v @ h @ v), rel=1e-6, abs=1e-15)
            assert row.gradient_correlation == pytest.approx(
                float(flat(grads.values()) @ v), rel=1e-9
            )
            assert row.norm == pytest.approx(float(v.norm()))
        assert report[direction].gradient_correlation == pytest.approx(
            sum(report[direction, k].gradient_correlation for k in params)
        )


def test_the_best_step_minimises_the_model():
    model, loss = MODELS["mlp"]()
    # In the last layer alone the loss is convex.
    d = {k: torch.randn_like(p) for k, p in model.named_parameters() if k[0] == "2"}
    found = quadratic_model(loss, model, d)
    params = {k: p for k, p in model.named_parameters() if k in d}
    v = flat(d.values())
    sharp = float(v @ dense_hessian(loss, list(params.values())) @ v)
    assert directional_sharpness(loss, model, d) == found.sharpness == pytest.approx(sharp, 1e-6)
    assert found.best_step == pytest.approx(-found.gradient_correlation / sharp, rel=1e-6)
    assert found.best_decrease == pytest.approx(
        found.gradient_correlation**2 / (2 * sharp), rel=1e-6
    )
    # By differences of t ↦ f(x + t·d)/‖d‖.
    t, values = 1e-4 / found.norm, []
    for step in (-t, 2 * t, -t):
        values.append(float(loss().detach()))
        with torch.no_grad():
            for k, x in d.items():
                params[k] += step * x
    middle, low, high = values
    t *= found.norm
    assert found.slope == pytest.approx((high - low) / (2 * t), rel=1e-5)
    assert found.curvature == pytest.approx((high - 2 * middle + low) / t**2, rel=1e-3)


def test_where_there_is_no_best_step():
    x = torch.ones(2, dtype=torch.float64, requires_grad=True)
    for loss, d, note in (
        (lambda: -x.square().sum(), [1.0, 0.0], "≤ 0"),
        (x.sum, [1.0, 0.0], "≤ 0"),
        (lambda: x.square().sum(), [0.0, 0.0], "zero"),
        (lambda: (x - 1).abs().pow(1.5).sum(), [1.0, 1.0], "not finite"),
    ):
        found = quadratic_model(loss, x, torch.tensor(d, dtype=torch.float64))
        assert found.best_step is None and found.best_decrease is None and note in found.note
        json.dumps(found.to_json(), allow_nan=False)
    uphill = quadratic_model(lambda: x.square().sum(), x, torch.ones(2))
    assert (uphill.best_step, uphill.best_decrease, uphill.note) == (-1, 2, "")


def test_the_directions_of_norms_are_those_of_their_matrices():
    model, loss = MODELS["tied"]()
    loss().backward()
    grads = {k: p.grad.clone() for k, p in model.named_parameters()}
    model.zero_grad()
    found = {}

    def spy(name, make):
        def maker(g):
            found[name] = make(g)
            return found[name]

        return maker

    fused = "block.self_attn.in_proj_weight"
    exact = {
        k: -g.flatten(1).reshape(3 if k == fused else 1, -1, g.shape[-1])
        for k, g in grads.items()
        if g.ndim == 2 and "embed" not in k
    }
    polar = {k: torch.stack([naive_polar(m) for m in x]) for k, x in exact.items()}
    jordan = {k: torch.stack([naive_jordan(m) for m in x]) for k, x in exact.items()}
    by_hand = {
        name: spy(name, lambda g, d=d: {k: x.reshape(g[k].shape) for k, x in d.items()})
        for name, d in (("muon", polar), ("newton-schulz", jordan))
    }
    want = compare_directions(loss, model, by_hand)
    got = compare_directions(loss, model)
    assert want.layers == got.layers == tuple(polar)
    for key, row in want:
        for field in ("gradient_correlation", "sharpness", "norm", "best_decrease"):
            want_one, got_one = getattr(row, field), getattr(got.rows[key], field)
            assert got_one == (want_one and pytest.approx(want_one, rel=1e-6))
    assert "held still: embed.weight" in got.notes[0]
    assert "keeps no averages for every parameter" in got.notes[1]


def naive_jordan(g):
    x = g / g.norm()
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


ADAMS = {
    "adam": lambda m: torch.optim.Adam(m.parameters(), betas=(0.8, 0.95), eps=1e-3),
    "coupled decay": lambda m: torch.optim.Adam(m.parameters(), weight_decay=0.3),
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), amsgrad=True, weight_decay=0.0),
    "upwards": lambda m: torch.optim.Adam(m.parameters(), maximize=True, weight_decay=0.1),
    "ours": lambda m: steepest.Muon(m, adamw_betas=(0.7, 0.9), adamw_eps=1e-2),
}


def test_adam_is_the_step_that_the_optimizer_takes():
    for name, make in ADAMS.items():
        for steps in (0, 4):
            model, loss, optimizer = trained("mlp", make, steps)
            params = dict(model.named_parameters())
            loss().backward()
            state = copy.deepcopy(optimizer.state_dict()["state"])
            grads = {k: p.grad for k, p in params.items()}
            found = adam_step(grads, params=params, optimizer=optimizer)
            torch.testing.assert_close(optimizer.state_dict()["state"], state, rtol=0, atol=0)
            before = {k: p.detach().clone() for k, p in params.items()}
            for group in optimizer.param_groups:
                group["lr"] = 1.0 if group.get("adamw", True) else 0.5
            optimizer.step()
            matrices = {"0.weight", "2.weight"} if name == "ours" else set()
            for k in params.keys() - matrices:
                taken = params[k].detach() - before[k]
                torch.testing.assert_close(found[k], taken, rtol=1e-9, atol=1e-12, msg=name)
            for k in matrices:  # which Muon moves: Adam would begin
                first = -grads[k] / (grads[k].abs() + 1e-8)
                torch.testing.assert_close(found[k], first, rtol=1e-6, atol=0)


def test_what_an_optimizer_says_about_matrices_and_state():
    model, loss, optimizer = trained(
        "tied", lambda m: steepest.Muon(steepest.route(m, heads="auto"), lr=0.02)
    )
    report = compare_directions(loss, model, optimizer=optimizer, over="all", per_layer=False)
    assert report.layers == ()
    rest = [k for k in dict(model.named_parameters()) if "weight" not in k or "norm" in k]
    moved = next(n for n in report.notes if n.startswith("muon does not move"))
    assert all(name in moved for name in [*rest, "embed.weight"])
    first = next(n for n in report.notes if n.startswith("adam"))
    assert "in_proj_weight" in first and "embed" not in first
    # Each head by itself: 4 × 3 matrices of 2 × 4 where routing alone has three of 4 × 4.
    whole = compare_directions(loss, model, {"muon": norms.Spectral()})
    heads = compare_directions(loss, model, {"muon": norms.Spectral()}, optimizer=optimizer)
    name = "block.self_attn.in_proj_weight"
    assert heads["muon", name].norm == pytest.approx(math.sqrt(6 * 2))
    assert whole["muon", name].norm == pytest.approx(math.sqrt(3 * 4))


def test_parameters_views_and_directions_of_ones_own():
    model, loss = MODELS["convolutional"]()
    kernel = {"kernel": model[0].weight, "head": model[4].weight, "bias": model[4].bias}
    chosen = {
        "still": lambda g: {"head": -g["head"]},
        "tensors": {"kernel": torch.ones_like(model[0].weight)},
        "blocks": norms.MaxOf({"kernel": norms.L2(), "head": norms.Spectral()}),
        "spectral": norms.Spectral(),
    }
    report = compare_directions(loss, kernel, chosen)
    assert report.layers == ("head", "kernel")
    assert report["still"].norm == report["still", "head"].norm
    assert report["spectral", "kernel"].norm == pytest.approx(math.sqrt(3))
    assert report["blocks", "kernel"].norm == pytest.approx(1)
    assert "held still: bias" in report.notes[0] and "still does not move kernel" in report.notes[1]
    text = str(report)
    assert text.splitlines()[1].startswith("(all)   still") and "(still does not move" in text
    assert len(report) == len(json.loads(json.dumps(report.to_json(), allow_nan=False))["rows"])
    views = {"kernel": MatrixView(rows=(0, 1), cols=(2, 3)), "head": None}
    found = compare_directions(loss, kernel, {"spectral": norms.Spectral()}, views=views)
    assert found.layers == ("kernel",) and found["spectral"].norm == pytest.approx(math.sqrt(6))


def test_nothing_is_left_changed():
    model, loss, optimizer = trained("tied", adamw)
    kept = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    state = torch.get_rng_state()
    compare_directions(loss, model, optimizer=optimizer)
    torch.testing.assert_close((model.state_dict(), optimizer.state_dict()), kept, rtol=0, atol=0)
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_refused():
    model, loss = MODELS["mlp"]()
    for keys, value, remedy in (
        ({"directions": {"x": {"w": torch.ones(2)}}}, "directions=['w']", "some of the names"),
        ({"directions": {"x": lambda g: {"0.weight": torch.ones(2)}}}, "shape 2", "5×4"),
        ({"params": model[0].bias}, "no hidden matrix", 'over="all"'),
        ({"views": {"w": None}}, "['w']", "0.weight"),
    ):
        given = {"loss": loss, "params": model, **keys}
        assert_refused(partial(compare_directions, **given), value, remedy)
    half = nn.Linear(2, 2).half()
    for call in (quadratic_model, directional_sharpness):
        assert_refused(partial(call, loss, half, half.weight), "float16", "model.float()")
        assert_refused(partial(call, loss, model, torch.ones(2)), "1 tensors", "give 4")


@pytest.mark.usefixtures("unchecked")
def test_arguments_of_another_kind():
    model, loss = MODELS["mlp"]()
    for keys, value, remedy in (
        ({"over": "vectors"}, "over='vectors'", '"matrices" or "all"'),
        ({"directions": {"x": "sign"}}, "directions='str'", "give a norm"),
        ({"directions": {"x": lambda _: [1]}}, "directions='list'", "give a norm"),
    ):
        given = {"loss": loss, "params": model, **keys}
        assert_refused(partial(compare_directions, **given), value, remedy)


def test_buffers_of_a_module_and_graphs_made_before_stay_good() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    x = torch.randn(8, 4, dtype=torch.float64)

    def loss() -> torch.Tensor:
        return model(x).square().mean()

    before = loss()
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    quadratic_model(loss, model, [-p for p in model.parameters()])
    compare_directions(loss, model, per_layer=False)
    smoothness(loss, model, norms.L2(), steps=2, restarts=0)
    compare_geometries(model, lambda m, b: m(b).square().mean(), x)
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())
    before.backward()
    slopes = torch.autograd.grad(loss(), list(model.parameters()))
    for p, g in zip(model.parameters(), slopes, strict=True):
        torch.testing.assert_close(p.grad, g)
