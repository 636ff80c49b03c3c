"""Certificates: equal to their definitions, bounds that hold, and one line for what is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from steepest import polar
from steepest.polar import Auto, Certificate, Svd, certify
from tests.matrices import log_spaced, naive_polar, orthonormal, wide, with_spectrum

NUMBERS = [f.name for f in fields(Certificate) if f.name != "exact"]
SHAPES = ((1, 1), (1, 6), (6, 1), (5, 5), (4, 9), (9, 4), (16, 16))
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64)


def numbers(found: Certificate) -> dict[str, float]:
    """The numbers of one exact certificate, whose ends differ by rounding alone."""
    assert found.exact
    out = {}
    for name in NUMBERS:
        lower, upper = map(float, getattr(found, name))
        assert 0 <= upper - lower <= 1e-9 * max(1.0, abs(upper)), name
        out[name] = (lower + upper) / 2
    return out


def naive(x: Tensor, q: Tensor) -> dict[str, float]:
    """The definitions, for one matrix of full rank."""
    wide = torch.complex128 if x.is_complex() else torch.float64
    x, q = x.to(wide), q.to(wide)
    small = q @ q.mH if x.shape[0] <= x.shape[1] else q.mH @ q
    sigma = torch.linalg.svdvals(q)
    p = naive_polar(x)
    return {
        "orthogonality": float(torch.linalg.matrix_norm(small - torch.eye(len(small)), ord=2)),
        "smallest": float(sigma[-1]),
        "largest": float(sigma[0]),
        "alignment": float((x.conj() * q).sum().real / torch.linalg.matrix_norm(x, ord="nuc")),
        "distance": float((q - p).norm() / p.norm()),
    }


def perturbed(x: Tensor, size: float, seed: int) -> Tensor:
    """The factor of x with a random change of about this relative size."""
    p = naive_polar(x)
    noise = torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(seed))
    return p + size * noise * p.norm() / noise.norm()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_exact_numbers_are_the_definitions(shape: tuple[int, int], dtype: torch.dtype) -> None:
    m, n = shape
    x = with_spectrum(log_spaced(20.0, min(m, n)), m, n, complex=dtype.is_complex).to(dtype)
    for size in (0.0, 0.05, 1.0):
        q = perturbed(x, size, seed=3).to(dtype)
        found = certify(x, q)
        assert numbers(found) == pytest.approx(naive(x, q), abs=1e-9)
        assert all(e.dtype == torch.float64 and e.shape == () for e in found.distance)


@given(
    shape=st.sampled_from(SHAPES),
    condition=st.sampled_from([1.0, 3.0, 1e2, 1e5, 1e9]),
    size=st.sampled_from([0.0, 1e-9, 1e-4, 0.05, 0.5, 3.0]),
    kind=st.sampled_from(["any", "rows", "values"]),
    complex_=st.booleans(),
    single=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_bounds_are_bounds(
    shape: tuple[int, int],
    condition: float,
    size: float,
    kind: str,
    complex_: bool,
    single: bool,
    seed: int,
) -> None:
    m, n = shape
    x = with_spectrum(log_spaced(condition, min(m, n)), m, n, seed=seed, complex=complex_)
    if single:
        x = x.to(torch.complex64 if complex_ else torch.float32)
    q = perturbed(x, size, seed)
    if kind == "rows":  # turned, but still an isometry
        q = naive_polar(q)
    elif kind == "values":  # right directions, wrong lengths
        u, _, vh = torch.linalg.svd(wide(x), full_matrices=False)
        lengths = 1 + size * torch.rand(u.shape[-1], dtype=torch.float64)
        q = (u * lengths) @ vh
    holds(x, q)


def holds(x: Tensor, q: Tensor) -> None:
    """Every number lies between its bounds: what is known exactly to rounding, lies within them."""
    true, found = certify(x, q, exact=True), certify(x, q, exact=False)
    assert true.exact and not found.exact
    for name in NUMBERS:
        (least, most), (lower, upper) = getattr(true, name), getattr(found, name)
        rounding = 1e-12 * max(1.0, abs(float(most)))
        assert float(lower) <= float(least) + rounding, name
        assert float(upper) >= float(most) - rounding, name


@pytest.mark.parametrize("sign", [1, -1])
def test_bounds_hold_for_what_is_no_factor_at_all(sign: int) -> None:
    """A skew part, a part outside the rows of q, a negative one, a rank too many or too few."""
    eye, zero = torch.eye(6, dtype=torch.float64), torch.zeros(6, 6, dtype=torch.float64)
    turn = torch.block_diag(*[torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)] * 3)
    q = sign * torch.cat([eye, zero], dim=1)
    holds(torch.cat([0.1 * eye + turn, zero], dim=1), q)
    holds(torch.cat([0.1 * eye, orthonormal(6, 6, torch.float64, 0)], dim=1), q)
    flat = with_spectrum(log_spaced(5.0, 3), 6, 12)
    for factor in (q, naive_polar(flat, cutoff=1e-9), 2 * naive_polar(flat, cutoff=1e-9) - q):
        holds(flat, sign * factor)
    holds(with_spectrum(log_spaced(5.0, 6), 6, 12), sign * naive_polar(flat, cutoff=1e-9))


def test_the_bounds_of_a_good_factor_are_narrow() -> None:
    """Nothing is lost but rounding, whether the lengths are wrong or the directions."""
    x = with_spectrum(log_spaced(50.0, 24), 24, 60)
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    q = (u * torch.linspace(0.95, 1.05, 24, dtype=torch.float64)) @ vh
    for name, value in numbers(certify(x, q)).items():
        lower, upper = map(float, getattr(certify(x, q, exact=False), name))
        assert upper - lower < 1e-11, name
        assert lower - 1e-13 <= value <= upper + 1e-13, name
    for size in (1e-6, 1e-2, 0.3):
        turned = perturbed(x, size, seed=0)
        true = numbers(certify(x, turned))["distance"]
        lower, upper = map(float, certify(x, turned, exact=False).distance)
        assert lower - 1e-13 <= true <= upper + 1e-13
        assert upper - lower < 1e-10, size


def test_what_is_far_from_a_factor_is_seen_where_x_is_well_conditioned() -> None:
    """Then w comes from x itself, whatever q is."""
    x = with_spectrum(log_spaced(50.0, 5), 5, 8)
    for q in (torch.zeros_like(x), -naive_polar(x), torch.ones_like(x), naive_polar(x.flip(0))):
        lower, upper = map(float, certify(x, q, exact=False).distance)
        assert lower - 1e-12 <= naive(x, q)["distance"] <= upper + 1e-12
        assert upper - lower < 1e-10


def test_bounds_do_not_vouch_for_what_they_cannot_see() -> None:
    x = with_spectrum(torch.ones(3, dtype=torch.float64), 5, 8)
    q = naive_polar(with_spectrum(torch.ones(5, dtype=torch.float64), 5, 8, seed=9))
    for factor in (q, naive_polar(x, cutoff=1e-9), torch.zeros_like(x), -naive_polar(q + x)):
        distance = certify(x, factor, exact=False).distance
        assert (float(distance.lower), float(distance.upper)) == (0.0, math.inf)


@pytest.mark.parametrize("name", ["svd", "auto", "jordan"])
@pytest.mark.parametrize("shape", [(8, 8), (8, 30), (30, 8)], ids=str)
def test_a_method_keeps_what_it_states(name: str, shape: tuple[int, int]) -> None:
    method = {
        "svd": Svd(),
        "auto": Auto(error=0.05),
        "jordan": polar.NewtonSchulz(polar.JORDAN),
    }[name]
    stated = method.accuracy(*shape, torch.float32)
    x = with_spectrum(log_spaced(min(30.0, 0.9 / stated.resolution), 8), *shape).float()
    found = numbers(certify(x, method(x)))
    assert 1 - stated.error - 1e-5 <= found["smallest"] <= found["largest"] <= stated.upper + 1e-5
    assert found["distance"] <= stated.error + 1e-4
    assert found["alignment"] <= found["largest"] + 1e-12


def test_what_lies_below_the_resolution_is_left_out() -> None:
    sigma = torch.tensor([1.0, 0.5, 1e-5], dtype=torch.float64)
    u, v = (orthonormal(k, 3, torch.float64, s) for k, s in ((4, 0), (6, 1)))
    x, q = (u * sigma) @ v.mH, (u * torch.tensor([1.0, 1.0, 0.25], dtype=torch.float64)) @ v.mH
    assert numbers(certify(x, q, resolution=1e-3)) == pytest.approx(
        {"orthogonality": 0, "smallest": 1, "largest": 1, "alignment": 1, "distance": 0}, abs=1e-4
    )
    whole = numbers(certify(x, q))
    assert whole["smallest"] == pytest.approx(0.25)
    assert whole["orthogonality"] == pytest.approx(1 - 0.25**2)
    assert whole["distance"] == pytest.approx(0.75 / math.sqrt(3))


@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (6, 6)], ids=str)
@pytest.mark.parametrize("rank", [1, 3])
def test_rank_deficient_matrices_ask_for_a_partial_isometry(
    shape: tuple[int, int], rank: int
) -> None:
    x = with_spectrum(log_spaced(4.0, rank), *shape)
    q = naive_polar(x, cutoff=1e-9)
    perfect = {"orthogonality": 0, "smallest": 1, "largest": 1, "alignment": 1, "distance": 0}
    assert numbers(certify(x, q)) == pytest.approx(perfect, abs=1e-9)
    # One direction too many is as far away as it is long.
    u, _, vh = torch.linalg.svd(q)
    more = q + 1.5 * u[:, rank : rank + 1] @ vh[rank : rank + 1]
    for resolution in (0.0, 0.1):
        found = numbers(certify(x, more, resolution=resolution))
        wanted = {**perfect, "largest": 1.5, "distance": 1.5 / math.sqrt(rank)}
        assert found == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("exact", [True, False])
def test_a_zero_matrix(exact: bool) -> None:
    x = torch.zeros(3, 5)
    found = certify(x, x, exact=exact)
    assert [float(found.alignment.lower), float(found.alignment.upper)] == [1.0, 1.0]
    assert float(found.largest.upper) == 0.0
    for name in ("distance", "orthogonality", "smallest"):
        assert [float(end) for end in getattr(found, name)] == [0.0, 0.0], name
    other = certify(x, torch.ones(3, 5), exact=exact)
    assert [float(end) for end in other.distance] == pytest.approx([15**0.5] * 2)
    assert [float(end) for end in other.smallest] == [0.0, 0.0]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("c", [2.0**-900, 2.0**900])
def test_scale_free(exact: bool, c: float) -> None:
    x = with_spectrum(log_spaced(9.0, 4), 4, 6)
    q = perturbed(x, 0.01, seed=1)
    a, b = certify(x, q, exact=exact), certify(c * x, q, exact=exact)
    for name in NUMBERS:
        assert torch.equal(getattr(a, name).upper, getattr(b, name).upper)
        assert torch.equal(getattr(a, name).lower, getattr(b, name).lower)


@pytest.mark.parametrize("exact", [True, False])
def test_a_batch_is_its_members(exact: bool) -> None:
    x = torch.randn(2, 3, 4, 6, dtype=torch.complex64)
    x[0, 1], x[1, 2, 2:] = 0, 0
    q = Svd()(x) + 0.01 * torch.randn(2, 3, 4, 6)
    found = certify(x, q, exact=exact)
    for i, j in members(2, 3):
        alone = certify(x[i, j], q[i, j], exact=exact)
        for name in NUMBERS:
            for whole, single in zip(getattr(found, name), getattr(alone, name), strict=True):
                assert whole.shape == (2, 3)
                torch.testing.assert_close(whole[i, j], single)


def members(*shape: int) -> Iterator[tuple[int, ...]]:
    yield from torch.cartesian_prod(*map(torch.arange, shape)).tolist()


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 4, 0)], ids=str)
def test_nothing_to_certify(shape: tuple[int, ...]) -> None:
    found = certify(torch.zeros(shape), torch.zeros(shape))
    assert all(getattr(found, n).lower.shape == shape[:-2] for n in NUMBERS)
    assert "no matrices" in str(found) or float(found.alignment.lower.min()) == 1.0


def test_large_matrices_get_bounds_unless_told_otherwise() -> None:
    x = torch.eye(513, 514)
    assert not certify(x, x).exact
    assert certify(x[:512], x[:512]).exact
    assert certify(x, x, resolution=0.5).exact


def test_the_text_is_the_hull_over_the_batch() -> None:
    x = torch.eye(2).expand(2, 2, 2)
    text = str(certify(x, x * torch.tensor([0.9, 1.1]).reshape(2, 1, 1)))
    assert text.splitlines()[0] == "polar factor, exact"
    assert "smallest       0.9 … 1.1" in text


@pytest.mark.parametrize(
    ("x", "q", "more", "parts"),
    [
        (torch.eye(2), torch.ones(2, 3), {}, ["q='2×3'", "2×2"]),
        (torch.eye(2), [[1.0, 0.0], [0.0, 1.0]], {}, ["q='list'", "give a tensor"]),
        (torch.eye(2), torch.eye(2, device="meta"), {}, ["q=device", "device of x, cpu"]),
        (torch.ones(3), torch.ones(3), {}, ["x='3 torch.float32'", "m, n"]),
        (torch.full((2, 2), math.nan), torch.eye(2), {}, ["x='non-finite"]),
        (torch.eye(2), torch.full((2, 2), math.inf), {}, ["q='non-finite"]),
        (torch.eye(2), torch.eye(2), {"resolution": 1.0}, ["resolution=1.0"]),
        (torch.eye(2), torch.eye(2), {"resolution": 0.1, "exact": False}, ["exact=True"]),
    ],
    ids=["shapes", "list", "device", "vector", "nan", "inf", "resolution", "resolution of bounds"],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_wrong_is_named(x: Tensor, q: Tensor, more: dict, parts: list[str]) -> None:
    with pytest.raises(ValueError, match=parts[0]) as error:
        certify(x, q, **more)
    assert all(part in str(error.value) for part in parts), error.value
