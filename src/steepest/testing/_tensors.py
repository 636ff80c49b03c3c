"""Tensors, and tensors by name, that laws are held on; and how far two results may be apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steepest._common.errors import shape_text
from steepest._common.numerics import in_double

Tensors = Tensor | Mapping[str, Tensor]
Shape = Sequence[int] | Mapping[str, Sequence[int]]
"""The shape of a tensor, or of each of several by name."""

KINDS = ("gaussian", "low rank", "signs", "tied", "sparse", "zero")
"""The kinds of input: `tied` is a multiple of an orthogonal matrix."""
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


class Draw(NamedTuple):
    """One input: a kind of tensor in a shape and a type, times 2^exponent.

    In double precision the exponent counts three times.
    """

    seed: int
    kind: str
    dtype: torch.dtype
    exponent: int
    shape: Shape

    def __str__(self) -> str:
        each = self.shape.values() if isinstance(self.shape, Mapping) else [self.shape]
        shapes = ", ".join(map(shape_text, each))
        return f"{self.kind} {self.dtype} {shapes}·2^{self.exponent}, seed {self.seed}"


def rounding(dtype: torch.dtype) -> float:
    """The error that the laws allow, relative to the terms: some hundred epsilons of the type."""
    return {4: 2e-5, 8: 1e-10}[torch.zeros(1, dtype=dtype).real.itemsize]


def drawn(draw: Draw, axes: int = 2, salt: int = 0, kind: str | None = None) -> Any:
    """The tensor of a draw, or the tensors by name.

    Args:
        draw: the input to make.
        axes: how many of the last axes are a matrix with its taps.
        salt: another number gives another tensor.
        kind: the kind of tensor, in the place of the draw's own.
    """
    generator = torch.Generator().manual_seed(draw.seed + 7919 * salt)
    if isinstance(draw.shape, Mapping):
        return {k: _one(s, axes, draw, kind, generator) for k, s in draw.shape.items()}
    return _one(draw.shape, axes, draw, kind, generator)


def _one(
    shape: Sequence[int], axes: int, draw: Draw, kind: str | None, generator: torch.Generator
) -> Tensor:
    kind = kind or draw.kind
    wide = torch.complex128 if draw.dtype.is_complex else torch.float64

    def gaussian(*size: int) -> Tensor:
        return torch.randn(size, dtype=wide, generator=generator)

    def integers(low: int, high: int) -> Tensor:
        return torch.randint(low, high + 1, tuple(shape), generator=generator).to(wide)

    x = gaussian(*shape)
    if kind == "zero":
        x = 0 * x
    elif kind == "low rank" and len(shape) >= axes:
        m, n, *taps = shape[len(shape) - axes :]
        product = gaussian(*shape[: len(shape) - axes], m, 1) @ gaussian(1, n)
        x = product.reshape(*product.shape, *[1] * len(taps)).expand(tuple(shape)).clone()
    elif kind == "signs":
        x = integers(-1, 1)
    elif kind == "tied" and len(shape) >= axes:
        m, n, *taps = shape[len(shape) - axes :]
        eye = 3 * torch.eye(m, n, dtype=wide).reshape(m, n, *[1] * len(taps))
        x = eye.expand(tuple(shape)).clone()
    elif kind == "sparse":
        x = x * integers(0, 1)
    if wide.is_complex and kind in ("signs", "tied"):
        x = x * torch.tensor([1, 1j, -1, -1j])[integers(0, 3).real.long()]
    exponent = draw.exponent * (1 if torch.zeros(1, dtype=draw.dtype).real.itemsize == 4 else 3)
    return (x * 2.0**exponent).to(draw.dtype)


def inputs(
    shapes: Sequence[Shape],
    dtypes: Sequence[torch.dtype],
    *,
    kinds: Sequence[str] = KINDS,
    exponents: Sequence[int] = (0, -60, 60),
    seed: int = 0,
) -> Iterator[Draw]:
    """Every kind in every shape and type, with exponents in turn."""
    count = 0
    for shape in shapes:
        for dtype in dtypes:
            for kind in kinds:
                yield Draw(seed + count, kind, dtype, exponents[count % len(exponents)], shape)
                count += 1


def each(function: Callable[..., Any], *xs: Any) -> Any:
    """`function` of tensors, or of the tensors of every name."""
    if isinstance(xs[0], Tensor):
        return function(*xs)
    return {name: function(*(x[name] for x in xs)) for name in xs[0]}


def leaves(x: Tensors) -> list[Tensor]:
    """The tensors in it."""
    return [x] if isinstance(x, Tensor) else list(x.values())


def inner(norm: Any, g: Any, x: Any) -> Tensor:
    """⟨g, x⟩ in double precision: one number for each member of the batch, as the norm counts."""
    if not isinstance(g, Tensor):
        products = [(in_double(g[k]).conj() * in_double(x[k])).real.sum() for k in g]
        return torch.stack(products).sum()
    value = norm(g)
    product = (in_double(g).conj() * in_double(x)).real
    return product.sum_to_size(norm.broadcast(value, g).shape).reshape(value.shape)


def times(norm: Any, value: Tensor, x: Any) -> Any:
    """Every member of the batch times its own number."""
    if not isinstance(x, Tensor):
        return {k: value.to(t.real.dtype) * t for k, t in x.items()}
    return norm.broadcast(value.to(x.real.dtype), x) * x


def minus(a: Any, b: Any) -> Any:
    """The difference."""
    return each(torch.sub, a, b)


def length(norm: Any, x: Any) -> Tensor:
    """The Frobenius length of each member, in double precision: entries of 1e±100 have squares."""
    return inner(norm, x, x).sqrt()


def assert_close(a: Any, b: Any, *, within: Any, law: str = "equal") -> None:
    """Raise unless |a − b| ≤ within.

    Args:
        a: numbers.
        b: numbers of the same shape, or one.
        within: the bound, which already has the scale of the problem.
        law: the claim, for the error.

    Raises:
        AssertionError: it is not so.
    """
    gap = (torch.as_tensor(a).double() - torch.as_tensor(b).double()).abs()
    bound = torch.as_tensor(within).double().expand(gap.shape)
    assert_true(
        gap <= bound, f"{law}: off by {float(gap.max()):.3g}, allowed {float(bound.min()):.3g}"
    )


@contextmanager
def on(subject: str) -> Iterator[None]:
    """Name in the message of a broken law what it was held on."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{subject}: {error}") from error


def assert_true(holds: Any, law: str) -> None:
    """Raise unless all of it is true; NaN is not.

    Raises:
        AssertionError: it is not so.
    """
    if not bool(torch.as_tensor(holds).all()):
        raise AssertionError(law)
