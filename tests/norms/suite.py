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

from steepest import norms
from steepest.norms import BlockLayout, ShapeFactor
from steepest.polar import GramEigh, Svd
from steepest.testing._tensors import DTYPES, KINDS, Draw, drawn, rounding

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
    case(norms.MaxOver, norms.KyFan(1), BlockLayout("taps", 1), shapes=KERNEL_1D, costly=10),
    case(norms.SumOver, norms.L2(dims=-1), BlockLayout("columns"), costly=10),
    case(norms.SumOver, norms.Lp(1.5, dims=-1), BlockLayout("rows"), costly=25),
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
    case(norms.Scaled, norms.Conv(2), ShapeFactor(taps=-1.0, denominator=7.0), shapes=KERNELS),
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


class Drawn(NamedTuple):
    """What hypothesis chooses; `tensors` makes the input of one norm of it."""

    seed: int
    kind: str
    dtype: torch.dtype
    exponent: int
    shape: int

    @property
    def rtol(self) -> float:
        return rounding(self.dtype)


def draws(kinds=KINDS, dtypes=DTYPES, exponents=(-100, 100)):
    """Any input: 2^±100 is 1e±30; in double precision three times as many digits."""
    return st.builds(
        Drawn,
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


def tensors(case: Case, draw: Drawn, salt: int = 0, kind: str | None = None):
    """A tensor for this norm, or a mapping of tensors; another `salt` gives another one."""
    shape = case.shapes[draw.shape % len(case.shapes)]
    axes = getattr(case.norm, "axes", 2) or 2
    return drawn(Draw(*draw[:4], shape), axes, salt, kind)
