"""The table of all norms, and the tensors that the tests give them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from steepest import norms
from steepest.norms import Cut, Factor
from steepest.polar import GramEigh, Svd

ENTRIES = ((5,), (1,), (), (3, 4), (2, 1, 3))
VECTORS = ((5,), (1,), (3, 4), (2, 1, 3))
MATRICES = ((1, 1), (1, 5), (5, 1), (4, 4), (2, 6), (6, 3), (2, 4, 3), (2, 1, 3, 3))
KERNEL_1D = ((2, 3, 2), (1, 1, 3), (2, 3, 3, 2))
KERNELS = ((4, 3, 2, 2), (1, 3, 3, 1), (1, 1, 2, 2), (2, 2, 3, 1, 2))
NAMED = (
    {"w": (4, 3), "b": (5,), "e": (2, 3)},
    {"w": (2, 3, 2), "b": (1,), "e": (3, 1)},
)


@dataclass(frozen=True)
class Case:
    """A norm and what a test has to know of it.

    Args:
        name: how it is made.
        make: the class or function of `steepest.norms` that makes it.
        norm: the object.
        shapes: what it is tested on; for a norm of named tensors, a mapping.
        keeps: the transformations that leave it alone: "unitary", "permutations" of rows and of
            columns, or "entries" for permutations of all entries.
        loose: how many times worse than an SVD its arithmetic is.
        costly: the part of the examples left out where points are projected.
    """

    name: str
    make: Callable[..., Any]
    norm: Any
    shapes: tuple[Any, ...]
    keeps: str = "permutations"
    loose: float = 1.0
    costly: int = 1

    def dual(self) -> Case:
        # Its projection searches for a root where the norm's own has a closed form.
        costly = min(50, 5 * self.costly)
        name, norm = f"{self.name}.dual", self.norm.dual
        return Case(name, self.make, norm, self.shapes, self.keeps, self.loose, costly)


def case(make, *args, shapes=MATRICES, least=1, keeps=None, loose=1.0, costly=1, **kwargs) -> Case:
    """One line of the table; `least` is the smallest min(m, n) that the norm exists for."""
    shown = [repr(a) for a in args] + [f"{k}={v!r}" for k, v in kwargs.items()]
    name = f"{make.__name__}({', '.join(shown)})"
    if least > 1:
        shapes = tuple(s for s in shapes if min(s[-2:]) >= least)
    keeps = keeps or ("entries" if shapes in (ENTRIES, VECTORS) else "permutations")
    return Case(name, make, make(*args, **kwargs), shapes, keeps, loose, costly)


PARTS = {"w": norms.Spectral(), "b": norms.LInf(), "e": norms.Operator(1, "rms")}
UNITARY = {"keeps": "unitary"}

TABLE = (
    case(norms.L1, shapes=ENTRIES),
    case(norms.L2, shapes=ENTRIES),
    case(norms.LInf, shapes=ENTRIES),
    case(norms.RMS, shapes=ENTRIES),
    case(norms.Lp, 1.5, shapes=ENTRIES, costly=5),
    case(norms.Lp, 7, shapes=VECTORS, costly=5),
    case(norms.Lp, 1, dims=-1, shapes=MATRICES, keeps="permutations"),
    case(norms.L2, dims=-2),
    case(norms.Lp, 3, dims=(-2, -1), costly=5),
    case(norms.RMS, dims=0, shapes=VECTORS, keeps="none"),
    case(norms.Schatten, 1.5, **UNITARY, costly=5),
    case(norms.Schatten, 4, **UNITARY, costly=5),
    case(norms.Schatten, 3, polar=Svd(), **UNITARY, costly=5, loose=100),
    case(norms.Spectral, **UNITARY),
    case(norms.Spectral, polar=GramEigh(), **UNITARY, loose=30),
    case(norms.Nuclear, **UNITARY),
    case(norms.Nuclear, polar=Svd(), **UNITARY, loose=30),
    case(norms.Frobenius, **UNITARY),
    case(norms.KyFan, 1, **UNITARY, costly=5),
    case(norms.KyFan, 2, least=2, **UNITARY, costly=5),
    case(norms.KyFan, 2, polar=Svd(), least=2, **UNITARY, costly=5, loose=100),
    case(norms.KyFanDual, 3, least=3, **UNITARY, costly=5),
    case(norms.RowNorm),
    case(norms.RowNorm, 1),
    case(norms.RowNorm, math.inf),
    case(norms.ColumnNorm),
    case(norms.ColumnNorm, 3, costly=10),
    case(norms.MaxOver, norms.KyFan(1), Cut("taps", 1), shapes=KERNEL_1D, costly=10),
    case(norms.SumOver, norms.L2(dims=-1), Cut("columns"), costly=10),
    case(norms.SumOver, norms.Lp(1.5, dims=-1), Cut("rows"), costly=25),
    case(norms.Operator, 2, 2, **UNITARY),
    case(norms.Operator, 1, math.inf),
    case(norms.Operator, 1, "rms"),
    case(norms.Operator, 1, 1.5, costly=10),
    case(norms.Operator, "rms", "rms", **UNITARY),
    case(norms.Operator, "rms", math.inf),
    case(norms.Operator, 2, "rms", **UNITARY),
    case(norms.Operator, "rms", 2, polar=GramEigh(), **UNITARY, loose=30),
    case(norms.Conv, 1, shapes=KERNEL_1D, costly=5),
    case(norms.Conv, shapes=KERNELS, costly=5),
    case(norms.Scaled, norms.Nuclear(), 0.3, **UNITARY),
    case(norms.Scaled, norms.Conv(2), Factor(taps=-1.0, denominator=7.0), shapes=KERNELS),
    case(norms.MaxOf, PARTS, shapes=NAMED),
    case(norms.SumOf, PARTS, shapes=NAMED, costly=10),
    case(norms.Modular, {k: (n, s) for s, (k, n) in enumerate(PARTS.items(), 1)}, shapes=NAMED),
)
# The dual of a norm is a norm: those that are not in the table themselves.
ALL = TABLE + tuple(c.dual() for c in TABLE if c.norm.dual not in [d.norm for d in TABLE])
PRODUCTS = tuple(c for c in ALL if isinstance(c.norm, norms.ProductNorm))
SINGLE = tuple(c for c in ALL if c not in PRODUCTS)


def over(cases):
    """A test over these norms, each under its name."""
    return pytest.mark.parametrize("case", cases, ids=[c.name for c in cases])


class Draw(NamedTuple):
    """What hypothesis chooses; `tensors` makes the input of one norm of it."""

    seed: int
    kind: str
    dtype: torch.dtype
    exponent: int
    shape: int

    @property
    def rtol(self) -> float:
        return {4: 2e-5, 8: 1e-10}[torch.zeros(1, dtype=self.dtype).real.itemsize]


KINDS = ("gaussian", "low rank", "signs", "tied", "sparse", "zero")
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def draws(kinds=KINDS, dtypes=DTYPES, exponents=(-100, 100)):
    """Any input: 2^±100 is 1e±30; in double precision three times as many digits."""
    return st.builds(
        Draw,
        seed=st.integers(0, 2**31),
        kind=st.sampled_from(kinds),
        dtype=st.sampled_from(dtypes),
        exponent=st.integers(*exponents),
        shape=st.integers(0, 10**6),
    )


GENERIC = draws(kinds=("gaussian",))
PLANNED: list[tuple[int, int]] = []


def examples(cases, part=5):
    """A hypothesis setting for a test over `cases`: a part of the profile's examples for each."""
    count = max(1, settings.default.max_examples // part)
    PLANNED.append((len(cases), count))
    return settings(max_examples=count)


def each(function, *xs):
    """`function` of tensors, or of the tensors of every name."""
    if isinstance(xs[0], Tensor):
        return function(*xs)
    return {name: function(*(x[name] for x in xs)) for name in xs[0]}


def leaves(x):
    return [x] if isinstance(x, torch.Tensor) else list(x.values())


def tensors(case: Case, draw: Draw, salt: int = 0, kind: str | None = None):
    """A tensor for this norm, or a mapping of tensors; another `salt` gives another one."""
    shape = case.shapes[draw.shape % len(case.shapes)]
    generator = torch.Generator().manual_seed(draw.seed + 7919 * salt)
    axes = getattr(case.norm, "axes", 2) or 2

    def one(shape):
        return _tensor(shape, axes, draw, kind or draw.kind, generator)

    return {k: one(s) for k, s in shape.items()} if isinstance(shape, dict) else one(shape)


def _tensor(shape, axes, draw, kind, generator):
    wide = torch.complex128 if draw.dtype.is_complex else torch.float64

    def gaussian(*size):
        return torch.randn(*size, dtype=wide, generator=generator)

    def integers(low, high):
        return torch.randint(low, high + 1, shape, generator=generator).to(wide)

    x = gaussian(shape)
    if kind == "zero":
        x = 0 * x
    elif kind == "low rank" and len(shape) >= axes:
        m, n, *taps = shape[len(shape) - axes :]
        product = gaussian((*shape[: len(shape) - axes], m, 1)) @ gaussian((1, n))
        x = product.reshape(*product.shape, *[1] * len(taps)).expand(shape).clone()
    elif kind == "signs":
        x = integers(-1, 1)
    elif kind == "tied" and len(shape) >= axes:  # a multiple of an orthogonal matrix
        m, n, *taps = shape[len(shape) - axes :]
        x = 3 * torch.eye(m, n, dtype=wide).reshape(m, n, *[1] * len(taps)).expand(shape).clone()
    elif kind == "sparse":
        x = x * integers(0, 1)
    if wide.is_complex and kind in ("signs", "tied"):
        x = x * torch.tensor([1, 1j, -1, -1j])[integers(0, 3).real.long()]
    exponent = draw.exponent * (1 if torch.zeros(1, dtype=draw.dtype).real.itemsize == 4 else 3)
    return (x * 2.0**exponent).to(draw.dtype)


def inner(norm, g, x) -> Tensor:
    """⟨g, x⟩ in double precision: one number for each member of the batch, as the norm counts."""
    if not isinstance(g, Tensor):
        return torch.stack([(_wide(g[k]).conj() * _wide(x[k])).real.sum() for k in g]).sum()
    value = norm(g)
    product = (_wide(g).conj() * _wide(x)).real
    return product.sum_to_size(norm.spread(value, g).shape).reshape(value.shape)


def times(norm, value, x):
    """Every member of the batch times its own number."""
    if not isinstance(x, Tensor):
        return {k: value.to(t.real.dtype) * t for k, t in x.items()}
    return norm.spread(value.to(x.real.dtype), x) * x


def minus(a, b):
    return each(lambda s, t: s - t, a, b)


def length(norm, x) -> Tensor:
    """Frobenius length; entries of 1e±100 have squares."""
    return inner(norm, x, x).sqrt()


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def assert_close(a, b, *, within):
    """|a − b| ≤ within, where `within` already has the scale of the problem."""
    gap = (torch.as_tensor(a).double() - torch.as_tensor(b).double()).abs()
    bound = torch.as_tensor(within).double().expand(gap.shape)
    assert bool((gap <= bound).all()), (
        f"off by {float(gap.max()):.3g}, allowed {float(bound.min()):.3g}"
    )
