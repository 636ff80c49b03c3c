"""The laws in the docstring of `Norm`, each a function, and all of them for a norm of your own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from steepest.norms import Norm, ProductNorm
from steepest.testing._tensors import (
    DTYPES,
    Shape,
    assert_close,
    assert_true,
    drawn,
    each,
    inner,
    inputs,
    leaves,
    length,
    minus,
    on,
    rounding,
    times,
)

SHAPES = ((1, 1), (1, 5), (4, 4), (2, 6), (6, 3), (2, 4, 3))
"""Shapes for a norm of matrices, one with a batch."""


def is_a_norm(norm: Any, x: Any, y: Any, c: complex, rtol: float) -> None:
    """n(x) > 0 unless x = 0; n(c·x) = |c|·n(x); n(x + y) ≤ n(x) + n(y)."""
    value = norm(x)
    assert_true((value > 0) == (length(norm, x) > 0), "n(x) > 0 unless x == 0")
    size = abs(c)
    scaled = norm(each(lambda t: c * t, x))
    assert_close(scaled, size * value, within=size * rtol * value, law="n(c·x) == |c|·n(x)")
    both = value + norm(y)
    total = norm(each(torch.add, x, y))
    assert_true(total <= both * (1 + rtol), "n(x + y) <= n(x) + n(y)")


def is_dual(norm: Any, g: Any, x: Any, rtol: float) -> None:
    """⟨g, x⟩ ≤ n(x)·n.dual(g), with equality at x = n.dualize(g), whose norm is 1."""
    dual, t = norm.dual(g), norm.dualize(g)
    nonzero = length(norm, g) > 0
    assert_true((dual > 0) == nonzero, "n.dual(g) > 0 unless g == 0")
    assert_close(norm(t), nonzero, within=rtol, law="n(n.dualize(g)) == 1")
    assert_true((length(norm, t) > 0) == nonzero, "n.dualize(0) == 0")
    attained = inner(norm, g, t)
    assert_close(attained, dual, within=rtol * dual, law="⟨g, n.dualize(g)⟩ == n.dual(g)")
    bound = norm(x) * dual.double() * (1 + rtol)
    assert_true(inner(norm, g, x).abs() <= bound, "⟨g, x⟩ <= n(x)·n.dual(g)")


def has_a_sharp_operator(norm: Any, g: Any, rtol: float) -> None:
    """⟨g, n.sharp(g)⟩ = n(n.sharp(g))² = n.dual(g)², and n.sharp(g) = n.dual(g)·n.dualize(g)."""
    dual, sharp = norm.dual(g).double(), norm.sharp(g)
    assert_close(norm(sharp), dual, within=rtol * dual, law="n(n.sharp(g)) == n.dual(g)")
    law = "⟨g, n.sharp(g)⟩ == n.dual(g)**2"
    assert_close(inner(norm, g, sharp), dual**2, within=rtol * dual**2, law=law)
    expected = times(norm, dual, norm.dualize(g))
    gap, size = length(norm, minus(sharp, expected)), length(norm, expected)
    assert_close(gap, 0, within=rtol * size, law="n.sharp(g) == n.dual(g)·n.dualize(g)")


def projects(norm: Any, x: Any, z: Any, fraction: float, rtol: float) -> None:
    """p = n.project(x, r) is x inside; else n(p) = r, and no point of the ball is nearer to x.

    Args:
        norm: n.
        x: the tensor that is projected.
        z: another point, for a comparison.
        fraction: r over n(x).
        rtol: the relative error that rounding may cause.
    """
    value = norm(x).double()
    r = fraction * value
    p = norm.project(x, r)
    if fraction > 1:
        same = all(torch.equal(s, t) for s, t in zip(leaves(p), leaves(x), strict=True))
        assert_true(same, "n.project(x, r) == x if n(x) <= r")
        return
    rest = minus(x, p)
    assert_close(norm(p), r, within=rtol * value, law="n(n.project(x, r)) == r")
    size = length(norm, x)
    slack = rtol * (r * norm.dual(x).double() + size**2)
    support = r * norm.dual(rest).double()
    assert_close(inner(norm, rest, p), support, within=slack, law="⟨x − p, p⟩ == r·n.dual(x − p)")
    again = length(norm, minus(norm.project(p, r), p))
    assert_close(again, 0, within=rtol * size, law="n.project(p, r) == p")
    for part in (1.0, 0.5):
        other = times(norm, part * r / norm(z).double(), z)
        away = length(norm, minus(x, other))
        assert_true(length(norm, rest) <= away + rtol * size, "no point of the ball is nearer to x")


def dual_has_its_gradient(norm: Any, g: Any, rtol: float = 1e-6) -> None:
    """The gradient of n.dual at g is n.dualize(g), where there is one."""
    g = each(lambda t: t.detach().clone().requires_grad_(), g)
    norm.dual(g).sum().backward()
    gradient, expected = each(lambda t: t.grad, g), norm.dualize(each(torch.Tensor.detach, g))
    gap, size = length(norm, minus(gradient, expected)), length(norm, expected)
    assert_close(gap, 0, within=rtol * size, law="the gradient of n.dual at g == n.dualize(g)")


def has_finite_gradients(norm: Any, x: Any) -> None:
    """n can be differentiated everywhere: at zero, and where singular values tie."""
    x = each(lambda t: t.detach().clone().requires_grad_(), x)
    norm(x).sum().backward()
    for t in leaves(x):
        assert_true(
            t.grad is not None and torch.isfinite(t.grad), "the gradient of n at x is finite"
        )


def leaves_its_input_alone(norm: Any, x: Any, *, project: bool = True) -> None:
    """Results have the type and shape of the input, own their memory and leave it alone."""
    before = each(torch.clone, x)
    results = [norm.dualize(x), norm.sharp(x)]
    results += [norm.project(x, 1e6), norm.project(x, 0.1)] if project else [norm.project(x, 1e6)]
    for result in results:
        for t, like in zip(leaves(result), leaves(x), strict=True):
            alike = t.dtype == like.dtype and t.shape == like.shape and t.device == like.device
            assert_true(alike, "results have the type, shape and device of the input")
            shared = t.untyped_storage().data_ptr() == like.untyped_storage().data_ptr()
            assert_true(not shared, "no result shares the memory of the input")
    same = all(torch.equal(a, b) for a, b in zip(leaves(x), leaves(before), strict=True))
    assert_true(same, "the input is not written to")


def batches(
    norm: Any, members: Sequence[Tensor], fraction: float, rtol: float, *, project: bool = True
) -> None:
    """A batch is its members."""
    x = torch.stack(list(members))
    values, directions, sharps = norm(x), norm.dualize(x), norm.sharp(x)
    r = fraction * values.double()
    nearest = norm.project(x, r) if project else None
    for i, member in enumerate(members):
        value = norm(member)
        assert_close(values[i], value, within=rtol * value, law="n(x)[i] == n(x[i])")
        direction, sharp = norm.dualize(member), norm.sharp(member)
        triples = [(directions[i], direction, direction), (sharps[i], sharp, sharp)]
        if nearest is not None:
            triples.append((nearest[i], norm.project(member, r[i]), member))
        for batched, single, like in triples:
            # Singular vectors of neighbouring singular values turn easily.
            within = 1e3 * rtol * length(norm, like)
            gap = length(norm, batched - single)
            assert_close(gap, 0, within=within, law="a batch is its members")


def check_norm(
    norm: Norm | ProductNorm,
    shapes: Sequence[Shape] = SHAPES,
    *,
    dtypes: Sequence[torch.dtype] = DTYPES,
    loose: float = 1.0,
    seed: int = 0,
) -> None:
    """Hold a norm to the laws in the docstring of `Norm`.

    On Gaussian, low-rank, sparse, tied and zero tensors, with entries from 1e-54 to 1e54.

    Args:
        norm: the norm.
        shapes: shapes that it can measure; mappings of names to shapes for named tensors.
        dtypes: types of the tensors, single and double precision, real and complex.
        loose: how many times as far off as an SVD its arithmetic may be: a law holds to 2e-5 in
            single and to 1e-10 in double precision times this.
        seed: seed of the tensors.

    Raises:
        AssertionError: a law is broken; the message has the law, the input and by how much.

    Examples:
        >>> from steepest import norms
        >>> check_norm(norms.Schatten(3), shapes=[(4, 3)])
    """
    axes = getattr(norm, "axes", 2) or 2
    for draw in inputs(shapes, dtypes, seed=seed):
        rtol = loose * rounding(draw.dtype)
        x, y = drawn(draw, axes), drawn(draw, axes, salt=1, kind="gaussian")
        c = 0.6 - 0.8j if draw.dtype.is_complex else -3.0
        with on(f"{norm!r} on {draw}"):
            is_a_norm(norm, x, y, c, rtol)
            is_dual(norm, x, y, rtol)
            has_a_sharp_operator(norm, x, 3 * rtol)
            for fraction in (0.0, 0.5, 2.0):
                projects(norm, x, y, fraction, 3 * rtol)
            has_finite_gradients(norm, x)
            leaves_its_input_alone(norm, x)
            if draw.kind == "gaussian" and rounding(draw.dtype) < 1e-6:
                dual_has_its_gradient(norm, x)
    # Of a modular norm it is the maximum over the same blocks, an object of another type.
    if not isinstance(norm, ProductNorm):
        assert_true(norm.dual.dual == norm, f"{norm!r}: n.dual.dual == n")
