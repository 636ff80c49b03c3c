"""Steepest descent: the step of Proposition 1 is the minimum of its model, and the lemma holds."""

import math

import pytest
import torch

from steepest import norms
from steepest.norms import Modular, Operator
from steepest.testing._tensors import each, inner, leaves, length
from tests.norms.suite import ALL, Drawn, over, tensors
from tests.norms.test_closed_forms import close, gaussian, signs

LAMBDA = 2.5


def flat(x):
    """All entries of a tensor, or of all tensors of a mapping."""
    return torch.cat([t.flatten() for t in leaves(x)])


def gradient(case):
    """A gradient for which the norm is one number; None if it is always one of each vector."""
    for shape in range(len(case.shapes)):
        g = tensors(case, Drawn(shape + 1, "gaussian", torch.float64, 0, shape))
        if flat(g).numel() > 1 and case.norm(g).ndim == 0:
            return g
    return None


SCALAR = [c for c in ALL if gradient(c) is not None]


def test_every_kind_of_norm_takes_part():
    assert {c.make for c in SCALAR} == {c.make for c in ALL}


@over(SCALAR)
def test_proposition_1(case):
    """−(‖g‖†/λ)·dualize(g) has ⟨g, Δ⟩ + (λ/2)·‖Δ‖² = −‖g‖†²/(2λ), and no Δ has less."""
    norm, g = case.norm, gradient(case)
    dual, t = norm.dual(g), norm.dualize(g)
    step = each(lambda v: -dual / LAMBDA * v, t)
    value = inner(norm, g, step) + LAMBDA / 2 * norm(step) ** 2
    minimum = -(float(dual) ** 2) / (2 * LAMBDA)
    close(value / minimum, 1, rtol=1e-10)
    # Half of the directions are near the best one; each gets its own best length.
    tried = 1000 if getattr(norm, "axes", None) else 200  # at once, or one by one
    far = 10.0 ** -(torch.arange(tried) % 6).double()
    far[::2] = 1e3
    many = each(lambda v: v + far.reshape(-1, *[1] * v.ndim) * gaussian(tried, *v.shape), t)
    along = sum((d * s).flatten(1).sum(dim=1) for d, s in zip(leaves(many), leaves(g), strict=True))
    if getattr(norm, "axes", None):
        sizes = norm(many, check=False)
    else:
        rows = [each(lambda d, i=i: d[i], many) for i in range(tried)]
        sizes = torch.stack([norm(row, check=False) for row in rows])
    assert float((along**2 / sizes**2).max()) <= -2 * LAMBDA * minimum * (1 + 1e-10)


def test_proposition_1_for_the_modular_norm():
    """ΔW_l = −(η/s_l)·dualize_l(G_l) with one η = Σ‖G_k‖†/(λ·s_k)."""
    s = {"a": 0.5, "b": 3.0, "c": 1.0}
    parts = {"a": norms.Spectral(), "b": norms.RMS(), "c": Operator(1, "rms")}
    norm = Modular({k: (parts[k], s[k]) for k in parts})
    g = {"a": gaussian(4, 3), "b": gaussian(5, seed=1), "c": gaussian(2, 6, seed=2)}
    total = sum(float(parts[k].dual(g[k])) / s[k] for k in s)
    close(norm.dual(g), total)
    eta = total / LAMBDA
    for k, t in norm.dualize(g).items():
        close(t, parts[k].dualize(g[k]) / s[k])
    step = {k: -eta / s[k] * parts[k].dualize(g[k]) for k in s}
    close(norm(step), eta)
    value = sum(float((g[k] * step[k]).sum()) for k in s)
    value += LAMBDA / 2 * max(s[k] * float(parts[k](step[k])) for k in s) ** 2
    close(value, -(total**2) / (2 * LAMBDA), rtol=1e-10)


def quadratic(d, seed):
    """A positive semi-definite Hessian with a dense spectrum."""
    a = gaussian(d, d, seed=seed)
    return a @ a.T


