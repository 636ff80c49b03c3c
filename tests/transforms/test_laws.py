"""The laws of maps beside the duality map: a new one is one line in the table."""

import inspect

import pytest
import torch

from steepest import polar_factor, transforms
from steepest.norms import Coupling
from steepest.polar import Auto, Svd
from steepest.transforms import Composed, Transform

MAPS = [
    transforms.Sign(),
    transforms.NormalizedRows(),
    transforms.NormalizedRows(eps=0.1),
    transforms.NormalizedColumns(),
    transforms.NormalizedColumns(eps=0.1),
    transforms.SemiorthogonalNorm(),
    transforms.BalancedRows(),
    transforms.BalancedRows(iterations=4, exponent=0.25, polar=Auto(error=1e-5)),
    transforms.RowSecondMoment(),
    transforms.SecondMoment(beta=0.5, eps=1e-3),
    transforms.GradientSecondMoment(),
    transforms.Eigenbasis(),
    transforms.Eigenbasis(every=2),
    Composed(transforms.Sign(), transforms.SecondMoment(), transforms.RowSecondMoment()),
    Composed(transforms.GradientSecondMoment(), transforms.NormalizedRows()),
]
every_map = pytest.mark.parametrize("map", MAPS, ids=repr)
every_shape = pytest.mark.parametrize(
    "shape", [(3, 4, 6), (3, 6, 4), (2, 5, 5), (1, 1, 4)], ids=str
)


def new_state(map, x):
    """Zeros for a stack."""
    shapes = map.state_shapes(*x.shape[-2:])
    return {name: torch.zeros(len(x), *shape, dtype=x.dtype) for name, shape in shapes.items()}


