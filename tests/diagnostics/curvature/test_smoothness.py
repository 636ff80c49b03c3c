"""Smoothness in a norm: against dense Hessians, enumeration, closed forms and the optimizer."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from torch import nn

from steepest import SteepestDescent, norms
from steepest.diagnostics import smoothness
from steepest.polar import NewtonSchulz
from tests.diagnostics.dense import dense_hessian
from tests.diagnostics.models import MODELS
from tests.refusals import assert_refused


def quadratic(h, *, at=None):
    """½xᵀHx and its only parameter."""
    x = torch.ones(len(h), dtype=h.dtype) if at is None else at
    x = x.clone().requires_grad_()
    return lambda: 0.5 * x @ h @ x, x


def symmetric(d, seed, *, definite=False):
    a = torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a @ a.mT / d if definite else (a + a.mT) / 2


@pytest.mark.parametrize("name", MODELS)
def test_the_euclidean_one_is_the_largest_eigenvalue(name):
    model, loss = MODELS[name]()
    params = list(model.parameters())
    values = torch.linalg.eigvalsh(dense_hessian(loss, params))
    want = float(values.abs().max())
    for norm, factor in ((norms.L2(), 1), (norms.RMS(), sum(p.numel() for p in params))):
        found = smoothness(loss, model, norm)
        assert found.value == pytest.approx(want * factor, rel=1e-6)
        assert found.converged and found.left == ()
        assert float(norm(torch.cat([v.reshape(-1) for v in found.direction.values()]))) == (
            pytest.approx(1)
        )


def test_signs_clusters_and_flat_hessians():
    spectra = {
        "opposite": [3.0, -3.0, 1.0],
        "negative": [-5.0, 4.999, 0.0],
        "close": [2.0, 2.0 - 1e-7, *[1.9] * 40],
        "many": torch.linspace(-4, 4.01, 90).tolist(),
        "flat": [0.0] * 4,
    }
    for name, values in spectra.items():
        h = torch.diag(torch.tensor(values, dtype=torch.float64))
        loss, x = quadratic(h)
        found = smoothness(loss, x, norms.L2())
        assert found.value == pytest.approx(max(map(abs, values)), rel=1e-6), name
        assert found.converged, name
        frobenius = smoothness(loss, {"x": x}, norms.MaxOf({"x": norms.L2()}))
        assert frobenius.value == pytest.approx(found.value, rel=1e-6)
    loss, x = quadratic(h, at=torch.zeros(4, dtype=torch.float64))
    assert smoothness(loss, x, norms.LInf()).one_step is None


def signs(d):
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=d)), dtype=torch.float64)


def test_max_norm_and_its_dual_against_all_vertices():
    hits = {"linf": 0, "linf from more": 0, "l1": 0}
    for seed in range(20):
        h = symmetric(2 + seed % 7, seed, definite=seed % 2 == 0)
        loss, x = quadratic(h)
        box, cross = float((signs(len(h)) @ h).abs().sum(1).max()), float(h.abs().max())
        for name, norm, bound, keys in (
            ("linf", norms.LInf(), box, {}),
            ("linf from more", norms.LInf(), box, {"restarts": 20}),
            ("l1", norms.L1(), cross, {}),
        ):
            found = smoothness(loss, x, norm, **keys)
            assert found.value <= bound * (1 + 1e-12)
            hits[name] += found.value >= bound * (1 - 1e-6)
    # docs/diagnostics.md states these shares.
    assert hits["linf from more"] >= 19
    assert min(hits["linf"], hits["l1"]) >= 15


def least_squares(rows, inputs, samples, seed):
    """(1/2n)‖WA − Y‖², its weight, and Σ σᵢ(A)²/n over as many as the matrix has rows."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    a, y = draw(inputs, samples), draw(rows, samples)
    w = draw(rows, inputs).requires_grad_()
    bound = float(torch.linalg.svdvals(a)[:rows].square().sum()) / samples
    return lambda: (w @ a - y).square().sum() / (2 * samples), w, bound


