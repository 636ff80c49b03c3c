"""A parameter and the magnitudes that its ball bounds, each decomposed only once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from steepest._common.numerics import in_double
from steepest.maps import ConvexMap
from steepest.maps.bases import Basis, Singular, basis_of
from steepest.norms import Norm, Scaled, UnitarilyInvariantNorm
from steepest.optim import ParameterView


def unscaled(norm: Norm, x: Tensor | None = None) -> tuple[Norm, float]:
    """A norm without its factors, and the product of these for a tensor; 1 without one."""
    factor = 1.0
    while isinstance(norm, Scaled):
        factor *= 1.0 if x is None else norm.factor.at(norm.matrix_shape(x))
        norm = norm.norm
    return norm, factor


@dataclass(frozen=True, eq=False)
class BallSizes:
    """One parameter, measured when asked, in double precision and with exact singular values.

    Args:
        of: the parameter, called as in the model.
    """

    of: ParameterView

    @cached_property
    def finite(self) -> bool:
        """Whether all entries are finite; without that nothing else can be measured."""
        return bool(torch.isfinite(self.of.param).all())

    @cached_property
    def exact(self) -> ConvexMap | None:
        """Its K, with exact singular values."""
        return None if self.of.K is None else self.of.K.with_polar(None)

    @property
    def ball(self) -> Norm | None:
        """The norm of the ball."""
        return None if self.exact is None else self.exact.domain

    def parts(self) -> list[Tensor]:
        """The matrices of the parameter."""
        return self.of.parts(in_double(self.of.param))

    @cached_property
    def plain(self) -> Norm | None:
        """The norm of which `ball` is a multiple."""
        return None if self.ball is None else unscaled(self.ball)[0]

    @cached_property
    def factors(self) -> list[float]:
        """The quotient ball/plain of each part, which may depend on its shape."""
        ball = self.ball
        return [1.0 if ball is None else unscaled(ball, part)[1] for part in self.parts()]

    @cached_property
    def basis(self) -> Basis | None:
        """The basis whose magnitudes the ball bounds one by one; None where there is none."""
        if self.plain is None:
            return None
        return (
            Singular() if isinstance(self.plain, UnitarilyInvariantNorm) else basis_of(self.plain)
        )

    @cached_property
    def magnitudes(self) -> list[Tensor]:
        """The magnitudes of each part in that basis."""
        assert self.basis is not None, "else there are none"
        return [self.basis.magnitudes(part) for part in self.parts()]

    @cached_property
    def sizes(self) -> list[float]:
        """The norm of each part in the ball; of a stack of matrices the largest."""
        ball = self.ball
        assert ball is not None, "else there is no norm"
        if self.basis is not None and self.basis.ball == self.plain:
            pairs = zip(self.factors, self.magnitudes, strict=True)
            return [factor * float(found.max()) for factor, found in pairs]
        return [float(ball(part, check=False).max()) for part in self.parts()]
