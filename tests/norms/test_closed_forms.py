"""Closed forms against naive definitions: tables, enumeration, maxima over extreme points."""

import itertools
import math

import pytest
import torch

from steepest import norms
from steepest.norms import KyFan, Lp, Operator, Schatten, Spectral, estimate
from steepest.polar import Auto, GramEigh, GramNewtonSchulz, Svd, polar_express
from tests.matrices import log_spaced, naive_polar, orthonormal, with_spectrum

INF = math.inf


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(a, b, rtol=1e-9):
    torch.testing.assert_close(
        torch.as_tensor(a, dtype=torch.float64),
        torch.as_tensor(b, dtype=torch.float64),
        rtol=rtol,
        atol=rtol,
    )


def signs(d):
    """All 2^d vectors of ±1, one per column."""
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=d)), dtype=torch.float64).T


def lp(x, p, dim=0):
    """‖x‖_p, as it is defined."""
    if p == INF:
        return x.abs().amax(dim=dim)
    return (x.abs() ** p).sum(dim=dim) ** (1 / p)


def row_of_the_table(name, w):
    """Value, dual and duality map as in the table of the guide, written out."""
    m, n = w.shape
    u, s, vh = torch.linalg.svd(w, full_matrices=False)
    polar, columns, rows = u @ vh, lp(w, 2, 0), lp(w, 2, 1)[:, None]
    return {
        "spectral": (Spectral(), s[0], s.sum(), polar),
        "nuclear": (norms.Nuclear(), s.sum(), s[0], torch.outer(u[:, 0], vh[0])),
        "frobenius": (norms.Frobenius(), *[(w**2).sum().sqrt()] * 2, w / (w**2).sum().sqrt()),
        "schatten 3": (
            Schatten(3),
            lp(s, 3),
            lp(s, 1.5),
            u @ torch.diag(s**0.5) @ vh / lp(s, 1.5) ** 0.5,
        ),
        "rms to rms": (
            Operator("rms", "rms"),
            math.sqrt(n / m) * s[0],
            math.sqrt(m / n) * s.sum(),
            math.sqrt(m / n) * polar,
        ),
        "1 to rms": (
            Operator(1, "rms"),
            columns.max() / math.sqrt(m),
            math.sqrt(m) * columns.sum(),
            math.sqrt(m) * w / columns,
        ),
        "rms to inf": (
            Operator("rms", INF),
            math.sqrt(n) * rows.max(),
            rows.sum() / math.sqrt(n),
            w / (math.sqrt(n) * rows),
        ),
        "1 to inf": (Operator(1, INF), w.abs().max(), w.abs().sum(), w.sign()),
        "2 to rms": (
            Operator(2, "rms"),
            s[0] / math.sqrt(m),
            math.sqrt(m) * s.sum(),
            math.sqrt(m) * polar,
        ),
        "rms of entries": (
            norms.RMS(),
            w.square().mean().sqrt(),
            math.sqrt(m * n) * w.square().sum().sqrt(),
            w / w.square().mean().sqrt(),
        ),
        "l3": (Lp(3), lp(w.flatten(), 3), lp(w.flatten(), 1.5), None),
    }[name]


TABLE = ("spectral nuclear frobenius", "rms to rms", "1 to rms", "rms to inf", "1 to inf")
NAMES = (*TABLE[0].split(), *TABLE[1:], "schatten 3", "2 to rms", "rms of entries", "l3")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (1, 6), (6, 1)], ids=str)
def test_the_table_of_norms(name, shape):
    w = gaussian(*shape, seed=sum(map(ord, name)))
    norm, value, dual, unit = row_of_the_table(name, w)
    close(norm(w), value)
    close(norm.dual(w), dual)
    if name == "l3":
        unit = w.sign() * w.abs() ** 0.5 / dual**0.5
    close(norm.dualize(w), unit)


@pytest.mark.parametrize("kernel", [(3,), (3, 3), (2, 1)], ids=str)
def test_convolution_kernels(kernel):
    out, into, taps = 4, 3, math.prod(kernel)
    w, norm = gaussian(out, into, *kernel), norms.Conv(len(kernel))
    points = list(itertools.product(*map(range, kernel)))
    sigma = [torch.linalg.svdvals(w[(..., *at)]) for at in points]
    close(norm(w), taps * max(float(s[0]) for s in sigma) * math.sqrt(into / out))
    close(norm.dual(w), sum(float(s.sum()) for s in sigma) * math.sqrt(out / into) / taps)
    for at in points:
        expected = naive_polar(w[(..., *at)]) * math.sqrt(out / into) / taps
        close(norm.dualize(w)[(..., *at)], expected)