def test_spectral_one_of_least_squares_has_a_closed_form():
    for seed, shape in enumerate([(3, 5, 9), (5, 3, 9), (4, 4, 3), (1, 6, 8)]):
        loss, w, bound = least_squares(*shape, seed)
        for polar in (None, NewtonSchulz()):
            found = smoothness(loss, w, norms.Spectral(polar=polar), restarts=4)
            assert found.value == pytest.approx(bound, rel=1e-5)
            assert found.value <= bound * (1 + 1e-12)


def parts(params, v):
    """Named parts of one long vector."""
    pieces = v.split([p.numel() for p in params.values()])
    return {k: x.reshape(p.shape) for (k, p), x in zip(params.items(), pieces, strict=True)}


def naive(norm, x):
    """The value of a norm for a mapping: one vector, the matrices alone, or by name."""
    if isinstance(norm, norms.ProductNorm):
        return float(norm({k: x[k] for k in norm.blocks}))
    if norm.axes is None:
        return float(norm(torch.cat([t.reshape(-1) for t in x.values()])))
    every = [norm(t.flatten(1)) for t in x.values() if t.ndim > 1]
    return float(torch.stack(every).max())


def naive_dual(norm, x):
    if isinstance(norm, norms.Norm) and norm.axes == 2:
        return float(sum(norm.dual(t.flatten(1)) for t in x.values() if t.ndim > 1))
    return naive(norm.dual, x)


JOINT = {
    "l1": norms.L1(),
    "l3": norms.Lp(3),
    "spectral": norms.Spectral(),
    "nuclear": norms.Nuclear(),
    "rms to rms": norms.Operator("rms", "rms"),
    "max of": norms.MaxOf({"0.weight": norms.Spectral(), "2.bias": norms.L2()}),
    "sum of": norms.SumOf({"0.bias": norms.LInf(), "2.weight": norms.L2()}),
}


def test_the_value_is_attained_by_the_direction():
    model, loss = MODELS["mlp"]()
    params = dict(model.named_parameters())
    h = dense_hessian(loss, list(params.values()))
    for name, norm in JOINT.items():
        found = smoothness(loss, model, norm, restarts=1)
        assert {*found.left} == params.keys() - found.direction.keys(), name
        v = {k: found.direction.get(k, torch.zeros_like(p)) for k, p in params.items()}
        turned = parts(params, h @ torch.cat([t.reshape(-1) for t in v.values()]))
        seen = {k: turned[k] for k in found.direction}
        assert naive(norm, found.direction) == pytest.approx(1), name
        assert found.value == pytest.approx(naive_dual(norm, seen), rel=1e-9), name
        assert found.value > 0


def test_kernels_and_fused_projections_are_the_matrices_of_the_routing():
    model, loss = MODELS["convolutional"]()
    found = smoothness(loss, model, norms.Spectral(), restarts=0)
    assert "0.weight" in found.direction and "0.bias" in found.left
    sizes = [torch.linalg.matrix_norm(v.flatten(1), ord=2) for v in found.direction.values()]
    assert float(max(sizes)) == pytest.approx(1)
    model, loss = MODELS["tied"]()
    found = smoothness(loss, model, norms.Spectral(), restarts=0)
    assert "embed.weight" in found.left
    fused = found.direction["block.self_attn.in_proj_weight"].reshape(3, 4, 4)
    assert torch.linalg.matrix_norm(fused, ord=2).tolist() == pytest.approx([1, 1, 1])
    views = {"block.self_attn.in_proj_weight": None}
    found = smoothness(loss, model, norms.Spectral(), restarts=0, views=views)
    assert "block.self_attn.in_proj_weight" in found.left


def test_one_step_is_what_the_optimizer_estimates():
    for norm in (norms.LInf(), norms.Frobenius(), norms.Spectral(), "blocks", "one"):
        model, loss = MODELS["mlp"]()
        params = [(k, p) for k, p in model.named_parameters() if p.ndim == 2]
        if norm == "blocks":
            norm = norms.MaxOf({"0.weight": norms.L2(), "2.weight": norms.LInf()})
        if norm == "one":
            params, norm = params[:1], norms.L2()
        expected = smoothness(loss, params, norm, steps=1, restarts=0).one_step
        optimizer = SteepestDescent(params, norm, sharpness="estimate")
        for _ in range(2):
            model.zero_grad()
            loss().backward()
            optimizer.step()
        assert expected == pytest.approx(optimizer.sharpness, rel=1e-9)


