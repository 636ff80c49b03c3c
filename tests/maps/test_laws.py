"""Every law in the docstring of `ConvexMap`, for every map of the table."""

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest import maps, norms
from steepest.norms import Coupling
from steepest.polar import Auto, GramEigh
from steepest.testing import convex as laws
from steepest.testing._tensors import assert_close
from steepest.testing.convex import size
from tests.maps.suite import (
    DOUBLE,
    GENERIC,
    NAMESPACE,
    NEAR,
    NORM_MAPS,
    NORMS,
    TABLE,
    over,
)
from tests.norms.suite import draws, tensors

# What a map is made of, and is tested through the maps made of it.
PARTS = {"ConvexMap", "Scalar", "Basis", "Entries", "Rows", "Columns", "Singular"}
PARTS |= {"Modulus", "Square", "Root", "Clip", "Dead", "Weighted"}

# Of each law and map: 3 in the default profile, 62 in the nightly one.
FEW = settings.default.max_examples // 16


def test_the_table_is_complete():
    public = {n for n, v in vars(maps).items() if inspect.isclass(v) or inspect.isfunction(v)}
    assert {c.make.__name__ for c in TABLE} == public - PARTS
    assert len({c.name for c in TABLE}) == len(TABLE)
    assert all(isinstance(c.map, maps.ConvexMap) for c in TABLE)


@over(TABLE)
@settings(max_examples=FEW)
@given(draw=NEAR, t=st.floats(0, 1))
def test_convex_even_and_smallest_at_zero(case, draw, t):
    x, z = tensors(case, draw), tensors(case, draw, salt=1, kind="gaussian")
    laws.is_convex_and_even(case.map, x, z, t, case.loose * draw.rtol)


@over(TABLE)
@settings(max_examples=FEW)
@given(draw=NEAR, size_of_step=st.sampled_from((1e-3, 1.0, 30.0)))
def test_subgradient(case, draw, size_of_step):
    """K(z) ≥ K(x) + ⟨∇K(x), z − x⟩, and ∇K(0) = 0."""
    x = tensors(case, draw)
    z = x + size_of_step * tensors(case, draw, salt=1, kind="gaussian")
    laws.has_subgradients(case.map, x, z, 10 * case.loose * draw.rtol)


@over(TABLE)
@settings(max_examples=FEW)
@given(draw=GENERIC)
def test_gradient_by_differences_and_by_autograd(case, draw):
    laws.has_gradients(case.map, tensors(case, draw), tensors(case, draw, salt=2), case.loose)


@over(TABLE)
@settings(max_examples=FEW)
@given(draw=DOUBLE, fraction=st.floats(0, 1))
def test_fenchel_young(case, draw, fraction):
    """K(x) + K*(y) ≥ ⟨y, x⟩ for every y, with equality for y = ∇K(x)."""
    K, x = case.map, tensors(case, draw)
    other = tensors(case, draw, salt=3, kind="gaussian")
    if K.domain is not None:
        other = K.broadcast(fraction / K.domain(other), other) * other
    laws.is_conjugate(K, x, other, case.loose)


@over([c for c in TABLE if c.map.domain is not None])
@settings(max_examples=FEW)
@given(draw=draws(kinds=("gaussian",), exponents=(-1, 1)))
def test_conjugate_is_infinite_outside_the_domain(case, draw):
    K, y = case.map, tensors(case, draw)
    y = K.broadcast(1 / K.domain(y), y) * y
    eps = torch.finfo(y.dtype).eps
    assert bool(K.conjugate(y).isfinite().all())
    assert bool(K.conjugate(0.999 * y, tolerance=0.0).isfinite().all())
    assert bool((K.conjugate((1 + 500 * eps) * y) == math.inf).all())
    assert bool((K.conjugate(1.1 * y) == math.inf).all())
    assert bool(K.conjugate(1.1 * y, tolerance=0.11).isfinite().all())
    # Twice as far in the direction that the ball excludes, the maximum is twice as large.
    x = K.domain.dual.dualize(1.1 * y) if K.domain.axes == K.axes else y
    gains = [K.inner(1.1 * y, r * x) - K.value(r * x) for r in (1e2, 1e3)]
    assert bool((gains[1] > 5 * gains[0]).all()) and bool((gains[0] > 0).all())


