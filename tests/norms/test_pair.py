"""The norm of a pair of factors: its laws, at factors of every size and rank."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from steepest.norms import PairNorm
from steepest.norms.pair import FLOOR, STEPS, inverse_root
from steepest.polar import Auto, GramNewtonSchulz, polar_factor

KINDS = ("usual", "short B", "long B", "B = 0", "A = 0", "lower rank", "nearly lower rank", "alike")


def spectral(x: Tensor) -> float:
    return float(torch.linalg.matrix_norm(x, 2))


@st.composite
def points(draw, kinds=KINDS):
    """Factors, a gradient of the product, a scale and a length."""
    seed = draw(st.integers(0, 2**32 - 1))
    r, m, n = (draw(st.integers(1, size)) for size in (5, 7, 7))
    generator = torch.Generator().manual_seed(seed)
    a, b, g = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((r, n), (m, r), (m, n))
    )
    match draw(st.sampled_from(kinds)):
        case "short B":
            b *= 1e-8
        case "long B":
            b *= 1e8
        case "B = 0":
            b *= 0
        case "A = 0":
            a *= 0
        case "lower rank":
            b[:, r // 2 :] = 0
        case "nearly lower rank":
            b[:, r // 2 :] *= 1e-5
            a[: r // 2] *= 1e-4
        case "alike":
            g = b @ a
    scale = draw(st.sampled_from([0.25, 1.0, 16.0]))
    length = draw(st.sampled_from([0.0, 1e-6, 0.1, 30.0]))
    return a, b, g, scale, length


def gradients(a: Tensor, b: Tensor, g: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return scale * b.mT @ g, scale * g @ a.mT


@given(points())
def test_a_step_moves_the_product_by_no_more_than_its_bound(point) -> None:
    a, b, g, scale, length = point
    length = length or 0.1
    x, y = PairNorm(a, b, scale, length).dualize(*gradients(a, b, g, scale))
    before, after = scale * b @ a, scale * (b - length * y) @ (a - length * x)
    # Of a long product the difference has the rounding of its size.
    rounding = 1e-13 * (spectral(before) + scale * spectral(a) * spectral(b))
    assert spectral(after - before) <= (1 + 2**0.5) / 2 * length * (1 + 1e-9) + rounding
    assert x.isfinite().all() and y.isfinite().all()


def test_the_bound_is_nearly_reached_and_needs_its_term() -> None:
    g = torch.eye(3, dtype=torch.float64)
    a, b = torch.eye(3, dtype=torch.float64), 0.05 * torch.eye(3, dtype=torch.float64)

    def moved(length: float, counted: float) -> float:
        x, y = PairNorm(a, b, 1.0, counted).dualize(*gradients(a, b, -g, 1.0))
        return spectral((b - length * y) @ (a - length * x) - b @ a) / length

    assert moved(0.1, 0.1) == pytest.approx((1 + 2**0.5) / 2, rel=1e-3)
    assert moved(0.1, 0.0) == pytest.approx(1.5, rel=1e-3)
    assert moved(1.0, 0.0) > 5
    b *= 1e-3
    assert moved(0.1, 0.0) > 100 and moved(0.1, 0.1) < 1.2


@given(points(), st.integers(0, 2**32 - 1))
def test_it_is_a_norm_above_what_the_product_changes(point, seed) -> None:
    a, b, _, scale, length = point
    n = PairNorm(a, b, scale, length)
    generator = torch.Generator().manual_seed(seed)
    x, y, v, w = (
        torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in (a, b, a, b)
    )
    size = float(n(x, y))
    assert scale * spectral(b @ x + y @ a) <= size * (1 + 1e-9)
    assert float(n(-3 * x, -3 * y)) == pytest.approx(3 * size, rel=1e-9)
    assert float(n(x + v, y + w)) <= (size + float(n(v, w))) * (1 + 1e-9)


@given(points())
def test_the_duality_map_has_norm_one_and_reaches_the_dual_norm(point) -> None:
    a, b, g, scale, length = point
    n = PairNorm(a, b, scale, length)
    ga, gb = gradients(a, b, g, scale)
    x, y = n.dualize(ga, gb)
    dual, inner = float(n.dual(ga, gb)), float((ga * x).sum() + (gb * y).sum())
    assert inner == pytest.approx(dual, rel=1e-6)
    if dual > 0:
        assert float(n(x, y)) == pytest.approx(1, rel=1e-6)
    again = n.dualize(8 * ga, 8 * gb)
    torch.testing.assert_close((x, y), again)


@given(points(), st.integers(0, 2**32 - 1))
def test_no_change_of_norm_one_does_better(point, seed) -> None:
    a, b, g, scale, length = point
    n = PairNorm(a, b, scale, length)
    ga, gb = gradients(a, b, g, scale)
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in (a, b))
    size = float(n(x, y))
    if size > 0:
        inner = float((ga * x).sum() + (gb * y).sum())
        assert inner <= size * float(n.dual(ga, gb)) * (1 + 1e-9)


@pytest.mark.parametrize("length", [0.0, 0.1, 30.0])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("seed", range(5))
def test_another_split_of_the_product_moves_it_in_the_same_way(length, size, seed) -> None:
    """Up to the 1e-5 that are added, which these factors and gradients hardly feel."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(rows: int, cols: int) -> Tensor:
        """A matrix with singular values from 1 to 2."""
        x = torch.randn(rows, cols, generator=generator, dtype=torch.float64)
        u, _, vh = torch.linalg.svd(x, full_matrices=False)
        return u @ torch.linspace(1, 2, min(rows, cols), dtype=torch.float64).diag() @ vh

    a, b, g, turn = drawn(3, 6), size * drawn(5, 3), drawn(5, 6), drawn(3, 3)
    found, by_itself = [], []
    for turned in (torch.eye(3, dtype=torch.float64), turn, 1e3 * turn):
        one, two = turned @ a, b @ torch.linalg.inv(turned)
        ga, gb = gradients(one, two, g, 2.0)
        x, y = PairNorm(one, two, 2.0, length).dualize(ga, gb)
        found.append((two @ x, y @ one))
        by_itself.append(polar_factor(gb) @ one)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=2e-4)
    # Steps of each factor in its own spectral norm depend on the split.
    assert spectral(by_itself[1] - by_itself[0]) > 0.1