def stack(shape, seed, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def steps(map, shape, *, count=3, pick=slice(None), dtype=torch.float64):
    """The results of some steps, for some of the matrices of a stack."""
    state, found = new_state(map, stack(shape, 0, dtype)[pick]), []
    for step in range(count):
        if map.observes:
            map.observe(stack(shape, 100 + step, dtype)[pick], state)
        found.append(map(stack(shape, step, dtype)[pick], state))
    return found


def test_the_table_is_complete():
    public = {m for _, m in inspect.getmembers(transforms, inspect.isclass)} - {Transform}
    assert {type(map) for map in MAPS} == {m for m in public if issubclass(m, Transform)}


@every_map
@every_shape
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_shape_and_type_are_kept_and_nothing_is_written_to(map, shape, dtype):
    x = stack(shape, 0, dtype)
    copy, state = x.clone(), new_state(map, x)
    if map.observes:
        gradient = stack(shape, 1, dtype)
        seen = gradient.clone()
        map.observe(gradient, state)
        assert torch.equal(gradient, seen)
    for _ in range(3):
        y = map(x, state)
        assert (y.shape, y.dtype) == (x.shape, x.dtype) and bool(y.isfinite().all())
    assert torch.equal(x, copy)


@every_map
@every_shape
def test_a_matrix_does_not_depend_on_its_neighbours(map, shape):
    for i in range(shape[0]):
        alone = steps(map, shape, pick=slice(i, i + 1))
        for one, together in zip(alone, steps(map, shape), strict=True):
            torch.testing.assert_close(one, together[i : i + 1], rtol=1e-9, atol=1e-9)


@every_map
def test_zero_stays_zero(map):
    zero = torch.zeros(2, 4, 6, dtype=torch.float64)
    state = new_state(map, zero)
    for _ in range(2):
        if map.observes:
            map.observe(zero, state)
        assert torch.equal(map(zero, state), zero)
    assert all(bool(kept.isfinite().all()) for kept in state.values())


@every_map
@every_shape
def test_the_norm_is_kept_where_a_map_says_so(map, shape):
    for step, y in enumerate(steps(map, shape)):
        if map.keeps_norm:
            norms = [t.flatten(1).norm(dim=1) for t in (stack(shape, step), y)]
            torch.testing.assert_close(*norms, rtol=1e-12, atol=0)


@every_map
@every_shape
def test_an_entry_depends_on_no_more_than_a_map_says(map, shape):
    """A part of a matrix, with what is kept of that part, is mapped as in the whole."""
    rows, columns = slice(0, max(1, shape[1] - 1)), slice(0, max(1, shape[2] - 2))
    cuts = {
        Coupling.ENTRIES: [(rows, columns)],
        Coupling.ROWS: [(rows, slice(None))],
        Coupling.COLUMNS: [(slice(None), columns)],
    }
    for cut in cuts.get(map.couples, []):
        state, part = new_state(map, stack(shape, 0)), new_state(map, stack(shape, 0)[:, *cut])
        for step in range(3):
            x = stack(shape, step)
            if map.observes:
                map.observe(x, state)
                map.observe(x[:, *cut], part)
            torch.testing.assert_close(map(x, state)[:, *cut], map(x[:, *cut], part))


@pytest.mark.parametrize("map", [m for m in MAPS if not m.state_shapes(2, 2)], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_scale_does_not_turn_a_polar_factor(map, dtype, scale):
    if getattr(map, "eps", 0.0):
        pytest.skip("a number that is added to squares says which ones are small")
    x = stack((2, 6, 4), 0, dtype)
    one, other = (polar_factor(map(c * x, {})) for c in (1.0, scale))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("map", [m for m in MAPS if m.observes], ids=repr)
def test_gradients_whose_squares_overflow_do_no_harm(map, dtype):
    huge = stack((2, 4, 6), 0, dtype) * torch.finfo(dtype).max ** 0.9
    state = new_state(map, huge)
    for _ in range(3):
        map.observe(huge, state)
        assert bool(map(stack((2, 4, 6), 1, dtype), state).isfinite().all())
    assert all(bool(kept.isfinite().all()) for kept in state.values())


@every_map
def test_its_text_is_the_call_that_makes_it(map):
    names = {**vars(transforms), "Svd": Svd, "Auto": Auto}
    assert eval(repr(map), names) == map


def test_rows_are_evened_out():
    """Aurora's map makes the rows of the polar factor of a tall matrix more alike, step by step."""
    x = stack((1, 12, 4), 0) * torch.logspace(-2, 0, 12, dtype=torch.float64).view(12, 1)

    def unevenness(map):
        return float(polar_factor(map(x, {})).norm(dim=-1).var())

    found = [unevenness(transforms.BalancedRows(iterations=k)) for k in (1, 2, 8, 30)]
    assert found == sorted(found, reverse=True) and found[-1] < 1e-6
    assert float(polar_factor(x).norm(dim=-1).var()) > found[0]


def test_bases_become_those_of_the_averages():
    """With gradients of one covariance the bases of SOAP diagonalise it."""
    map = transforms.Eigenbasis(beta=0.99)
    left = torch.linalg.qr(stack((4, 4), 0)).Q
    scale = torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)
    state = new_state(map, stack((1, 4, 4), 0))
    for step in range(3000):
        gradient = (left * scale) @ torch.randn(
            4, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64
        )
        map.observe(gradient.unsqueeze(0), state)
        map(gradient.unsqueeze(0), state)
    overlap = (left.mT @ state["row_basis"][0]).abs()
    assert float(overlap.diagonal().min()) > 0.97


def test_single_precision_keeps_its_bases():
    """Of full-rank gradients with a wide spectrum, nothing counts as not reached."""
    x = torch.linalg.qr(stack((2, 96, 96), 0)).Q
    sizes = 1 / torch.arange(1, 97, dtype=torch.float64)
    gradient = (x[0] * sizes) @ x[1].mT
    tails = []
    for dtype in (torch.float64, torch.float32):
        map = transforms.Eigenbasis()
        state = new_state(map, gradient.to(dtype).unsqueeze(0))
        for _ in range(20):
            map.observe(gradient.to(dtype).unsqueeze(0), state)
            map(gradient.to(dtype).unsqueeze(0), state)
        q, gram = state["row_basis"][0].double(), gradient @ gradient.mT
        rotated = (q.mT @ gram @ q)[48:, 48:]
        scale = rotated.diagonal().sqrt()
        off = rotated / scale.outer(scale) - torch.eye(48, dtype=torch.float64)
        tails.append(float(off.abs().mean()))
    assert tails[1] < tails[0] + 0.01, tails


WRONG = [
    (lambda: transforms.RowSecondMoment(beta=1.0), "beta=1.0: give the weight of the past"),
    (lambda: transforms.SecondMoment(eps=-1.0), "eps=-1.0: give a finite number >= 0"),
    (lambda: transforms.NormalizedRows(eps=float("nan")), "eps=nan: give a finite number >= 0"),
    (lambda: transforms.Eigenbasis(every=0), "every=0: give a whole number of steps"),
    (lambda: transforms.BalancedRows(iterations=0), "iterations=0: give a whole number"),
    (lambda: transforms.BalancedRows(exponent=0.0), "exponent=0.0: give a positive number"),
    (lambda: Composed(transforms.Sign), r"maps='transforms.Sign': call it: transforms.Sign\(\)"),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[m for _, m in WRONG])
def test_wrong_values(make, message):
    with pytest.raises(ValueError, match=message):
        make()
