"""Closed forms against naive definitions: formulas written out, grids, and a numerical maximum."""

import math

import pytest
import torch

from steepest import maps
from steepest.maps import Clip, Columns, Dead, Modulus, Root, Rows, Separable, Square, Weighted
from steepest.polar import Auto, GramEigh, NewtonSchulz, Svd, Zolotarev
from tests.matrices import log_spaced, spectral_distance, with_spectrum

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
U, S, VH = torch.linalg.svd(X, full_matrices=False)
D = float(S[1])  # between the largest and the smallest singular value
EYE = torch.eye(3, dtype=torch.float64)


def inverse_root(a):
    values, v = torch.linalg.eigh(a)
    return v @ torch.diag(values**-0.5) @ v.mH


# The map, its value and its gradient at X.
WRITTEN_OUT = {
    "L1": (maps.L1Map(), X.abs().sum(), X.sign()),
    "Nuclear": (maps.NuclearMap(), S.sum(), U @ VH),
    "GroupRows": (maps.GroupRows(), X.norm(dim=1).sum(), X / X.norm(dim=1, keepdim=True)),
    "GroupColumns": (maps.GroupColumns(), X.norm(dim=0).sum(), X / X.norm(dim=0, keepdim=True)),
    "HalfSquare": (maps.HalfSquare(), (X**2).sum() / 2, X),
    "Schatten 4": (
        maps.SchattenMap(4),
        (S**4).sum() ** 0.25,
        U @ torch.diag(S**3) @ VH / (S**4).sum() ** 0.75,
    ),
    "TopK": (maps.TopK(2), S[:2].sum(), U[:, :2] @ VH[:2]),
    "SmoothL1": (maps.SmoothL1(0.3), (X**2 + 0.09).sqrt().sum(), X / (X**2 + 0.09).sqrt()),
    "SmoothNuclear": (
        maps.SmoothNuclear(0.4),
        (S**2 + 0.16).sqrt().sum(),
        inverse_root(X @ X.mT + 0.16 * EYE) @ X,
    ),
    "Huber": (
        maps.Huber(0.7),
        torch.nn.functional.huber_loss(X, 0 * X, delta=0.7, reduction="sum") / 0.7,
        (X / 0.7).clamp(-1, 1),
    ),
    "SpectralHuber": (
        maps.SpectralHuber(D),
        sum(s * s / (2 * D) if s <= D else s - D / 2 for s in S.tolist()),
        U @ torch.diag((S / D).clamp(max=1)) @ VH,
    ),
    "DeadZone": (
        maps.DeadZone(0.7),
        sum(max(abs(x) - 0.7, 0) for x in X.flatten().tolist()),
        X.sign() * (X.abs() > 0.7),
    ),
    "SpectralDeadZone": (
        maps.SpectralDeadZone(0.99 * D),
        (S[:2] - 0.99 * D).sum(),
        U[:, :2] @ VH[:2],
    ),
    "Huber of rows": (
        Separable(Clip(100.0), Rows()),
        (X**2).sum() / 200,
        X / 100,
    ),
    "sum": (
        2.0 * maps.NuclearMap() + maps.HalfSquare(),
        2 * S.sum() + (X**2).sum() / 2,
        2 * U @ VH + X,
    ),
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_value_and_gradient_written_out(name):
    K, value, gradient = WRITTEN_OUT[name]
    assert float(K.value(X)) == pytest.approx(float(value), rel=1e-12)
    assert float((K.grad(X) - gradient).abs().max()) < 1e-12


def test_conjugates_written_out():
    y = 0.9 * X / S[0]
    s = 0.9 * S / S[0]
    assert float(maps.NuclearMap().conjugate(y)) == 0 == float(maps.SchattenMap(1).conjugate(y))
    root = -0.4 * (1 - s**2).sqrt().sum()
    assert float(maps.SmoothNuclear(0.4).conjugate(y)) == pytest.approx(float(root), rel=1e-12)
    square = 0.7 / 2 * (y**2).sum()
    assert float(maps.SpectralHuber(0.7).conjugate(y)) == pytest.approx(float(square), rel=1e-12)
    assert float(maps.Huber(0.7).conjugate(y)) == pytest.approx(float(square), rel=1e-12)
    assert float(maps.SpectralDeadZone(2.0).conjugate(y)) == pytest.approx(2 * float(s.sum()))
    assert float(maps.DeadZone(2.0).conjugate(y)) == pytest.approx(2 * float(y.abs().sum()))
    # (‖·‖_* + ½‖·‖²)* is half the squared distance to the ball.
    both = maps.NuclearMap() + maps.HalfSquare()
    assert float(both.conjugate(3 * X)) == pytest.approx(
        float(((3 * S - 1).clamp(min=0) ** 2).sum() / 2), rel=1e-12
    )


SCALARS = (
    Modulus(),
    Square(),
    Root(0.3),
    Clip(0.7),
    Dead(0.6),
    Weighted.of((2.5, Root(0.3))),
    Weighted.of((0.5, Modulus()), (2.0, Square())),
    Weighted.of((1.0, Root(0.3)), (2.0, Root(1.5))),
    Weighted.of((1.0, Dead(0.2)), (1.0, Clip(1.5)), (0.5, Modulus())),
    Weighted.of((1.0, Dead(0.5)), (1.0, Dead(1.0)), (0.1, Square())),
)
GRID = torch.cat([torch.linspace(0, 20, 200_001, dtype=torch.float64), torch.tensor([1e3, 1e5])])


@pytest.mark.parametrize("phi", SCALARS, ids=repr)
def test_scalars_against_a_grid(phi):
    """Value, slope, conjugate and where the slope is s."""
    value, slope = phi.value(GRID), phi.slope(GRID)
    assert bool((slope.diff() >= 0).all()) and float(slope[0]) == 0
    assert bool((slope <= phi.limit).all())
    assert float(phi.value(GRID[:1])) == float(value.min())
    middle, steps = (slope[1:] + slope[:-1]) / 2, GRID.diff()
    kinks = slope.diff().abs()
    assert bool(((value.diff() - middle * steps).abs() <= (kinks + 1e-9) * steps).all())
    for share in (0.0, 0.05, 0.3, 0.5, 0.77, 0.95, 0.99):
        s = torch.tensor([share * min(phi.limit, 3.0)], dtype=torch.float64)
        naive = float((s * GRID - value).max())
        assert naive - 1e-12 <= float(phi.conjugate(s)) <= naive + 1e-7
        where = float(phi.inverse(s))
        assert bool((slope[where - 1e-9 > GRID] <= s + 1e-12).all())
        assert bool((slope[where + 1e-9 < GRID] >= s - 1e-12).all())


@pytest.mark.parametrize("phi", [p for p in SCALARS if p.limit < math.inf], ids=repr)
def test_conjugate_at_the_limit(phi):
    """Where the maximum is reached at infinity."""
    s = torch.tensor([phi.limit], dtype=torch.float64)
    far = torch.tensor([1e4], dtype=torch.float64)
    assert float(phi.conjugate(s)) == pytest.approx(float(s * far - phi.value(far)), abs=1e-3)
    below = phi.conjugate(s * (1 - 1e-13))
    assert float(phi.conjugate(s)) == pytest.approx(float(below), abs=1e-5)


SMOOTH = (
    maps.SmoothL1(0.5),
    maps.SmoothNuclear(0.5),
    Separable(Root(0.5), Columns()),
    maps.SmoothNuclear(0.5) + 0.3 * maps.HalfSquare(),
    maps.SmoothNuclear(0.5) + 2.0 * maps.SpectralHuber(0.7),
    2.0 * maps.Huber(0.5) + maps.SmoothL1(1.0),
)


@pytest.mark.parametrize("K", SMOOTH, ids=repr)
def test_conjugate_is_the_maximum(K):
    """Found by L-BFGS from a random start, with the derivative of the value."""
    y = 0.8 * X / K.domain(X) if K.domain is not None else X
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    x.requires_grad_()
    search = torch.optim.LBFGS(
        [x], max_iter=300, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss():
        search.zero_grad()
        value = K.value(x) - (y * x).sum()
        value.backward()
        return value

    search.step(loss)
    assert -float(loss().detach()) == pytest.approx(float(K.conjugate(y)), abs=1e-7)
    assert float((K.grad(x.detach()) - y).abs().max()) < 1e-4


METHODS = (
    Svd(),
    GramEigh(),
    Zolotarev(4, 1e-3),
    Auto(error=0.05),
    Auto(error=1e-3),
    NewtonSchulz(),
)
SPECTRA = {
    "gaussian": torch.randn(12, 20, generator=torch.Generator().manual_seed(0)).double(),
    "tall": with_spectrum(log_spaced(1e2, 12), 25, 12),
    "ill": with_spectrum(log_spaced(1e4, 16), 16, 16, complex=True),
    "low rank": with_spectrum(torch.tensor([1.0, 1.5, 2.0]).double(), 12, 20),
}
every_spectrum = pytest.mark.parametrize("spectrum", SPECTRA)
every_method = pytest.mark.parametrize("method", METHODS, ids=repr)


def single(x):
    return x.to(torch.complex64 if x.is_complex() else torch.float32)


@every_method
@every_spectrum
@pytest.mark.parametrize("share", [2.0, 0.5, 0.03])
def test_the_smooth_nuclear_map_by_a_polar_factor(method, spectrum, share):
    """Within the error of the method where δ is above its resolution."""
    x = SPECTRA[spectrum]
    top = float(torch.linalg.matrix_norm(x, 2))
    K, exact = (maps.SmoothNuclear(share * top, polar=p) for p in (method, None))
    m, n = sorted(x.shape)
    promise = method.accuracy(m, m + n, torch.float32)
    assert promise.resolution <= 0.029
    g = K.grad(single(x))
    # Rounding of the input, of its size over δ, comes on top.
    assert spectral_distance(g, exact.grad(x)) <= promise.error + 1e-6 * max(1.0, 1 / share)
    assert float(torch.linalg.matrix_norm(g, 2)) <= K.gradient_bound(*x.shape, torch.float32)


@every_method
@every_spectrum
@pytest.mark.parametrize("share", [2.0, 0.51, 0.03])
def test_the_spectral_huber_map_by_two_polar_factors(method, spectrum, share):
    """Off by three errors of the method and its resolution in units of δ."""
    x = SPECTRA[spectrum]
    delta = share * float(torch.linalg.matrix_norm(x, 2))
    K, exact = (maps.SpectralHuber(delta, polar=p) for p in (method, None))
    promises = [method.accuracy(*sides, torch.float32) for sides in (x.shape, (min(x.shape),) * 2)]
    error = max(p.error for p in promises)
    unresolved = max(p.resolution for p in promises) * max(1.0, 1 / share)
    g = K.grad(single(x))
    assert spectral_distance(g, exact.grad(x)) <= 3 * error + unresolved
    assert float(torch.linalg.matrix_norm(g, 2)) <= K.gradient_bound(*x.shape, torch.float32)


@pytest.mark.parametrize("method", METHODS[:-1], ids=repr)
@every_spectrum
def test_the_spectral_dead_zone_by_two_polar_factors(method, spectrum):
    """Three errors of the method, where no σ is near δ: a factor that is off moves σ against δ."""
    x = SPECTRA[spectrum]
    s = torch.linalg.svdvals(x)
    s = s[s > 1e-2 * s[0]]
    k = int((s[1:] / s[:-1]).argmin()) + 1
    delta = float((s[k - 1] + s[k]) / 2)
    K, exact = (maps.SpectralDeadZone(delta, polar=p) for p in (method, None))
    promise = method.accuracy(*x.shape, torch.float32)
    assert promise.resolution * s[0] + promise.error * delta < s[k - 1] - delta
    g = K.grad(single(x))
    small = torch.linalg.svdvals(exact.grad(x)).round().sum()
    assert int(small) == k
    # Rounding of x leaves eps·σ₁ where its rank ends; damped, but not cut off.
    damped = 3 * torch.finfo(torch.float32).eps / promise.resolution
    assert spectral_distance(g, exact.grad(x)) <= 3 * promise.error + damped
    assert float(torch.linalg.matrix_norm(g, 2)) <= K.gradient_bound(*x.shape, torch.float32)


@every_method
def test_no_weight_of_delta_leaves_the_bound(method):
    """From a δ far above the matrix to one far below rounding."""
    x = single(SPECTRA["ill"])
    for make in (maps.SmoothNuclear, maps.SpectralHuber, maps.SpectralDeadZone):
        for exponent in range(-36, 37, 4):
            K = make(10.0**exponent, polar=method)
            size = float(torch.linalg.matrix_norm(K.grad(x), 2))
            assert size <= K.gradient_bound(*x.shape, torch.float32), exponent
    assert not bool(maps.SpectralHuber(1.0, polar=method).grad(0 * x).any())


@every_method
def test_a_scalar_without_a_formula_takes_eigenvalues(method):
    """What the base class gives is the function at the singular values."""
    x = SPECTRA["gaussian"]

    class Plain(Clip):
        by_polar = maps.Scalar.by_polar

    promise = method.accuracy(*x.shape, torch.float32)
    g = Separable(Plain(2.0), maps.Singular(polar=method)).grad(single(x))
    assert spectral_distance(g, maps.SpectralHuber(2.0).grad(x)) <= 3 * promise.error