@over([c for c in TABLE if c.map.domain is None])
def test_without_a_domain_everything_is_allowed(case):
    x = torch.full((3, 3), 1e3)
    assert bool(case.map.conjugate(x).isfinite().all())
    assert not bool(case.map.violation(x, 1.0).any())
    assert case.map.gradient_bound(3, 3, torch.float32) == math.inf


@over(TABLE)
@settings(max_examples=FEW)
@given(draw=NEAR)
def test_gradients_stay_in_the_domain(case, draw):
    K, x = case.map, tensors(case, draw)
    if K.domain is None:
        return
    laws.keeps_to_its_domain(K, x, draw.rtol)
    rows, cols, _ = K.matrix_shape(x)
    assert K.gradient_bound(rows, cols, x.dtype) <= (2.1 if case.loose > 1 else 1)
    if case in NORM_MAPS:
        assert_close(K.domain(K.grad(x)), size(K, x) > 0, within=case.loose * draw.rtol)


EXTREME = (5e-324, 1e-46, 1e-39, 1e-37, 8e37)


@pytest.mark.parametrize("delta", EXTREME)
@pytest.mark.parametrize("polar", [None, GramEigh(), Auto(error=0.05)], ids=repr)
def test_a_delta_near_the_ends_of_the_type(delta, polar):
    """Fenchel and Young in float32, for entries of the size of δ and for 0."""
    eye, rtol = torch.eye(2), 1e-6 if polar is None else 0.06
    for make in (maps.Huber, maps.SmoothL1, maps.DeadZone):
        hold_to_the_laws(make(delta), delta, torch.tensor([delta, -1.0]), 1e-6)
    for make in (maps.SpectralHuber, maps.SmoothNuclear, maps.SpectralDeadZone):
        K = make(delta, polar=polar)
        hold_to_the_laws(K, delta, eye, rtol)
        if delta < 1:  # with a large one the conjugate of the sum magnifies the rounding of y
            hold_to_the_laws(K + 0.5 * make(1.0, polar=polar), 1.0, eye, rtol)


def hold_to_the_laws(K, delta, x, rtol):
    """At x and at 0. An error e of y is one of about δ·e in the conjugate."""
    g = K.grad(x)
    assert not bool(K.grad(0 * x).any())
    assert bool(g.isfinite().all()) and K.domain(g) <= K.gradient_bound(2, 2, x.dtype) + rtol
    for z, y in ((x, g), (0 * x, 0 * x)):
        value, conjugate, product = K.value(z), K.conjugate(y, tolerance=0.1), K.inner(y, z)
        within = rtol * (1 + delta + value.double().abs())
        assert abs(value.double() + conjugate.double() - product.double()) <= within


def test_the_default_tolerance_is_wider_than_rounding():
    """Gradients of float32 and half precision in large matrices count as inside."""
    for K in (maps.NuclearMap(), maps.SmoothNuclear(1e-6), maps.SchattenMap(4), maps.GroupRows()):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            x = torch.randn(96, 128, generator=torch.Generator().manual_seed(1)).to(dtype)
            assert bool(K.conjugate(K.grad(x)).isfinite())


@over(TABLE)
@settings(max_examples=FEW)
@given(draw=GENERIC, weight_decay=st.floats(0.1, 10))
def test_violation_is_the_distance_in_the_norm_of_the_domain(case, draw, weight_decay):
    K, x = case.map, tensors(case, draw)
    if K.domain is None:
        return
    edge = K.broadcast(1 / (weight_decay * K.domain(x)), x) * x
    ball = torch.tensor(1 / weight_decay, dtype=torch.float64)
    assert_close(K.violation(1.5 * edge, weight_decay), ball / 2, within=1e-9 * ball)
    assert not bool(K.violation((1 - 1e-9) * edge, weight_decay).any())