def test_b_of_zero_moves_alone_and_by_one_half() -> None:
    torch.manual_seed(0)
    a, b, g = torch.randn(2, 5), torch.zeros(4, 2), torch.randn(4, 5)
    for length in (0.0, 0.1):
        x, y = PairNorm(a, b, 4.0, length).dualize(*gradients(a, b, g, 4.0))
        assert not x.any()
        assert spectral(4.0 * y @ a) == pytest.approx(0.5, rel=1e-3)


def test_each_half_is_one_half_to_first_order() -> None:
    torch.manual_seed(0)
    a, b, g = (torch.randn(s, dtype=torch.float64) for s in ((3, 9), (8, 3), (8, 9)))
    x, y = PairNorm(a, b, 2.0).dualize(*gradients(a, b, g, 2.0))
    halves = torch.cat([torch.linalg.svdvals(2.0 * c)[:3] for c in (b @ x, y @ a)])
    torch.testing.assert_close(halves, torch.full_like(halves, 0.5), rtol=1e-3, atol=0)
    # The formula of the publication, from eigenvalues.
    for root, factor, grad, step in (
        (b.mT @ b, "left", 2.0 * b.mT @ g, x),
        (a @ a.mT, "right", 2.0 * g @ a.mT, y),
    ):
        values, vectors = torch.linalg.eigh(root)
        inverse = vectors @ values.rsqrt().diag() @ vectors.mT
        u, _, vh = torch.linalg.svd(
            inverse @ grad if factor == "left" else grad @ inverse, full_matrices=False
        )
        expected = inverse @ u @ vh if factor == "left" else u @ vh @ inverse
        torch.testing.assert_close(step, expected / 4, rtol=1e-3, atol=1e-4)


def test_batches_types_and_methods() -> None:
    torch.manual_seed(0)
    a, b, g = torch.randn(4, 2, 6), torch.randn(4, 5, 2), torch.randn(4, 5, 6)
    ga, gb = gradients(a, b, g, 1.0)
    x, y = PairNorm(a, b, length=0.1).dualize(ga, gb)
    for i in range(4):
        one = PairNorm(a[i], b[i], length=0.1)
        torch.testing.assert_close(one.dualize(ga[i], gb[i]), (x[i], y[i]))
    assert PairNorm(a, b)(x, y).shape == (4,)
    half = [t.bfloat16() for t in (a, b, ga, gb)]
    assert [t.dtype for t in PairNorm(*half[:2]).dualize(*half[2:])] == [torch.bfloat16] * 2
    near = PairNorm(a, b, polar=Auto(error=1e-3)).dualize(ga, gb)
    exact = PairNorm(a, b).dualize(ga, gb)
    torch.testing.assert_close(near, exact, rtol=0.02, atol=0.02)
    assert PairNorm(a, b, polar=GramNewtonSchulz()).dualize(ga, gb)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("power", [0, 2, 8])
def test_the_inverse_root_by_products(dtype, power) -> None:
    generator = torch.Generator().manual_seed(power)
    q = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0]
    values = torch.logspace(0, -power, 6, dtype=torch.float64).clamp(min=2 * FLOOR)
    x = q @ values.diag() @ q.mT
    expected = q @ values.rsqrt().diag() @ q.mT
    found = inverse_root(x.to(dtype)).double()
    error = spectral(torch.linalg.solve(expected, found) - torch.eye(6, dtype=torch.float64))
    assert error < (1e-9 if dtype == torch.float64 else 5e-3)
    assert not inverse_root(torch.zeros(2, 3, 3, dtype=dtype)).any()


def test_the_number_of_steps_is_derived() -> None:
    value, taken = FLOOR / (1 + FLOOR), 0
    while abs(math.sqrt(value) - 1) > 1e-12:
        value, taken = value * (3 - value) ** 2 / 4, taken + 1
    assert taken == STEPS


def test_what_does_not_fit_is_refused() -> None:
    a, b = torch.ones(2, 5), torch.ones(4, 2)
    for pair in ((b, a), (a, torch.ones(4, 3)), (a, b[0]), (a.expand(3, 2, 5), b)):
        with pytest.raises(ValueError, match="b="):
            PairNorm(*pair)
    with pytest.raises(ValueError, match="scale"):
        PairNorm(a, b, scale=0.0)
    with pytest.raises(ValueError, match="length"):
        PairNorm(a, b, length=-1.0)
