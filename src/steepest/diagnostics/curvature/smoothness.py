"""How sharply a loss is curved in a norm: the most that its gradient turns for a unit step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steepest._common.errors import invalid
from steepest._common.numerics import epsilon
from steepest._common.text import for_json
from steepest.diagnostics._preserved_state import PreservedState
from steepest.diagnostics.curvature._joint_norm import JointNorm, joint_norm, views_among
from steepest.diagnostics.curvature._lanczos import BASIS, lanczos
from steepest.diagnostics.curvature.loss import Loss, LossAt, Named, Params, dot, named
from steepest.norms import L2, Frobenius, Norm, ProductNorm, Scaled
from steepest.optim.step_length import PROBE
from steepest.routing.matrices import Views


@dataclass(frozen=True, eq=False, kw_only=True)
class Smoothness:
    """The result of `smoothness`.

    Args:
        value: the largest ‖Hv‖†/‖v‖ that was seen: at most the smoothness at this point.
        one_step: ‖∇f(x + Δ) − ∇f(x)‖†/‖Δ‖ for one short step Δ of steepest descent; None where
            the gradient is zero.
        iterations: the number of products with the Hessian, over all starts.
        converged: whether the start that found `value` ended because it rose no more.
        left: names of the parameters that the norm has no number for, which were held still.
        direction: the v of `value`, of norm 1, by the names of the parameters.
    """

    value: float
    one_step: float | None
    iterations: int
    converged: bool
    left: tuple[str, ...] = ()
    direction: Named = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain data for JSON, without the direction."""
        plain = {**asdict(self), "left": list(self.left)}
        del plain["direction"]
        return for_json(plain)


def smoothness(
    loss: Loss,
    params: Params,
    norm: Norm | ProductNorm,
    *,
    steps: int = 100,
    restarts: int = 8,
    tolerance: float = 1e-6,
    generator: torch.Generator | None = None,
    optimizer: Any = None,
    views: Views | None = None,
) -> Smoothness:
    """A lower bound of the smoothness of a loss in a norm, and what one step shows of it.

        L = sup ‖Hv‖†/‖v‖;  v ← dualize(Hv), while ‖Hv‖† rises

    In a Euclidean norm L is the largest eigenvalue of H in absolute value, by a Lanczos iteration.
    In others, such as ℓ∞, the result may stay below L: restarts help. A norm of entries measures
    all parameters as one vector (`SteepestDescent` takes the largest over them: `norms.MaxOf`), one
    of matrices the largest of them. Singular values are exact, whatever the norm's polar method.

    The one-step estimate is that of the first step of `SteepestDescent(sharpness="estimate")`. It
    moves the parameters by a thousandth of their norm, and puts them back bit for bit.

    Args:
        loss: a closure that gives the loss with its graph; called twice.
        params: a module, tensors, or (name, tensor) pairs.
        norm: a norm of `steepest.norms`.
        steps: the most products with the Hessian, for each start.
        restarts: random starts, beside that from the gradient; a Euclidean norm needs only one.
        tolerance: the smallest relative rise that is worth a step.
        generator: the source of the random starts; None is seed 0.
        optimizer: an optimizer of this library, whose views say what is a matrix.
        views: the matrix that a parameter is, by name; None for one that is none.

    Raises:
        ValueError: as `quadratic_model`; a norm that does not fit, a number out of range.

    Examples:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> round(smoothness(lambda: 0.5 * x[0] ** 2 - 2 * x[1] ** 2, x, L2()).value, 4)
        4.0
    """
    _check(steps, restarts, tolerance)
    tensors = named(params)
    cut = views_among(params, tensors, views=views, optimizer=optimizer)
    measure = joint_norm(norm, tensors, cut)
    point = LossAt(loss, {k: tensors[k] for k in measure.names}, params)
    ends = _climbs(measure, point, restarts, generator, steps=steps, tolerance=tolerance)
    best = max(ends, key=lambda end: end.value)
    return Smoothness(
        value=best.value,
        one_step=_one_step(loss, params, point, measure),
        iterations=sum(end.used for end in ends),
        converged=best.converged,
        left=measure.left,
        direction=best.v,
    )


def _check(steps: int, restarts: int, tolerance: float) -> None:
    if steps < 1:
        raise invalid("steps", steps, "give at least one product with the Hessian")
    if restarts < 0:
        raise invalid("restarts", restarts, "give a number >= 0")
    if not tolerance >= 0:
        raise invalid("tolerance", tolerance, "give a number >= 0")