def test_violation_takes_one_number_in_a_tensor():
    x = 3 * torch.eye(2)
    for decay in (torch.tensor(0.5), torch.tensor([0.5]), torch.tensor(0.5).half()):
        assert float(maps.NuclearMap().violation(x, decay)) == 1
        assert float(maps.HalfSquare().violation(x, decay)) == 0


@over(TABLE)
def test_multiples_and_sums_of_one_map(case):
    """K·2 = 2·K = K + K = sum of both, and half of it is K again."""
    K = case.map
    assert K * 2.0 == 2.0 * K == K + K == sum([K, K])
    assert 0.5 * (K + K) == sum([0.25 * K, 0.75 * K]) == K
    x = torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    if (K.axes or 2) == 2:
        x = x[0]
    assert_close((K + K).value(x), 2 * K.value(x), within=1e-12 * K.value(x))
    assert_close(size(K, (K + K).grad(x) - 2 * K.grad(x)), 0, within=1e-12 * size(K, x))


@over(NORM_MAPS)
@settings(max_examples=FEW)
@given(draw=draws(exponents=(-100, 100), dtypes=(torch.float32, torch.complex64)))
def test_the_scale_of_a_norm_makes_no_difference(case, draw):
    """2^±100 is 1e±30."""
    K, x = case.map, tensors(case, draw)
    unit = 2.0**-draw.exponent
    g, plain = K.grad(x), K.grad(x * unit)
    assert_close(size(K, g - plain), 0, within=1e-6)
    assert_close(K.value(x) * unit, K.value(x * unit), within=1e-6 * K.value(x * unit))


@over(TABLE)
@settings(max_examples=FEW)
@given(draw=draws(kinds=("gaussian", "zero"), dtypes=(torch.float32,)))
def test_no_scale_gives_what_is_no_number(case, draw):
    """δ need not have the size of the gradient."""
    K, x = case.map, tensors(case, draw)
    if K.domain is not None and not (case.loose > 1 and draw.exponent < -90):
        assert bool(torch.isfinite(K.grad(x)).all())
        assert bool(torch.isfinite(K.value(x)).all())


@over(TABLE)
@settings(max_examples=FEW)
@given(
    draw=draws(
        kinds=("gaussian", "low rank", "zero"),
        dtypes=(torch.bfloat16, torch.float16, torch.float32, torch.complex64),
        exponents=(-2, 2),
    ),
    strided=st.booleans(),
)
def test_types_and_memory(case, draw, strided):
    """Results have type and shape of the input, own their memory and leave it alone."""
    K, x = case.map, tensors(case, draw)
    if strided and x.ndim:
        x = x.movedim(0, -1).contiguous().movedim(-1, 0)
    laws.leaves_its_input_alone(K, x)
    value, g = K.value(x), K.grad(x)
    assert value.dtype == K.conjugate(g, tolerance=2.0).dtype == torch.float32
    # Half precision is computed in single: only the result is rounded.
    wide = x if x.is_complex() else x.float()
    assert_close(value, K.value(wide), within=1e-6 * K.value(wide))
    rounding = torch.finfo(x.dtype).eps if wide is not x else 0.0
    exact = K.grad(wide)
    assert_close(size(K, g - exact), 0, within=rounding * size(K, exact))


BATCHED = [c for c in TABLE if c.map.axes is not None or getattr(c.norm, "dims", None)]


