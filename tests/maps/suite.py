"""The table of all maps, and what the tests give them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from steepest import maps, norms, polar
from steepest.norms import ShapeFactor
from steepest.polar import GramEigh, Svd
from tests.norms.suite import ENTRIES, KERNEL_1D, MATRICES, draws

# The names in which norms print, and maps.
NORMS = {**vars(polar), **vars(norms), "inf": math.inf}
NAMESPACE = {**vars(polar), **vars(maps), "inf": math.inf}


@dataclass(frozen=True)
class Case:
    """A map and what a test has to know of it.

    Args:
        make: the class or function of `steepest.maps` that makes it.
        map: the object.
        shapes: what it is tested on.
        loose: how many times worse than an SVD its arithmetic is.
    """

    make: Callable[..., Any]
    map: Any
    shapes: tuple[Any, ...] = MATRICES
    loose: float = 1.0

    @property
    def name(self) -> str:
        return repr(self.map)

    @property
    def norm(self) -> norms.Norm:
        """What `tests.norms.suite.tensors` reads."""
        return self.map.geometry_norm

    @property
    def is_norm(self) -> bool:
        """Whether K(c·x) = |c|·K(x)."""
        return not any(word in str(vars(self.map)) for word in ("delta", "Square"))


def case(make, *args, shapes=MATRICES, least=1, loose=1.0, **kwargs) -> Case:
    """One line of the table; `least` is the smallest min(m, n) that the map exists for."""
    if least > 1:
        shapes = tuple(s for s in shapes if min(s[-2:]) >= least)
    return Case(make, make(*args, **kwargs), shapes, loose)


def combined(map, shapes=MATRICES, **known) -> Case:
    """A sum or a multiple."""
    return Case(maps.Separable, map, shapes, **known)


GRAM = {"polar": GramEigh(), "loose": 30}

TABLE = (
    case(maps.L1Map, shapes=ENTRIES),
    case(maps.L1Map, dims=(-2, -1)),
    case(maps.NuclearMap),
    case(maps.NuclearMap, **GRAM),
    case(maps.GroupRows),
    case(maps.GroupColumns),
    case(maps.HalfSquare, shapes=ENTRIES),
    case(maps.SchattenMap, 4),
    case(maps.SchattenMap, 1.5, polar=Svd(), loose=100),
    case(maps.TopK, 2, least=2),
    case(maps.SmoothL1, 0.3, shapes=ENTRIES),
    case(maps.SmoothNuclear, 0.5),
    case(maps.SmoothNuclear, 0.1, **GRAM),
    case(maps.Huber, 0.7, shapes=ENTRIES),
    case(maps.Huber, 2, dims=-1),
    case(maps.SpectralHuber, 0.5),
    case(maps.SpectralHuber, 0.7, **GRAM),
    case(maps.DeadZone, 0.4, shapes=ENTRIES),
    case(maps.SpectralDeadZone, 0.6),
    case(maps.SpectralDeadZone, 0.6, **GRAM),
    case(maps.FromNorm, norms.L2(), shapes=ENTRIES),
    case(maps.FromNorm, norms.Lp(3, dims=-1)),
    case(maps.FromNorm, norms.Spectral()),
    case(maps.FromNorm, norms.Operator("rms", "rms").dual),
    case(maps.FromNorm, norms.Conv(1).dual, shapes=KERNEL_1D),
    case(maps.Separable, maps.Root(0.5), maps.Rows()),
    case(maps.Separable, maps.Clip(0.5), maps.Columns()),
    combined(3.0 * maps.L1Map(), ENTRIES),
    Case(maps.NormMap, 2.0 * maps.SchattenMap(4)),
    combined(maps.NuclearMap() + 0.5 * maps.HalfSquare()),
    combined(2.0 * maps.SmoothNuclear(0.5) + maps.SpectralHuber(0.3)),
    combined(maps.NuclearMap(polar=Svd()) + 3.0 * maps.SmoothNuclear(0.2, polar=Svd()), loose=30),
    combined(maps.DeadZone(0.2) + maps.Huber(1.5) + 0.5 * maps.Huber(0.1), ENTRIES),
    combined(maps.GroupRows() + 0.1 * maps.HalfSquare()),
    Case(
        maps.FromNorm,
        maps.FromNorm(norms.Scaled(norms.Schatten(3), ShapeFactor(rows=0.5, taps=1.0))),
    ),
)
NORM_MAPS = tuple(c for c in TABLE if c.is_norm)


def over(cases):
    """A test over these maps, each under its name."""
    return pytest.mark.parametrize("case", cases, ids=[c.name for c in cases])


# Sizes near those of the δ of the table: 2^±5.
NEAR = draws(exponents=(-5, 5))
DOUBLE = draws(dtypes=(torch.float64, torch.complex128), exponents=(-1, 1))
GENERIC = draws(kinds=("gaussian",), dtypes=(torch.float64, torch.complex128), exponents=(-1, 1))
