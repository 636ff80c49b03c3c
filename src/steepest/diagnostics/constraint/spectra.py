"""The numbers that a ball bounds one by one: singular values, lengths of rows, entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.diagnostics._selected import Model, selected
from steepest.diagnostics.constraint._ball_sizes import BallSizes
from steepest.maps.bases import Basis, Columns, Entries, Rows, Singular

KINDS: dict[type[Basis], str] = {
    Singular: "singular values",
    Rows: "lengths of rows",
    Columns: "lengths of columns",
    Entries: "entries",
}
"""The name of the magnitudes of each basis."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ConstraintSpectrum:
    """The magnitudes of one parameter, and how large each may become.

    Args:
        name: the parameter's name.
        kind: the kind of the magnitudes, one of the values of `KINDS`.
        values: all of them in falling order, those of several matrices together, on the CPU.
        limit: the most that each can be in the ball; of several matrices the largest, and `values`
            of the others are scaled up to it.
    """

    name: str
    kind: str
    values: Tensor
    limit: float


@torch.no_grad()
def constraint_spectra(model: Model, optimizer: Any) -> tuple[ConstraintSpectrum, ...]:
    """The magnitudes that the balls of `constraint_report` bound, computed in double precision.

    The spectral norm bounds every singular value, ℓ∞ every entry, a largest row every row. The ball
    of another norm of singular values bounds them too, where all others are zero. Nothing is said
    about parameters without a ball or with NaN or inf in them, and about balls that bound no such
    numbers, as that of ℓ2. `constraint_report(spectra=True)` gives the same beside the report.

    Args:
        model: the module, or (name, parameter) pairs.
        optimizer: an optimizer of this library.

    Raises:
        ValueError: as for `constraint_report`.

    Examples:
        >>> import steepest
        >>> w = torch.nn.Parameter(torch.diag(torch.tensor([3.0, 4.0])))
        >>> optimizer = steepest.Muon([w], weight_decay=0.1, polar=steepest.polar.Svd())
        >>> (found,) = constraint_spectra([("w", w)], optimizer)
        >>> found.kind, found.values.tolist(), round(found.limit, 4)
        ('singular values', [4.0, 3.0], 10.0)
    """
    found = (spectrum_of(ball_sizes) for ball_sizes in map(BallSizes, selected(model, optimizer)))
    return tuple(spectrum for spectrum in found if spectrum is not None)


def spectrum_of(b: BallSizes) -> ConstraintSpectrum | None:
    """The magnitudes of one parameter; None if its ball bounds none, or they are not finite."""
    if b.of.why_none or not b.finite or b.basis is None:
        return None
    limits = [radius / factor for radius, factor in zip(b.of.radii, b.factors, strict=True)]
    limit = max(limits)
    values = [
        (found * (limit / own)).flatten() for found, own in zip(b.magnitudes, limits, strict=True)
    ]
    return ConstraintSpectrum(
        name=b.of.name,
        kind=KINDS[type(b.basis)],
        values=torch.cat(values).sort(descending=True).values.cpu(),
        limit=limit,
    )