@over(BATCHED)
@settings(max_examples=FEW)
@given(draw=GENERIC)
def test_a_batch_is_its_members(case, draw):
    K = case.map
    members = [tensors(case, draw, salt=i) for i in range(3)]
    x = torch.stack(members)
    g, together = K.grad(x), K.grad_all([x, *members])
    assert torch.equal(together[0], g)
    for i, member in enumerate(members):
        assert_close(K.value(x)[i], K.value(member), within=1e-9 * K.value(member))
        conjugates = [K.conjugate(y, tolerance=0.1) for y in (g[i], K.grad(member))]
        assert_close(*conjugates, within=1e-7 * case.loose)
        for other in (K.grad(member), together[1 + i]):
            assert_close(size(K, g[i] - other), 0, within=1e-7 * case.loose * size(K, other))


@over([c for c in TABLE if c.map.symmetric])
@settings(max_examples=FEW)
@given(draw=GENERIC)
def test_symmetric_commutes_with_transposition(case, draw):
    K, x = case.map, tensors(case, draw)
    if x.ndim < 2:
        return
    assert_close(K.value(x.mT), K.value(x), within=1e-9 * K.value(x))
    g = K.grad(x)
    gap = K.grad(x.mT).mT - g
    assert_close(torch.linalg.vector_norm(gap), 0, within=1e-7 * case.loose * float(g.abs().sum()))


def test_what_an_optimizer_reads():
    assert maps.L1Map().couples is maps.Huber(1.0).couples is Coupling.ENTRIES
    assert maps.GroupRows().couples is Coupling.ROWS
    assert (maps.GroupColumns() + maps.HalfSquare()).couples is Coupling.COLUMNS
    assert maps.SchattenMap(2).couples is Coupling.SCALAR
    assert maps.SpectralHuber(1.0).couples is maps.TopK(2).couples is Coupling.MATRIX
    assert (
        maps.L1Map().axes is None and maps.HalfSquare().axes is None and maps.NuclearMap().axes == 2
    )
    assert maps.L1Map().symmetric and maps.SmoothNuclear(0.1).symmetric
    assert not maps.GroupRows().symmetric and not maps.Huber(1.0, dims=-1).symmetric


@over(TABLE)
def test_it_prints_as_an_expression_that_makes_it(case):
    text = repr(case.map)
    inside = text.removeprefix("FromNorm(").removesuffix(")")
    # The argument of FromNorm is an expression of norms, some of which have the names of maps.
    named = text.startswith("FromNorm(")
    again = maps.FromNorm(eval(inside, NORMS)) if named else eval(text, NAMESPACE)
    assert again == case.map and hash(again) == hash(case.map)
    assert [c for c in TABLE if c.map == case.map] == [case]


def test_with_polar():
    """By another method, where the map has a use for one."""
    method = GramEigh()
    for K in (
        maps.NuclearMap(),
        maps.TopK(2),
        maps.SmoothNuclear(0.1),
        2.0 * maps.SpectralHuber(1.0),
    ):
        by = K.with_polar(method)
        assert K.polar is None and by.polar is method and by != K == by.with_polar(None)
        assert by.domain.polar is method
    for K in (maps.L1Map(), maps.GroupRows(), maps.SchattenMap(2), maps.HalfSquare()):
        assert K.with_polar(method) == K


def test_equal_maps_compare_equal():
    assert maps.FromNorm(norms.L1()) == maps.L1Map() and maps.SchattenMap(1) == maps.NuclearMap()
    assert maps.FromNorm(norms.RowNorm().dual) == maps.GroupRows() != maps.GroupColumns()
    assert maps.FromNorm(norms.Scaled(norms.Nuclear(), 3)) == 3 * maps.NuclearMap()
    assert maps.L1Map() + maps.L1Map() == 2 * maps.L1Map() and 0.5 * (
        2 * maps.Huber(1)
    ) == maps.Huber(1)
    one, other = maps.SmoothL1(0.5), 3 * maps.DeadZone(2)
    assert one + other == other + one and hash(one + other) == hash(other + one)
    assert 2 * (3 * maps.SchattenMap(4)) == 6 * maps.SchattenMap(4) != maps.SchattenMap(4)
    assert maps.Huber(0.5) != maps.Huber(0.25) and maps.L1Map() != maps.L1Map(dims=-1)