@pytest.mark.parametrize("d", range(1, 9))
def test_lp_duals_are_maxima_over_the_extreme_points(d):
    g = gaussian(d, seed=d)
    close(norms.LInf().dual(g), (signs(d).T @ g).max())
    close(norms.L1().dual(g), torch.cat([torch.eye(d), -torch.eye(d)]).double().matmul(g).max())
    for p in (1.5, 2, 3, 7):
        points = gaussian(20_000, d, seed=d)
        # Random points, and those where the naive stationarity condition of the sphere holds.
        q = p / (p - 1)
        stationary = (g.sign() * g.abs() ** (q - 1))[None]
        points = torch.cat([points, stationary])
        reached = (points / lp(points, p, 1)[:, None] @ g).max()
        close(Lp(p).dual(g), reached)


def brute_force(w, a, b):
    """max ‖w·x‖_b over ‖x‖_a ≤ 1: a convex function is largest in an extreme point."""
    m, n = w.shape
    p, q = (2 if e == "rms" else e for e in (a, b))
    scale = (math.sqrt(n) if a == "rms" else 1) / (math.sqrt(m) if b == "rms" else 1)
    if p == 1:
        return scale * float(lp(w, q, 0).max())
    if p == INF:
        return scale * float(lp(w @ signs(n), q, 0).max())
    if q == INF:  # one row at a time: its maximiser is known
        return scale * max(float(lp(row, p / (p - 1))) for row in w)
    if q == 1:  # ‖w·x‖₁ = max over signs y of ⟨wᵀ·y, x⟩
        return scale * float(lp(w.T @ signs(m), p / (p - 1), 0).max())
    assert p == q == 2
    return scale * math.sqrt(float(torch.linalg.eigvalsh(w.T @ w)[-1]))


PAIRS = [(1, 1), (1, 1.5), (1, 2), (1, INF), (1, "rms"), (2, 2), (2, INF), (3, INF), (INF, INF)]
PAIRS += [("rms", "rms"), ("rms", 2), (2, "rms"), ("rms", INF)]
SHAPES = [(3, 4), (8, 8), (1, 5), (5, 1), (8, 2)]


@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_operator_norms_against_brute_force(pair, shape):
    w = gaussian(*shape, seed=7)
    norm = Operator(*pair)
    close(norm(w), brute_force(w, *pair))
    p, q = (2 if e == "rms" else e for e in pair)
    m, n = shape
    x = gaussian(n, 5000, seed=8)
    scale = (math.sqrt(n) if pair[0] == "rms" else 1) / (math.sqrt(m) if pair[1] == "rms" else 1)
    stretched = lp(w @ x, q, 0) / lp(x, p, 0) * scale
    assert float(stretched.max()) <= float(norm(w)) * (1 + 1e-12)
    assert float(estimate(w, *pair)) <= float(norm(w)) * (1 + 1e-12)
    close(estimate(w, *pair, steps=3000), norm(w), rtol=1e-6 if p == q == 2 else 1e-12)


@pytest.mark.parametrize("pair", [(INF, 1), (INF, 2), (2, 1), (INF, "rms"), ("rms", 1)], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_estimate_of_hard_norms_against_enumeration(pair, shape):
    for seed in range(4):
        w = gaussian(*shape, seed=seed)
        exact = brute_force(w, *pair)
        assert float(estimate(w, *pair, restarts=1, steps=2)) <= exact * (1 + 1e-12)
        close(estimate(w, *pair, restarts=64), exact, rtol=1e-6)
    with pytest.raises(ValueError, match="NP-hard"):
        Operator(*pair)


def test_estimate_batches_and_repeats():
    w = gaussian(2, 3, 4, 5)
    both = estimate(w, INF, 1)
    assert both.shape == (2, 3) and torch.equal(both, estimate(w, INF, 1))
    close(both[1, 2], estimate(w[1, 2], INF, 1))
    assert float(estimate(torch.zeros(3, 4), INF, 1)) == 0
    z = gaussian(3, 4, dtype=torch.complex128)
    close(estimate(z, 2, 2, steps=3000), torch.linalg.svdvals(z)[0], rtol=1e-6)
    # A single start gets stuck where others go on: all of them have to come to rest.
    close(estimate(w[0, 0].float(), 1, INF), w[0, 0].abs().max(), rtol=1e-6)


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, INF])
def test_the_dual_norm_is_the_operator_norm_of_a_row(p):
    g = gaussian(6, seed=3)
    close(Lp(p).dual(g), Operator(p, INF)(g[None]))
    close(Lp(p).dual(g), estimate(g[None], p, 2))


