"""The constraint that weight decay hides: where each weight is in its ball, and how optimal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from steepest._common.errors import invalid, shape_text
from steepest._common.numerics import in_double
from steepest._common.text import for_json, table
from steepest.diagnostics._selected import Model, selected
from steepest.diagnostics.constraint._ball_sizes import BallSizes
from steepest.diagnostics.constraint.spectra import ConstraintSpectrum, spectrum_of
from steepest.maps import ConvexMap, FromNorm
from steepest.maps.base import TOLERANCE
from steepest.optim import ParameterView
from steepest.polar._rounding import product_rounding

Gradient = Literal["momentum", "grad"]
"""The gradient of a report: the average that the optimizer keeps, or that of the last batch."""

GRADIENTS = ("momentum", "grad")


@dataclass(frozen=True, kw_only=True)
class ConstraintRow:
    """One parameter in its ball; of several matrices, the one that fills its ball most.

    Args:
        name: the parameter's name.
        shape: the parameter's shape.
        domain: the norm of the ball, as text; empty without one.
        norm: the norm of the weights in the ball; NaN without one.
        radius: length·bound/weight_decay; inf without a ball.
        distance: max(norm − radius, 0).
        kkt: the largest KKT score of its matrices; inf outside the ball, None where there is none.
        note: the reason why there is no ball or no score; else empty.
    """

    name: str
    shape: tuple[int, ...]
    domain: str
    norm: float
    radius: float
    distance: float
    kkt: float | None
    note: str

    @property
    def filled(self) -> float:
        """norm/radius: 1 on the boundary, 0 without a ball."""
        return 0.0 if math.isinf(self.radius) else self.norm / self.radius

    def to_json(self) -> dict[str, Any]:
        """Plain data for JSON, which has neither inf nor NaN: they become None."""
        return for_json({**asdict(self), "shape": list(self.shape), "filled": self.filled})

    def cells(self) -> tuple[str, ...]:
        """The row as text, as `HEADINGS` names it."""
        ball = not math.isinf(self.radius)
        return (
            self.name,
            shape_text(self.shape),
            self.domain or "–",
            f"{self.norm:.4g}" if self.domain else "–",
            f"{self.radius:.4g}",
            f"{self.filled:.3f}" if ball else "–",
            f"{self.distance:.2g}" if ball else "–",
            "–" if self.kkt is None else f"{self.kkt:.2g}",
            self.note,
        )


HEADINGS = ("parameter", "shape", "norm", "‖W‖", "radius", "‖W‖/radius", "distance", "KKT", "")
LEFT = {"parameter", "shape", "norm", ""}


@dataclass(frozen=True, kw_only=True)
class ConstraintReport:
    """The result of `constraint_report`: rows to iterate over, and a table when printed.

    Args:
        rows: one for each parameter that moves in a norm.
        spectra: the result of `constraint_spectra`, if it was asked for.
    """

    rows: tuple[ConstraintRow, ...]
    spectra: tuple[ConstraintSpectrum, ...] = ()

    def __iter__(self) -> Iterator[ConstraintRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def worst(self) -> ConstraintRow | None:
        """The row with the largest norm/radius; None if nothing has a ball."""
        balls = [row for row in self.rows if not math.isinf(row.radius)]
        # NaN compares with nothing, and is worse than anything.
        return max(balls, key=lambda r: (math.isnan(r.norm), r.filled), default=None)

    def to_json(self) -> list[dict[str, Any]]:
        """The rows as plain data for JSON."""
        return [row.to_json() for row in self.rows]

    def __str__(self) -> str:
        return table(HEADINGS, [row.cells() for row in self.rows], left=LEFT)


@torch.no_grad()
def constraint_report(
    model: Model, optimizer: Any, *, gradient: Gradient = "momentum", spectra: bool = False
) -> ConstraintReport:
    """Report where every weight is in the ball of its weight decay, and how near to optimal.

    A step W ← (1 − lr·weight_decay)·W − lr·length·K.grad(u) ends where W minimises

        F(W) + K.conjugate(W/s)·s,   s = length·bound/weight_decay

    so in the ball K.domain(W) ≤ s, if K has a domain. The bound, `K.gradient_bound`, is 1 for an
    exact K and more with an inexact polar method (1 without a domain, or with a projection). The
    KKT score of W is the Fenchel gap

        (K.value(−g) + K.conjugate(W/s) + ⟨W/s, g⟩) / K.domain.dual(g)

    with g = ∇F(W) (over ‖g‖_F without a domain). It is ≥ 0, and inf outside the ball, beyond what
    the type of W can tell. For an exact K it is 0 if and only if W is such a minimiser to first
    order. An inexact polar method ends at W = −s·d/bound, with directions d mostly shorter than
    that; there the score is 1 − ⟨d, g⟩/(bound·K.domain.dual(g)), with `polar=Svd()` 0.

    Which g: with "momentum" the optimizer's own average of the gradients of the minibatches, and
    without momentum that of the last backward, as with "grad". The noise of a minibatch keeps the
    score up, however long the run; for the loss itself call backward on all of the data.

    Changes nothing. In double precision: an SVD of each matrix and gradient in a spectral ball.

    Args:
        model: the module, or (name, parameter) pairs; a part of the model gives a part of the rows.
        optimizer: an optimizer of this library. Parameters that AdamW has are left out.
        gradient: the g of the score: the momentum, or the gradient of the last backward.
        spectra: whether to give `constraint_spectra` too, from the same singular values.

    Returns:
        A row for each parameter that is not frozen; one of several matrices is as its worst.

    Raises:
        ValueError: an optimizer of somebody else, a model that it does not train, no names, or
            another `gradient`.

    Examples:
        >>> import steepest
        >>> w = torch.nn.Parameter(torch.diag(torch.tensor([5.0, 1.0])))
        >>> w.grad = torch.diag(torch.tensor([-2.0, 0.0]))
        >>> optimizer = steepest.SteepestDescent(
        ...     [w], steepest.norms.Spectral(), lr=0.1, weight_decay=0.2
        ... )
        >>> print(constraint_report([("w", w)], optimizer))
        parameter  shape  norm        ‖W‖  radius  ‖W‖/radius  distance  KKT
        w          2×2    Spectral()    5       5       1.000         0    0

    Sources:
        Chen, Liu, Liang & Liu, arXiv 2310.05898; Chen, Li & Liu, arXiv 2506.15054.
    """
    if gradient not in GRADIENTS:
        raise invalid("gradient", gradient, 'give "momentum" or "grad"')
    rows, found = [], []
    for ball_sizes in map(BallSizes, selected(model, optimizer)):
        rows.append(_row(ball_sizes, gradient))
        found.append(spectrum_of(ball_sizes) if spectra else None)
    return ConstraintReport(rows=tuple(rows), spectra=tuple(s for s in found if s is not None))


def _row(b: BallSizes, gradient: Gradient) -> ConstraintRow:
    """The row of a parameter."""
    of = b.of
    norm, radius, score, note = math.nan, max(of.radii), None, of.why_none
    if not b.finite:
        note = note or "the weights are not finite"
    else:
        if b.ball is not None:
            pairs = zip(b.sizes, of.radii, strict=True)
            norm, radius = max(pairs, key=lambda pair: (pair[0] / pair[1], pair[0]))
        score, missing = _score(b, gradient)
        note = note or missing
    return ConstraintRow(
        name=of.name,
        shape=tuple(of.param.shape),
        domain="" if b.ball is None else str(b.ball),
        norm=norm,
        radius=radius,
        distance=0.0 if math.isinf(radius) else max(norm - radius, 0.0),
        kkt=score,
        note=note,
    )


def _score(b: BallSizes, gradient: Gradient) -> tuple[float | None, str]:
    """The largest KKT score of the parts, or None and why."""
    of, K = b.of, b.exact
    if K is None or of.weight_decay == 0:
        return None, ""
    if of.cautious:
        return None, "cautious decay has no KKT score"
    slope = _slope(of, gradient)
    if slope is None:
        return None, "no gradient yet"
    if not bool(torch.isfinite(slope).all()):
        return None, "the gradient is not finite"
    # Without a domain there is no ball, and no bound on what an inexact map can give.
    bounded = K.domain is not None
    scales = of.radii if bounded else [n / of.weight_decay for n in of.lengths]
    sizes = b.sizes if bounded else [0.0] * len(scales)
    parts = zip(b.parts(), of.parts(in_double(slope)), scales, sizes, strict=True)
    return max(_gap(K, w / s, g, n / s, of.param.dtype) for w, g, s, n in parts), ""


def _slope(of: ParameterView, gradient: Gradient) -> Tensor | None:
    """The gradient of what the optimizer minimises; None if it has seen none."""
    if gradient == "momentum" and of.momentum is not None:
        return of.momentum
    if of.param.grad is None:
        return None
    # The buffer has the sign already.
    return -of.param.grad if of.maximize else of.param.grad


def _gap(K: ConvexMap, y: Tensor, g: Tensor, size: float, dtype: torch.dtype) -> float:
    """(K(−g) + K*(y) + ⟨y, g⟩)/‖g‖, the largest of a batch.

    `size` is K.domain(y), 0 without a domain, and `dtype` that of the weights.
    """
    rows, cols, _ = K.matrix_shape(y)
    tolerance = TOLERANCE * product_rounding(rows, cols, dtype)
    if size > 1 + tolerance:
        return math.inf
    value = K.value(-g, check=False)
    gap = value + K.inner(y, g)
    if K.domain is not None and FromNorm(K.domain.dual) == K:
        unit = value  # and K*(y) = 0, both without another SVD
    else:
        gap = gap + K.conjugate(y, tolerance=tolerance, check=False)
        unit = K.inner(g, g).sqrt() if K.domain is None else K.domain.dual(g, check=False)
    # Rounding alone makes it negative; 0/0 is no gradient at a point that needs none.
    return float(torch.where(gap > 0, gap / unit, 0.0).max())