class _End(NamedTuple):
    """The end of an iteration."""

    value: float
    v: Named
    used: int
    converged: bool


def _climbs(
    measure: JointNorm,
    point: LossAt,
    restarts: int,
    generator: torch.Generator | None,
    *,
    steps: int,
    tolerance: float,
) -> list[_End]:
    """Climb from each start."""
    climb = _climb
    if _is_euclidean(measure, point.grad):
        # A random vector is not orthogonal to an eigenvector: one is enough.
        climb, restarts = _climb_euclidean, min(restarts, 1)
    starts = _starts(measure, point, restarts, generator)
    return [climb(measure, point, v, steps, tolerance) for v in starts]


def _starts(
    measure: JointNorm, point: LossAt, restarts: int, generator: torch.Generator | None
) -> Iterator[dict[str, Tensor]]:
    """The direction of steepest descent, then random ones, all of norm 1."""
    yield measure.dualize(point.grad)
    generator = generator or torch.Generator().manual_seed(0)
    for _ in range(restarts):
        drawn = {
            k: torch.randn(
                p.shape, generator=generator, device=generator.device, dtype=torch.float64
            ).to(p)
            for k, p in point.params.items()
        }
        yield measure.dualize(drawn)


def _climb(measure: JointNorm, point: LossAt, v: Named, steps: int, tolerance: float) -> _End:
    """Climb from v, by v ← dualize(Hv).

    It never falls, whatever the signs in H: ‖Hv⁺‖† ≥ ⟨v, Hv⁺⟩ = ⟨Hv, v⁺⟩ = ‖Hv‖†.

    Sources:
        Boyd, Linear Algebra Appl. 9 (1974).
    """
    value, best = 0.0, v
    for used in range(1, steps + 1):
        h = point.hvp(v)
        up = measure.dualize(h)
        size = dot(h, up)  # ‖Hv‖†, without another decomposition
        if size <= value * (1 + tolerance):
            return _End(value, best, used, True)
        value, best, v = size, v, up
    return _End(value, best, steps, False)


def _is_euclidean(measure: JointNorm, x: Named) -> bool:
    """Whether the norm is a multiple of the length of one vector of all entries."""
    if len(measure.norm.blocks) > 1:
        return False
    ((piece, norm),) = measure.norm.blocks.items()
    plain = norm.norm if isinstance(norm, Scaled) else norm
    return plain in (L2(), Frobenius()) and norm(measure.split(x)[piece]).numel() == 1


def _climb_euclidean(
    measure: JointNorm, point: LossAt, v: Named, steps: int, tolerance: float
) -> _End:
    """Find the eigenvector of the largest eigenvalue in absolute value."""
    ((piece, start),) = measure.split(v).items()
    if not bool(start.any()):
        return _End(0.0, v, 0, True)

    def product(x: Tensor) -> Tensor:
        h = point.hvp(measure.join({piece: x.reshape(start.shape)}))
        return measure.split(h)[piece].reshape(-1)

    flat = start.reshape(-1)
    top = lanczos(product, flat, which="LM", steps=steps, tolerance=tolerance, basis=BASIS)
    if top.vector is None:
        return _End(math.nan, v, top.products, False)
    unit = measure.dualize(measure.join({piece: top.vector.reshape(start.shape)}))
    # ‖Hv‖₂ by Pythagoras; ‖v‖ = c·‖v‖₂ and ‖g‖† = ‖g‖₂/c, so a vector of norm 1 has the length 1/c.
    image = math.hypot(top.value, top.residual)
    return _End(image * dot(unit, unit), unit, top.products, top.converged)


def _one_step(loss: Loss, params: Params, point: LossAt, measure: JointNorm) -> float | None:
    """The turn of the gradient in a short step, over the length of the step as it was stored."""
    if not any(bool(g.any()) for g in point.grad.values()):
        return None
    # The length of the first step of `optim._lengths.estimated_sharpness`.
    part = max(PROBE, *(8 * epsilon(p.dtype) for p in point.params.values()))
    length = part * (measure(point.params) or 1.0)
    before = {k: p.detach().clone() for k, p in point.params.items()}
    step = {k: -length * d for k, d in measure.dualize(point.grad).items()}
    with PreservedState(None, point.params.values()):
        for k, p in point.params.items():
            p.data.add_(step[k])  # which is not counted as a change, as in `PreservedState`
        there = LossAt(loss, point.params, params)
        turned = {k: g - point.grad[k] for k, g in there.grad.items()}
        moved = {k: p.detach() - before[k] for k, p in point.params.items()}
    return measure.dual(turned) / measure(moved)
