"""Views of parameters as matrices, against loops over blocks, batches and taps."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from steepest.views import EXPERTS, INPUT_FIRST, LINEAR, MatrixView, conv, conv_transpose

Case = tuple[dict[str, Any], tuple[int, ...]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """The arguments of a view of any kind, and a shape it fits.

    Only the arguments: the type checker looks at random items of a tuple, and a strategy must not
    call anything random.
    """
    ndim = draw(st.integers(2, 5))
    shape = draw(st.lists(st.integers(1, 4), min_size=ndim, max_size=ndim))
    axes = draw(st.permutations(range(ndim)))
    rows = draw(st.integers(1, ndim - 1))
    cols = draw(st.integers(1, ndim - rows))
    dim = draw(st.sampled_from(axes))
    count = draw(st.integers(1, 3))
    if draw(st.booleans()):
        split: int | tuple[int, ...] = count
        shape[dim] *= count
    else:
        split = tuple(draw(st.lists(st.integers(1, 3), min_size=count, max_size=count)))
        shape[dim] = sum(split)
    arguments = {
        "rows": tuple(axes[:rows]),
        "cols": tuple(axes[rows : rows + cols]),
        "batch": tuple(axes[rows + cols :]),
        "split": split,
        "split_dim": dim,
    }
    return arguments, tuple(shape)


def numbered(shape: tuple[int, ...]) -> Tensor:
    """A tensor in which every entry is another number."""
    return torch.arange(math.prod(shape)).reshape(shape)


def blocks(view: MatrixView, x: Tensor) -> list[Tensor]:
    """The blocks along `split_dim`, cut one after the other."""
    size = x.shape[view.split_dim]
    split = view.split
    sizes = [size // split] * split if isinstance(split, int) else list(split)
    out, start = [], 0
    for length in sizes:
        out.append(x.narrow(view.split_dim, start, length))
        start += length
    return out


def entries(view: MatrixView, x: Tensor) -> list[Tensor]:
    """Each matrix of each block, filled entry by entry."""
    out = []
    for block in blocks(view, x):
        ranges = {a: range(block.shape[a]) for a in range(x.ndim)}
        for b in itertools.product(*(ranges[a] for a in view.batch)):
            matrix = []
            for r in itertools.product(*(ranges[a] for a in view.rows)):
                row = []
                for c in itertools.product(*(ranges[a] for a in view.cols)):
                    place = dict(zip(view.batch + view.rows + view.cols, b + r + c, strict=True))
                    row.append(block[tuple(place[a] for a in range(x.ndim))])
                matrix.append(torch.stack(row))
            out.append(torch.stack(matrix))
    return out


@given(cases())
def test_restore_is_the_inverse_of_matrices(case: Case) -> None:
    arguments, shape = case
    view = MatrixView(**arguments)
    x = numbered(shape)
    back = view.restore(view.matrices(x), shape)
    assert back.shape == x.shape
    assert torch.equal(back, x)


@given(cases())
def test_matrices_hold_the_entries_of_their_definition(
    case: Case,
) -> None:
    arguments, shape = case
    view = MatrixView(**arguments)
    x = numbered(shape)
    found = [matrix for batch in view.matrices(x) for matrix in batch]
    expected = entries(view, x)
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@given(cases())
def test_shapes_are_those_of_the_matrices(case: Case) -> None:
    arguments, shape = case
    view = MatrixView(**arguments)
    assert view.shapes(shape) == [tuple(m.shape) for m in view.matrices(numbered(shape))]


@given(cases())
def test_the_order_of_memory_does_not_matter(case: Case) -> None:
    arguments, shape = case
    view = MatrixView(**arguments)
    x = numbered(shape)
    scattered = numbered(shape[::-1]).permute(*reversed(range(len(shape)))).copy_(x)
    pairs = zip(view.matrices(scattered), view.matrices(x), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_a_grouped_convolution_is_its_matrices_on_patches(
    groups: int, outputs: int, inputs: int, kernel: int
) -> None:
    x = torch.randn(2, groups * inputs, 5, 5, dtype=torch.float64)
    weight = torch.randn(groups * outputs, inputs, kernel, kernel, dtype=torch.float64)
    (matrices,) = conv(2, groups=groups).matrices(weight)
    assert matrices.shape == (groups, outputs, inputs * kernel**2)
    patches = F.unfold(x, kernel).unflatten(1, (groups, inputs * kernel**2))
    found = (matrices @ patches).flatten(1, 2)
    expected = F.conv2d(x, weight, groups=groups).flatten(2)
    assert torch.allclose(found, expected, atol=1e-12)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_a_transposed_convolution_is_its_matrices_on_mirrored_patches(
    groups: int, outputs: int, inputs: int, kernel: int
) -> None:
    x = torch.randn(2, groups * inputs, 4, 4, dtype=torch.float64)
    weight = torch.randn(groups * inputs, outputs, kernel, kernel, dtype=torch.float64)
    (matrices,) = conv_transpose(2, groups=groups).matrices(weight)
    assert matrices.shape == (groups, outputs, inputs * kernel**2)
    # An output pixel sees the input through the kernel backwards: its last tap comes first.
    padded = F.pad(x, [kernel - 1] * 4)
    patches = F.unfold(padded, kernel).unflatten(1, (groups, inputs, kernel**2)).flip(3)
    found = (matrices @ patches.flatten(2, 3)).flatten(1, 2)
    expected = F.conv_transpose2d(x, weight, groups=groups).flatten(2)
    assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("view", "shape"),
    [
        (LINEAR, (6, 4)),
        (MatrixView(split=3), (6, 4)),
        (MatrixView(split=(3, 2, 1)), (6, 4)),
        (INPUT_FIRST, (4, 6)),
        (MatrixView(rows=(1,), cols=(0,), split=3, split_dim=1), (4, 6)),
        (EXPERTS, (3, 6, 4)),
        (conv(2), (6, 4, 3, 3)),
        (conv(2, groups=2), (6, 2, 3, 3)),
    ],
    ids=str,
)
def test_matrices_share_the_memory_of_a_contiguous_parameter(
    view: MatrixView, shape: tuple[int, ...]
) -> None:
    # The step of an optimizer may write into them.
    x = torch.randn(shape)
    for matrix in view.matrices(x):
        matrix.zero_()
    assert torch.equal(x, torch.zeros(shape))


@pytest.mark.parametrize(
    ("view", "shape", "expected"),
    [
        (LINEAR, (128, 64), [(1, 128, 64)]),
        (INPUT_FIRST, (64, 128), [(1, 128, 64)]),
        (MatrixView(split=3), (192, 64), [(3, 64, 64)]),
        (MatrixView(split=(64, 16, 16)), (96, 64), [(1, 64, 64), (1, 16, 64), (1, 16, 64)]),
        (EXPERTS, (8, 256, 64), [(8, 256, 64)]),
        (conv(2), (64, 3, 7, 7), [(1, 64, 147)]),
        (conv(1, groups=4), (16, 2, 5), [(4, 4, 10)]),
        (conv(3), (4, 2, 3, 3, 3), [(1, 4, 54)]),
        (conv_transpose(2), (64, 32, 2, 2), [(1, 32, 256)]),
        (conv_transpose(1, groups=4), (16, 2, 5), [(4, 2, 20)]),
    ],
    ids=str,
)
def test_shapes_by_hand(
    view: MatrixView, shape: tuple[int, ...], expected: list[tuple[int, int, int]]
) -> None:
    assert view.shapes(shape) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": (0,), "cols": (0,)}, "every axis 0, 1, … once"),
        ({"rows": (0,), "cols": (2,)}, "every axis 0, 1, … once"),
        ({"rows": (0, 1), "cols": ()}, "at least one row axis and one column axis"),
        ({"rows": (), "cols": (0, 1)}, "at least one row axis and one column axis"),
        ({"split": 0}, "split=0: give a positive number of blocks"),
        ({"split": ()}, r"split=\(\): give a positive number of blocks"),
        ({"split": (4, 0)}, r"split=\(4, 0\): give a positive number"),
        ({"split_dim": 2}, "split_dim=2: give an axis in 0…1"),
        ({"split_dim": -1}, "split_dim=-1: give an axis in 0…1"),
    ],
    ids=str,
)
def test_views_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MatrixView(**arguments)


@pytest.mark.parametrize(
    ("view", "shape", "message"),
    [
        (LINEAR, (4, 3, 3), "shape='4×3×3': this view needs 2 axes, got 3"),
        (conv(2), (4, 3), "this view needs 4 axes, got 2"),
        (MatrixView(split=3), (8, 4), "axis 0 of length 8 does not divide into equal blocks"),
        (MatrixView(split=(4, 2)), (8, 4), "must add up to 8, the length of axis 0"),
    ],
    ids=str,
)
def test_parameters_that_do_not_fit_are_refused(
    view: MatrixView, shape: tuple[int, ...], message: str
) -> None:
    for call in (lambda: view.shapes(shape), lambda: view.matrices(torch.zeros(shape))):
        with pytest.raises(ValueError, match=message):
            call()


def test_views_are_plain_values() -> None:
    assert MatrixView(split=3) == MatrixView(split=3) != LINEAR
    assert len({conv(2), conv(2, groups=1), conv(2, groups=2)}) == 2
    assert conv(2).ndim == 4