@pytest.mark.parametrize("shape", [(4, 4), (3, 6), (7, 5), (8, 8)], ids=str)
def test_ky_fan_is_the_maximum_over_frames_and_subsets(shape):
    m, n = shape
    w = gaussian(m, n, seed=5)
    u, s, vh = torch.linalg.svd(w, full_matrices=False)
    for k in range(1, min(shape) + 1):
        value = float(KyFan(k)(w))
        subsets = [float(s[list(c)].sum()) for c in itertools.combinations(range(len(s)), k)]
        close(value, max(subsets))
        frames = [
            float((orthonormal(m, k, w.dtype, t).T @ w @ orthonormal(n, k, w.dtype, -t)).trace())
            for t in range(1, 300)
        ]
        frames.append(float((u[:, :k].T @ w @ vh[:k].T).trace()))
        close(value, max(frames))


@pytest.mark.parametrize("r", range(1, 9))
def test_the_ky_fan_dual_is_its_support_function(r):
    """max Σ gᵢ·tᵢ over vectors in falling order with t₁ + … + t_k ≤ 1, by its vertices."""
    g = gaussian(r, seed=r).abs().sort(descending=True).values
    for k in range(1, r + 1):
        # The cone of falling vectors is spanned by (1, …, 1, 0, …, 0) with j ones, and every such
        # vector is scaled to the sphere by its first k entries.
        vertices = [float(g[:j].sum()) / min(j, k) for j in range(1, r + 1)]
        dual = KyFan(k).dual(torch.diag(g))
        close(dual, max(vertices))
        # The extreme points of the whole ball: one entry of 1, or all of them ±1/k.
        extreme = max(float(g.max()), float((signs(r).T @ g).max()) / k)
        close(dual, extreme)
        t = gaussian(5000, r, seed=k)
        t = t / t.abs().sort(dim=1, descending=True).values[:, :k].sum(dim=1, keepdim=True)
        assert float((t @ g).max()) <= float(dual) * (1 + 1e-12)
        second = KyFan(k).dual.dual(torch.diag(g))
        close(second, g[:k].sum())


def test_the_polar_factor_is_the_nearest_semi_orthogonal_matrix():
    for m, n in ((4, 4), (3, 6), (6, 3)):
        w = gaussian(m, n, seed=m)
        q = Spectral().dualize(w)
        gram = q @ q.T if m <= n else q.T @ q
        close(gram, torch.eye(min(m, n)).double())
        best = float((w - q).norm())
        for seed in range(500):
            other = orthonormal(max(m, n), min(m, n), w.dtype, seed)
            other = other if m >= n else other.T
            assert float((w - other).norm()) >= best


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_rms_of_the_polar_factor(rank):
    w = with_spectrum(log_spaced(10.0, rank), 6, 4)
    close(norms.RMS()(Spectral().dualize(w)), math.sqrt(rank / 24))


METHODS = [Svd(), GramEigh(), GramNewtonSchulz(polar_express(8)), Auto(error=1e-3)]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("shape", [(8, 8), (5, 16), (16, 5)], ids=str)
def test_polar_methods_agree_with_the_svd(method, shape):
    stated = method.accuracy(*shape, torch.float64)
    error = max(stated.error, 1e-9)
    w = with_spectrum(log_spaced(min(50.0, 0.5 / stated.resolution), min(shape)), *shape)
    for p in (1, 1.5, 3, INF):
        exact, fast = Schatten(p), Schatten(p, polar=method)
        close(fast(w), exact(w), rtol=3 * error)
        close(fast.dual(w), exact.dual(w), rtol=3 * error)
        gap = (fast.dualize(w) - exact.dualize(w)).norm()
        assert float(gap) <= 20 * error * math.sqrt(min(shape))
    close(KyFan(2, polar=method)(w), KyFan(2)(w), rtol=3 * error)


def test_a_random_point_of_the_spectral_sphere_has_full_rank():
    """Drawn in float32, one in some hundred matrices would lose its smallest singular value."""
    w = norms.Spectral().init((300, 64, 64), generator=torch.Generator().manual_seed(4))
    assert w.dtype == torch.float32
    assert float((torch.linalg.svdvals(w) - 1).abs().max()) < 1e-5


@pytest.mark.parametrize("polar", [None, GramEigh(), Auto(error=0.05)], ids=str)
@pytest.mark.parametrize("x", [torch.zeros(4, 5), torch.eye(4, 5)], ids=["zero", "ties"])
def test_values_have_gradients_where_singular_values_coincide(polar, x):
    for norm in (norms.Schatten(4), norms.KyFan(2), norms.Nuclear(), norms.Spectral()):
        leaf = x.clone().requires_grad_()
        norm.with_polar(polar)(leaf).backward()
        assert bool(leaf.grad.isfinite().all()), norm
