"""The laws in the docstring of `ConvexMap`, each a function, and all of them for your own map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steepest._common.numerics import in_double
from steepest.maps import ConvexMap
from steepest.testing._tensors import (
    Shape,
    assert_close,
    assert_true,
    drawn,
    inputs,
    on,
    rounding,
)
from steepest.testing.norms import SHAPES


def size(K: ConvexMap, x: Tensor) -> Tensor:
    """The Frobenius length of each member of the batch."""
    wide = in_double(x)
    return K.inner(wide, wide).sqrt()


def _scale(K: ConvexMap, *xs: Tensor) -> Tensor:
    """The scale that rounding is measured by: that of the values."""
    return torch.stack([K.value(x).double().abs() for x in xs]).sum(dim=0)


def is_convex_and_even(K: ConvexMap, x: Tensor, z: Tensor, t: float, rtol: float) -> None:
    """K is convex, K(−x) = K(x), and K is smallest at 0."""
    between = K.value(t * x + (1 - t) * z).double()
    within = rtol * (_scale(K, x, z) + K.value(0 * x).double().abs())
    chord = t * K.value(x).double() + (1 - t) * K.value(z)
    assert_true(between <= chord + within, "K(t·x + (1 − t)·z) <= t·K(x) + (1 − t)·K(z)")
    assert_close(K.value(-x), K.value(x), within=within, law="K(−x) == K(x)")
    assert_true(K.value(0 * x) <= K.value(x) + within, "K(0) <= K(x)")


def has_subgradients(K: ConvexMap, x: Tensor, z: Tensor, rtol: float) -> None:
    """K(z) ≥ K(x) + ⟨∇K(x), z − x⟩, and ∇K(0) = 0."""
    g = K.grad(x)
    tangent = K.value(x).double() + K.inner(g, z - x)
    within = rtol * (_scale(K, x, z) + size(K, g) * (size(K, x) + size(K, z)))
    assert_true(K.value(z) >= tangent - within, "K(z) >= K(x) + ⟨K.grad(x), z − x⟩")
    assert_true(K.grad(0 * x) == 0, "K.grad(0) == 0")


def has_gradients(K: ConvexMap, x: Tensor, d: Tensor, loose: float = 1.0) -> None:
    """K.grad is the derivative of K.value, by differences along d and by autograd.

    At points where there is one: of generic tensors in double precision.
    """
    d = d / size(K, d).max()
    g, h = K.grad(x), 1e-5
    slope = (K.value(x + h * d) - K.value(x - h * d)) / (2 * h)
    within = 1e-6 * loose * (1 + size(K, g))
    assert_close(slope, K.inner(g, d), within=within, law="K.grad(x) is the derivative of K.value")
    leaf = x.clone().requires_grad_()
    K.value(leaf).sum().backward()
    assert leaf.grad is not None
    within = 1e-7 * loose * (1e-3 + size(K, g))
    assert_close(size(K, leaf.grad - g), 0, within=within, law="autograd gives K.grad(x)")


def is_conjugate(K: ConvexMap, x: Tensor, other: Tensor, loose: float = 1.0) -> None:
    """K(x) + K*(y) ≥ ⟨y, x⟩ for every y, with equality for y = ∇K(x), in double precision.

    Args:
        K: the map.
        x: the point at which equality is checked.
        other: another y, in the domain of K*.
        loose: how many times as far off as an SVD its arithmetic may be.
    """
    y = K.grad(x)
    sure = 1e-6 if loose > 1 else None
    values, product = K.value(x) + K.conjugate(y, tolerance=sure), K.inner(y, x)
    within = 1e-9 * loose * (_scale(K, x) + product.abs() + size(K, y)) + 1e-13
    assert_close(values, product, within=within, law="K(x) + K*(K.grad(x)) == ⟨K.grad(x), x⟩")
    gap = K.value(x) + K.conjugate(other) - K.inner(other, x)
    slack = within + 1e-9 * size(K, other) * size(K, x)
    assert_true(gap.isfinite(), "K* is finite in its domain")
    assert_true(gap >= -slack, "K(x) + K*(y) >= ⟨y, x⟩")


def keeps_to_its_domain(K: ConvexMap, x: Tensor, rtol: float) -> None:
    """The gradients lie in the ball of `K.domain` of radius `K.gradient_bound`."""
    if K.domain is None:
        return
    rows, cols, _ = K.matrix_shape(x)
    bound = K.gradient_bound(rows, cols, x.dtype)
    law = "K.domain(K.grad(x)) <= K.gradient_bound(…)"
    assert_true(K.domain(K.grad(x)) <= bound + 10 * rtol, law)


def leaves_its_input_alone(K: ConvexMap, x: Tensor) -> None:
    """The gradient has the type and shape of the input and its own memory; `x` stays as it is."""
    before = x.clone()
    value, g = K.value(x), K.grad(x)
    alike = g.dtype == x.dtype and g.shape == x.shape and not g.is_conj()
    assert_true(alike, "K.grad(x) has the type and shape of x")
    shared = g.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    assert_true(not shared, "K.grad(x) does not share the memory of x")
    assert_true(torch.equal(x, before), "the input is not written to")
    shapes = value.shape == K.conjugate(0 * x).shape == K.inner(x, x).shape
    assert_true(shapes, "K.value, K.conjugate and K.inner give one number for each member")


def check_convex_map(
    K: ConvexMap,
    shapes: Sequence[Shape] = SHAPES,
    *,
    dtypes: Sequence[torch.dtype] = (torch.float64, torch.complex128),
    loose: float = 1.0,
    seed: int = 0,
) -> None:
    """Hold a convex map to the laws in the docstring of `ConvexMap`.

    Args:
        K: the map.
        shapes: shapes that it takes.
        dtypes: types in double precision.
        loose: how many times as far off as an SVD its arithmetic may be.
        seed: seed of the tensors.

    Raises:
        AssertionError: a law is broken; the message has the law, the input and by how much.

    Examples:
        >>> from steepest import maps
        >>> check_convex_map(maps.Huber(0.5), shapes=[(4, 3)])
    """
    axes = K.axes or 2
    for draw in inputs(shapes, dtypes, exponents=(0, 1, -1), seed=seed):
        rtol = loose * rounding(draw.dtype)
        x, z = drawn(draw, axes), drawn(draw, axes, salt=1, kind="gaussian")
        other = drawn(draw, axes, salt=3, kind="gaussian")
        with on(f"{K!r} on {draw}"):
            is_convex_and_even(K, x, z, 0.3, rtol)
            has_subgradients(K, x, z, 10 * rtol)
            keeps_to_its_domain(K, x, rtol)
            leaves_its_input_alone(K, x)
            if draw.kind == "gaussian":
                has_gradients(K, x, z, loose)
                if K.domain is not None:
                    other = K.broadcast(0.5 / K.domain(other), other) * other
                is_conjugate(K, x, other, loose)
