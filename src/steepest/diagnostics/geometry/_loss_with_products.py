"""A loss at one point, seen from the weights: what each was multiplied with, and the curvature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from steepest._common.errors import invalid
from steepest.diagnostics.curvature._lanczos import Ritz, lanczos
from steepest.diagnostics.curvature.loss import PRECISE, LossAt, as_named, as_vector
from steepest.diagnostics.geometry.layer_products import Call, RecordedCalls

MISSING = (
    "its input never arrives: the weight itself is given to no linear, embedding, convolution or "
    "matrix product, or only inside nn.MultiheadAttention, a recurrent layer or a parametrization"
)


class LossWithProducts:
    """One evaluation of a loss, with every product of a weight in it.

    Args:
        loss: a closure that gives the loss with its graph.
        weights: the parameters to look at, by name.

    Raises:
        ValueError: as `LossAt`; outputs in half precision, or a closure that fails before the first
            product.
    """

    def __init__(self, loss: Callable[[], Any], weights: Mapping[str, Tensor]) -> None:
        self.weights = weights
        self._seen = RecordedCalls(weights)
        values: list[Any] = []

        def watched() -> Any:
            with self._seen:
                values.append(self._called(loss))
            return values[0]

        self.point = LossAt(watched, weights)
        self._outputs = {
            name: {f"{name} {i}": call.output for i, call in enumerate(calls)}
            for name, calls in self.calls.items()
        }
        outputs = {k: z for every in self._outputs.values() for k, z in every.items()}
        for name, z in outputs.items():
            if z.dtype not in PRECISE:
                raise invalid(
                    "model",
                    f"the output of {name.rpartition(' ')[0]} in {z.dtype}",
                    "look at it in float32 or float64, without autocast",
                )
        # The same value and graph, differentiated by the outputs.
        attached = {k: z for k, z in outputs.items() if z.requires_grad}
        self._inner = LossAt(lambda: values[0], attached) if attached else None

    @property
    def calls(self) -> dict[str, list[Call]]:
        """The products with each weight, in their order."""
        return self._seen.of

    def _called(self, loss: Callable[[], Any]) -> Any:
        try:
            return loss()
        except (TypeError, AttributeError) as error:
            if any(self.calls.values()):
                raise
            raise invalid(
                "loss",
                str(error),
                "it is called as loss(model, batch), not with an output and a target: give for "
                "example lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])",
            ) from error

    def obstacle(self, name: str) -> str:
        """The reason why the comparison says nothing about this weight; empty if it does."""
        calls, slope = self.calls[name], self.point.grad[name]
        if not calls:
            return MISSING
        if not bool(torch.isfinite(slope).all()):
            return "its gradient is not finite"
        if not bool(slope.any()):
            return "its gradient is zero"
        kinds = list(dict.fromkeys(call.product.kind for call in calls))
        if len(kinds) > 1 or any(c.product.view != calls[0].product.view for c in calls):
            return (
                f"shared by {' and '.join(kinds)}: the gradient is the sum of both, and there is "
                "no one input to hold it against"
            )
        if any(a.feeds(b) for i, a in enumerate(calls) for b in calls[i + 1 :]):
            return (
                f"used {len(calls)} times, one use feeding another: the bound has no term for that"
            )
        if self._inner is None or not all(c.output.requires_grad for c in calls):
            return "its output has no graph"
        return "" if self._complete(name) else "the loss depends on it in a way that was not seen"

    def _complete(self, name: str) -> bool:
        """Whether its products explain all of its gradient."""
        assert self._inner is not None, "looked at before"
        outputs, slope = self._outputs[name], self.point.grad[name]
        (found,) = torch.autograd.grad(
            list(outputs.values()),
            [self.weights[name]],
            [self._inner.grad[k] for k in outputs],
            retain_graph=True,
        )
        rounding = torch.finfo(slope.dtype).eps ** 0.5
        return bool((found - slope).norm() <= rounding * slope.norm())

    def curvature(self, name: str, steps: int, tolerance: float) -> Ritz:
        """The largest second derivative of the loss by the outputs of one weight."""
        inner, outputs = self._inner, self._outputs[name]
        assert inner is not None, "there is an obstacle"
        generator = torch.Generator().manual_seed(0)
        drawn = {
            k: torch.randn(z.shape, generator=generator, dtype=torch.float64).to(z)
            for k, z in outputs.items()
        }
        return lanczos(
            lambda v: as_vector(inner.hvp(as_named(v, outputs))),
            as_vector(drawn),
            which="LA",
            steps=steps,
            tolerance=tolerance,
            basis=None,  # outputs may be larger than the model
        )