# The sharpness L = sup ‖H·v‖† over ‖v‖ = 1, which convexity puts into an extreme point.
VECTORS = {
    "l1": (norms.L1(), lambda h: h.abs().max()),
    "l2": (norms.L2(), lambda h: torch.linalg.eigvalsh(h)[-1]),
    "linf": (norms.LInf(), lambda h: (h @ signs(len(h))).abs().sum(dim=0).max()),
}
# For F(W) = ½·tr(Wᵀ·M·W) with an m × m matrix M ≥ 0, m ≤ n, the Hessian maps V to M·V, and
#   spectral: ‖M·V‖_* ≤ ‖M‖_*·‖V‖₂ = tr(M), reached by V = [I 0];
#   1 → rms:  √m·Σⱼ‖M·vⱼ‖₂ ≤ √m·n·λ₁·√m, reached by √m·(top eigenvector) in all n columns.
MATRICES = {
    "spectral": (norms.Spectral(), lambda m, n: m.trace()),
    "1 to rms": (
        Operator(1, "rms"),
        lambda m, n: len(m) * n * torch.linalg.eigvalsh(m)[-1],
    ),
    "frobenius": (norms.Frobenius(), lambda m, n: torch.linalg.eigvalsh(m)[-1]),
}


def check_lemma(norm, apply, sharpness, shape):
    """F(x+Δ) ≤ F(x) − ‖g‖†²/(2L) for F(x) = ½⟨x, H·x⟩ and the step of steepest descent."""

    def value(x):
        return float(0.5 * (x * apply(x)).sum())

    for seed in range(30):
        x = gaussian(*shape, seed=seed)
        g = apply(x)
        dual = norm.dual(g)
        after = value(x - dual / sharpness * norm.dualize(g))
        assert after <= value(x) - float(dual) ** 2 / (2 * float(sharpness)) + 1e-9 * value(x)
        v = gaussian(*shape, seed=seed + 1000)
        assert float(norm.dual(apply(v))) <= float(sharpness * norm(v)) * (1 + 1e-12)


def check_failure(norm, apply, sharpness, worst):
    """With L/2 the model is not an upper bound: it fails at x for the worst direction Δ = x."""

    def value(x):
        return float(0.5 * (x * apply(x)).sum())

    close(norm.dual(apply(worst)) / norm(worst), sharpness)
    x = 0.3 * worst
    model = (
        value(x) + float((apply(x) * worst).sum()) + float(sharpness) / 4 * float(norm(worst)) ** 2
    )
    assert value(x + worst) > model * (1 + 1e-6)


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("d", [2, 5, 8])
def test_the_descent_lemma_for_vectors(name, d):
    norm, sharpness = VECTORS[name]
    for seed in range(3):
        h = quadratic(d, seed)
        check_lemma(norm, h.matmul, sharpness(h), (d,))


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("shape", [(3, 5), (4, 4), (1, 6)], ids=str)
def test_the_descent_lemma_for_matrices(name, shape):
    norm, sharpness = MATRICES[name]
    for seed in range(3):
        h = quadratic(shape[0], seed)
        check_lemma(norm, h.matmul, sharpness(h, shape[1]), shape)


def test_the_lemma_fails_with_half_the_sharpness():
    h, m, n = quadratic(5, 0), 5, 7
    vectors = torch.linalg.eigh(h).eigenvectors
    s = signs(5)
    corner = int((h @ s).abs().sum(dim=0).argmax())
    top = int(h.diag().argmax())  # the largest entry of H ≥ 0 is on its diagonal
    worst = {
        "l1": torch.eye(5).double()[top],
        "l2": vectors[:, -1],
        "linf": s[:, corner],
        "spectral": torch.eye(m, n).double(),
        "1 to rms": math.sqrt(m) * vectors[:, -1:].expand(m, n),
        "frobenius": torch.outer(vectors[:, -1], torch.eye(n).double()[0]),
    }
    for name, (norm, sharpness) in VECTORS.items():
        check_failure(norm, lambda x: h @ x, sharpness(h), worst[name])
    for name, (norm, sharpness) in MATRICES.items():
        check_failure(norm, lambda x: h @ x, sharpness(h, n), worst[name])


@pytest.mark.parametrize("name", VECTORS)
def test_half_the_sharpness_can_climb(name):
    """Steps of steepest descent twice too long do not descend where the curvature is largest."""
    norm, sharpness = VECTORS[name]
    h = torch.ones(4, 4).double()  # F = ½(Σx)²: every norm's worst direction is (1, …, 1)
    x = torch.ones(4).double() if name != "l1" else torch.eye(4).double()[0]
    g = h @ x
    promised = float(norm.dual(g)) ** 2 / float(sharpness(h))  # ‖g‖†²/(2·L/2)
    step = -2 * norm.dual(g) / sharpness(h) * norm.dualize(g)
    before, after = (float(0.5 * (y.sum()) ** 2) for y in (x, x + step))
    assert after > before - promised + 0.1
    assert float(length(norms.L2(), step)) > 0
