"""Every law in the docstring of `Norm`, for every norm and its dual."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest import norms
from steepest.norms import Coupling, MaxOf, Norm, ProductNorm, SumOf
from steepest.testing import norms as laws
from steepest.testing._tensors import assert_close, each, inner, leaves, length
from tests.matrices import orthonormal
from tests.norms.suite import (
    ALL,
    GENERIC,
    PLANNED,
    PRODUCTS,
    SINGLE,
    TABLE,
    draws,
    examples,
    over,
    tensors,
)

NO_NORMS = {
    "Norm",
    "ProductNorm",
    "UnitarilyInvariantNorm",
    "Geometry",
    "Coupling",
    "MatrixShape",
    "parse_norm",
    "ShapeFactor",
}
NO_NORMS |= {"BlockLayout", "estimate"}
NO_NORMS |= {"PairNorm"}  # of two tensors at a point: its laws are in test_pair.py
DOUBLE = draws(kinds=("gaussian",), dtypes=(torch.float64, torch.complex128))


def test_the_table_is_complete():
    public = {n for n, v in vars(norms).items() if inspect.isclass(v) or inspect.isfunction(v)}
    assert {c.make.__name__ for c in TABLE} == public - NO_NORMS
    assert len({c.name for c in ALL}) == len(ALL)
    assert all(isinstance(c.norm, Norm) for c in SINGLE)
    assert all(isinstance(c.norm, ProductNorm) for c in PRODUCTS)


@over(ALL)
@examples(ALL, part=10)
@given(draw=draws(), factor=st.floats(0.01, 100))
def test_it_is_a_norm(case, draw, factor):
    """n(x) > 0 unless x = 0, n(c·x) = |c|·n(x), n(x + y) ≤ n(x) + n(y)."""
    x, y = tensors(case, draw), tensors(case, draw, salt=1)
    c = factor * (0.6 - 0.8j) if draw.dtype.is_complex else -factor
    laws.is_a_norm(case.norm, x, y, c, case.loose * draw.rtol)


@over(ALL)
@examples(ALL, part=10)
@given(draw=draws())
def test_duality(case, draw):
    """⟨g, x⟩ ≤ n(x)·n.dual(g), with equality at x = dualize(g), whose norm is 1."""
    g, x = tensors(case, draw), tensors(case, draw, salt=1, kind="gaussian")
    laws.is_dual(case.norm, g, x, case.loose * draw.rtol)


@over(ALL)
@examples(ALL, part=25)
@given(draw=draws())
def test_sharp_operator(case, draw):
    """⟨g, g^♯⟩ = n(g^♯)² = n.dual(g)², and g^♯ = n.dual(g)·dualize(g)."""
    laws.has_a_sharp_operator(case.norm, tensors(case, draw), 3 * case.loose * draw.rtol)


@over(ALL)
def test_dual_of_the_dual_is_the_norm(case):
    """Exactly; of a modular norm it is the maximum over its blocks, as a plain `MaxOf`."""
    again = case.norm.dual.dual
    assert again == (MaxOf(case.norm.blocks) if isinstance(case.norm, norms.Modular) else case.norm)
    assert hash(case.norm.dual) == hash(again.dual)


def check_projection(case, draw, fraction):
    x, z = tensors(case, draw), tensors(case, draw, salt=1, kind="gaussian")
    laws.projects(case.norm, x, z, fraction, 3 * case.loose * draw.rtol)


FRACTIONS = st.sampled_from((0.0, 0.05, 0.5, 0.95, 2.0))


@over([c for c in ALL if c.costly == 1])
@examples([c for c in ALL if c.costly == 1])
@given(draw=draws(), fraction=FRACTIONS)
def test_projection(case, draw, fraction):
    """p = x inside; else n(p) = r, ⟨x − p, p⟩ = r·n.dual(x − p), and no point is nearer."""
    check_projection(case, draw, fraction)


@pytest.mark.parametrize("part", sorted({c.costly for c in ALL} - {1}))
@given(data=st.data())
@settings(max_examples=1)
def test_costly_projection(part, data):
    """The same where a root is searched for: fewer examples."""
    for case in (c for c in ALL if c.costly == part):
        for _ in range(max(1, settings.default.max_examples // (5 * part))):
            check_projection(case, data.draw(draws()), data.draw(FRACTIONS))


@over(ALL)
@examples(ALL, part=25)
@given(draw=GENERIC)
def test_initialisation(case, draw):
    """Norm 1, and repeatable by a generator."""
    norm = case.norm
    like = tensors(case, draw)
    shape = tuple(like.shape) if case in SINGLE else {k: tuple(t.shape) for k, t in like.items()}

    def made():
        generator = torch.Generator().manual_seed(draw.seed)
        return norm.init(shape, generator=generator, dtype=draw.dtype)

    x = made()
    assert_close(norm(x), 1, within=case.loose * draw.rtol)
    for one, two, t in zip(leaves(x), leaves(made()), leaves(like), strict=True):
        assert torch.equal(one, two)
        assert one.shape == t.shape and one.dtype == draw.dtype


BATCHED = [c for c in SINGLE if getattr(c.norm, "dims", (0,)) and "dims=0" not in c.name]


@over(BATCHED)
@examples(BATCHED, part=50)
@given(draw=GENERIC, fraction=FRACTIONS)
def test_a_batch_is_its_members(case, draw, fraction):
    if getattr(getattr(case.norm, "norm", case.norm), "dims", 0) is None:
        return  # a vector norm of the whole tensor has no batch
    members = [tensors(case, draw, salt=i) for i in range(3)]
    rtol = 10 * case.loose * draw.rtol
    laws.batches(case.norm, members, fraction, rtol, project=case.costly == 1)


@over(ALL)
@examples(ALL, part=25)
@given(draw=DOUBLE)
def test_gradient_of_the_dual_is_the_duality_map(case, draw):
    laws.dual_has_its_gradient(case.norm, tensors(case, draw))


@over(ALL)
@examples(ALL, part=10)
@given(draw=draws())
def test_gradient_is_finite(case, draw):
    """Also where the norm has no derivative: at zero, and where singular values tie."""
    laws.has_finite_gradients(case.norm, tensors(case, draw))


@over(ALL)
@examples(ALL, part=25)
@given(
    draw=draws(
        dtypes=(torch.bfloat16, torch.float16, torch.float32, torch.complex64), exponents=(-4, 4)
    ),
    strided=st.booleans(),
)
def test_types_and_memory(case, draw, strided):
    """Results have type and shape of the input, own their memory and leave it alone."""
    norm, x = case.norm, tensors(case, draw)
    if strided:
        x = each(lambda t: t.movedim(0, -1).contiguous().movedim(-1, 0) if t.ndim else t, x)
    value = norm(x)
    assert value.dtype == torch.float32
    laws.leaves_its_input_alone(norm, x, project=case.costly <= 10)
    # Half precision is computed in single: only the result is rounded.
    wide = each(lambda t: t if t.is_complex() else t.float(), x)
    assert_close(value, norm(wide), within=1e-6 * case.loose * norm(wide))
    unit = norm(norm.dualize(x))
    assert_close(unit, length(norm, wide) > 0, within=case.loose * 3e-5 + 2e-2 * (wide is not x))


def other_than(case, g, index):
    """The duality map before and after a change at `index`, and which entries are elsewhere."""
    elsewhere = torch.ones_like(g, dtype=torch.bool)
    elsewhere[index] = False
    changed = torch.where(elsewhere, g, -3 * g.flip(-1 if g.ndim else ()) - g)
    before, after = case.norm.dualize(g), case.norm.dualize(changed)
    return before[elsewhere], after[elsewhere]


@over(SINGLE)
@examples(SINGLE, part=10)
@given(draw=GENERIC)
def test_couples_is_what_the_duality_map_sees(case, draw):
    g = tensors(case, draw)
    axes = case.norm.axes or min(g.ndim, 2)
    couples = case.norm.couples
    if couples is Coupling.SCALAR and case.norm.axes:
        g = g.reshape(-1, *g.shape[-2:])[0]  # one number for each matrix
    if couples is not Coupling.SCALAR and axes < 2:
        return
    first = g.ndim - axes
    index = [slice(None)] * g.ndim
    for axis in {Coupling.ROWS: [0], Coupling.COLUMNS: [1]}.get(couples, range(axes)):
        index[first + axis] = draw.seed % g.shape[first + axis]
    before, after = other_than(case, g, tuple(index))
    if couples in (Coupling.ENTRIES, Coupling.ROWS, Coupling.COLUMNS):
        assert_close(length(norms.L2(), before - after), 0, within=1e-6) if len(before) else None
    if couples is Coupling.SCALAR and len(before):
        plain = norms.L2()
        a, b = length(plain, before), length(plain, after)
        assert_close(inner(plain, before, after), a * b, within=draw.rtol * a * b)


@pytest.mark.parametrize(
    ("norm", "couples"),
    [
        (norms.LInf(), Coupling.ENTRIES),
        (norms.Operator(1, float("inf")), Coupling.ENTRIES),
        (norms.L2(), Coupling.SCALAR),
        (norms.Frobenius(), Coupling.SCALAR),
        (norms.RowNorm(), Coupling.ROWS),
        (norms.L2(dims=-1), Coupling.ROWS),
        (norms.Operator(1, "rms"), Coupling.COLUMNS),
        (norms.Spectral(), Coupling.MATRIX),
        (norms.RowNorm().dual, Coupling.MATRIX),
        (norms.Conv(), Coupling.MATRIX),
    ],
    ids=str,
)
def test_couples_is_no_more_than_that(norm, couples):
    assert norm.couples is couples


@over([c for c in SINGLE if c.norm.symmetric])
@given(draw=GENERIC)
@settings(max_examples=5)
def test_symmetric_commutes_with_transposition(case, draw):
    x = tensors(case, draw)
    if x.ndim < 2:
        return
    norm, rtol = case.norm, case.loose * draw.rtol
    assert_close(norm(x.mT), norm(x), within=rtol * norm(x))
    t = norm.dualize(x)
    assert_close(length(norm, norm.dualize(x.mT).mT - t), 0, within=1e3 * rtol * length(norm, t))


def test_symmetric_is_said_where_it_holds():
    """An optimizer may transpose a matrix for speed only under these norms."""
    assert all(c.norm.symmetric for c in SINGLE if c.keeps == "unitary" and "rms" not in c.name)
    assert norms.RMS().symmetric and norms.Lp(3).symmetric
    for norm in (norms.Operator("rms", "rms"), norms.Operator(2, "rms"), norms.RowNorm()):
        x = torch.randn(3, 5)
        assert not norm.symmetric
        assert not torch.isclose(norm(x), norm(x.mT))


def moved(case, x, seed):
    """`x` after a transformation that the norm does not notice."""
    generator = torch.Generator().manual_seed(seed)
    if case.keeps == "entries":
        return x.flatten()[torch.randperm(x.numel(), generator=generator)].reshape(x.shape)
    axis = x.ndim - (case.norm.axes or 2)
    m, n = x.shape[axis : axis + 2]
    if case.keeps == "unitary":
        return orthonormal(m, m, x.dtype, seed) @ x @ orthonormal(n, n, x.dtype, seed + 1)
    rows, cols = torch.randperm(m, generator=generator), torch.randperm(n, generator=generator)
    return x.index_select(axis, rows).index_select(axis + 1, cols)


KEEPING = [c for c in SINGLE if c.keeps != "none"]


@over(KEEPING)
@examples(KEEPING, part=10)
@given(draw=DOUBLE)
def test_invariance(case, draw):
    """n(A·x·B) = n(x), dualize(A·x·B) = A·dualize(x)·B and P(A·x·B) = A·P(x)·B."""
    norm, x = case.norm, tensors(case, draw)
    y = moved(case, x, draw.seed % 10**6)
    value = norm(x)
    assert_close(norm(y).sort().values, value.sort().values, within=1e-10 * value.max() + 1e-300)
    t = moved(case, norm.dualize(x), draw.seed % 10**6)
    assert_close(length(norm, norm.dualize(y) - t), 0, within=1e-6 * length(norm, t))
    if case.costly == 1:
        p = moved(case, norm.project(x, value.min() / 2), draw.seed % 10**6)
        gap = length(norm, norm.project(y, value.min() / 2) - p)
        assert_close(gap, 0, within=1e-6 * length(norm, y))


def test_equal_norms_compare_equal():
    inf = float("inf")
    assert norms.Schatten(2) == norms.Frobenius() and norms.Schatten(inf) == norms.Spectral()
    assert norms.Lp(2) == norms.L2() and norms.Lp(3).dual == norms.Lp(1.5)
    assert norms.Operator(1, 2) == norms.ColumnNorm() and norms.Operator(2, inf) == norms.RowNorm()
    assert norms.KyFan(2) != norms.KyFan(3) and norms.L2() != norms.L2(dims=-1)
    blocks = {"a": norms.L1()}
    assert MaxOf(blocks) == SumOf({"a": norms.LInf()}).dual != SumOf(blocks)


def test_there_are_enough_cases():
    """At least 2 000 generated inputs by default, 20 000 in the nightly profile."""
    assert sum(cases * count for cases, count in PLANNED) >= 40 * settings.default.max_examples