def test_nothing_is_left_changed():
    model, loss = MODELS["mlp"]()
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    versions = [p._version for p in model.parameters()]
    kept, state = loss(), torch.get_rng_state()
    calls = []

    def interrupted(error):
        calls.append(1)
        if len(calls) % 2 == 0:
            # The probe has moved what it puts back.
            assert any(not torch.equal(p, before[k]) for k, p in model.named_parameters())
            raise error
        return loss()

    for error in (KeyboardInterrupt, RuntimeError):
        with pytest.raises(error):
            smoothness(lambda error=error: interrupted(error()), model, norms.LInf(), steps=2)
    smoothness(loss, model, norms.Spectral(), steps=2)
    assert all(torch.equal(p, before[k]) for k, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    assert versions == [p._version for p in model.parameters()]
    assert torch.equal(state, torch.get_rng_state())
    kept.backward()


def test_both_evaluations_draw_the_same_numbers():
    x = torch.ones(40, dtype=torch.float64, requires_grad=True)
    found = smoothness(lambda: nn.functional.dropout(x, 0.5).square().sum() / 2, x, norms.L2())
    assert found.value == pytest.approx(4)
    assert found.one_step == pytest.approx(4)


def test_refused():
    loss, x = quadratic(symmetric(4, 0))
    for keys, value, remedy in (
        ({"steps": 0}, "steps=0", "at least one"),
        ({"restarts": -1}, "restarts=-1", ">= 0"),
        ({"tolerance": math.nan}, "tolerance=nan", ">= 0"),
        ({"norm": norms.Spectral()}, "Spectral()", "give `views`"),
        ({"norm": norms.MaxOf({"w": norms.L2()})}, "['w']", "some of ['0']"),
        ({"views": {"w": None}}, "['w']", "some of the names ['0']"),
        ({"loss": lambda: x * 1.0}, "shape 4", "one number"),
    ):
        given = {"loss": loss, "params": x, "norm": norms.L2(), **keys}
        assert_refused(partial(smoothness, **given), value, remedy)
    half = nn.Linear(2, 2).half()
    assert_refused(partial(smoothness, loss, half, norms.L2()), "torch.float16", "model.float()")


@pytest.mark.usefixtures("unchecked")
def test_a_norm_has_to_be_one():
    loss, x = quadratic(symmetric(2, 0))
    assert_refused(partial(smoothness, loss, x, "spectral"), "'spectral'", "a norm object")


def test_a_step_of_the_smoothness_falls_as_far_as_it_says():
    # F(x − g^♯/L) ≤ F(x) − ‖g‖†²/(2L), in 1 000 quadratics each.
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    n, d, rows, samples = 1000, 6, 3, 9
    a, x = draw(n, d, 8), draw(n, d)
    h = a @ a.mT

    def vector_loss(x):
        return 0.5 * torch.einsum("ni,nij,nj->n", x, h, x)

    data, y, w = draw(n, d, samples), draw(n, rows, samples), draw(n, rows, d)

    def matrix_loss(w):
        return (w @ data - y).square().sum((1, 2)) / (2 * samples)

    g, grad = (h @ x.unsqueeze(-1)).squeeze(-1), (w @ data - y) @ data.mT / samples
    cases = (
        (norms.L2(dims=-1), vector_loss, x, g, torch.linalg.eigvalsh(h)[:, -1]),
        (norms.LInf(dims=-1), vector_loss, x, g, (signs(d) @ h).abs().sum(-1).amax(-1)),
        (
            norms.Spectral(),
            matrix_loss,
            w,
            grad,
            torch.linalg.svdvals(data)[:, :rows].square().sum(-1) / samples,
        ),
    )
    for norm, loss, at, slope, smooth in cases:
        scale = smooth.reshape(-1, *[1] * (at.ndim - 1))
        decrease = loss(at) - loss(at - norm.sharp(slope) / scale)
        promised = norm.dual(slope).square() / (2 * smooth)
        assert bool((decrease >= promised * (1 - 1e-9)).all())
        # No constant that is half as large could promise that.
        short = loss(at) - loss(at - 2 * norm.sharp(slope) / scale)
        assert not bool((short >= 2 * promised).all())
