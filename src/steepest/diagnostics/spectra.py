"""The numbers that a ball bounds one by one: singular values, lengths of rows, entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.diagnostics._selected import Model, selected
from steepest.maps.bases import Basis, Columns, Entries, Rows, Singular, basis_of
from steepest.norms import Norm, Scaled, SpectralNorm
from steepest.optim import Constrained
from steepest.polar.base import in_double

KINDS: dict[type[Basis], str] = {
    Singular: "singular values",
    Rows: "lengths of rows",
    Columns: "lengths of columns",
    Entries: "entries",
}
"""What each basis gives the magnitudes of."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Spectrum:
    """The magnitudes of one parameter, and how large each may become.

    Args:
        name: of the parameter.
        kind: what they are, one of the values of `KINDS`.
        values: all of them in falling order, those of several matrices together, on the CPU.
        limit: the most that each can be in the ball; of several matrices the largest, and `values`
            of the others are scaled up to it.
    """

    name: str
    kind: str
    values: Tensor
    limit: float


@torch.no_grad()
def constraint_spectra(model: Model, optimizer: Any) -> tuple[Spectrum, ...]:
    """What the balls of `constraint_report` bound, number by number, computed in double precision.

    The spectral norm bounds every singular value, ℓ∞ every entry, a largest row every row. The ball
    of another norm of singular values bounds them too, where all others are zero. Nothing is said
    about parameters without a ball, and about balls that bound no such numbers, as that of ℓ2.

    Args:
        model: the module, or (name, parameter) pairs.
        optimizer: of this library.

    Raises:
        ValueError: as for `constraint_report`.

    Example:
        >>> import steepest
        >>> w = torch.nn.Parameter(torch.diag(torch.tensor([3.0, 4.0])))
        >>> optimizer = steepest.Muon([w], weight_decay=0.1, polar=steepest.polar.Svd())
        >>> (found,) = constraint_spectra([("w", w)], optimizer)
        >>> found.kind, found.values.tolist(), round(found.limit, 4)
        ('singular values', [4.0, 3.0], 10.0)
    """
    found = [_spectrum(name, c) for name, c in selected(model, optimizer) if not c.free]
    return tuple(spectrum for spectrum in found if spectrum is not None)


def _spectrum(name: str, c: Constrained) -> Spectrum | None:
    """The magnitudes of one parameter that has a ball."""
    assert c.K is not None, "nothing else has a ball"
    domain = c.K.with_polar(None).domain
    assert domain is not None, "nothing else has a ball"
    plain, scale = domain, []
    parts = c.cut(in_double(c.param))
    for part, radius in zip(parts, c.radii, strict=True):
        plain, factor = _unscaled(domain, part)
        scale.append(radius / factor)
    basis = Singular() if isinstance(plain, SpectralNorm) else basis_of(plain)
    if basis is None:
        return None
    limit = max(scale)
    values = [
        (basis.magnitudes(part) * (limit / own)).flatten()
        for part, own in zip(parts, scale, strict=True)
    ]
    return Spectrum(
        name=name,
        kind=KINDS[type(basis)],
        values=torch.cat(values).sort(descending=True).values.cpu(),
        limit=limit,
    )


def _unscaled(norm: Norm, x: Tensor) -> tuple[Norm, float]:
    """The norm of which this one is a multiple, and the factor for the shape of `x`."""
    factor = 1.0
    while isinstance(norm, Scaled):
        factor *= norm.factor.at(norm.extent(x))
        norm = norm.norm
    return norm, factor
