"""A loss at one point of its parameters: value, gradient, and products with its Hessian."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from steepest._common.errors import invalid, shape_text
from steepest.diagnostics._preserved_state import PreservedState

Loss: TypeAlias = Callable[[], Tensor]
"""A function that evaluates the loss, always on the same batch."""

Named: TypeAlias = Mapping[str, Tensor]
"""Tensors by the name of their parameter."""

Params: TypeAlias = nn.Module | Tensor | Named | Iterable[Tensor] | Iterable[tuple[str, Tensor]]
"""The parameters that may move: those of a module, or tensors, with names or without."""

Direction: TypeAlias = Tensor | Named | Sequence[Tensor]
"""A direction: a tensor for each parameter, by name or in their order."""

PRECISE = (torch.float32, torch.float64)
"""Types in which a second derivative has digits."""


def named(params: Params, argument: str = "params") -> dict[str, Tensor]:
    """Parameters that require a gradient, by name: "0", "1", … for those that come without.

    An error calls them `argument`.

    Raises:
        ValueError: nothing to differentiate, no tensors, a name twice, half precision, or complex.
    """
    found: dict[str, Tensor] = {}
    for name, p in _pairs(params):
        if not isinstance(p, Tensor):
            raise invalid("params", type(p).__name__, "give a module, tensors or (name, tensor)")
        if name in found:
            raise invalid("params", name, "give each name once")
        if p.requires_grad:
            found[name] = p
    if not found:
        raise invalid(argument, "nothing to differentiate", "give tensors with requires_grad=True")
    for name, p in found.items():
        if p.is_complex():
            raise invalid(
                argument, f"{name} in {p.dtype}", "give real parameters: torch.view_as_real(p)"
            )
        if p.dtype not in PRECISE:
            raise invalid(
                argument,
                f"{name} in {p.dtype}",
                "second derivatives need float32 or float64: look at model.float() or a copy of it",
            )
    return found


def _pairs(params: Params) -> list[tuple[str, Any]]:
    if isinstance(params, nn.Module):
        return list(params.named_parameters())
    if isinstance(params, Tensor):
        return [("0", params)]
    if isinstance(params, Mapping):
        return list(params.items())
    if not isinstance(params, Iterable):
        raise invalid("params", type(params).__name__, "give a module, tensors or (name, tensor)")
    given: list[Any] = list(params)
    return [
        p if isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], str) else (str(i), p)
        for i, p in enumerate(given)
    ]


class LossAt:
    """A loss where the parameters are: its value, its gradient, its Hessian times vectors.

    The loss is evaluated once, so that all derivatives belong to the same batch and the same
    dropout. Attention is computed by its plain formula, since the fused kernels of torch have no
    second derivative. Nothing is left in `.grad`; torch's random numbers, and the buffers of a
    module, stand as before: the loss at the next point draws the same numbers.

    Args:
        loss: a closure that gives the loss with its graph.
        params: the tensors it is differentiated by.
        model: a module, if `params` is only a part of it.

    Raises:
        ValueError: as `named`; a loss that is not a scalar tensor, has no graph or is not finite,
            or that has no second derivative.
    """

    def __init__(self, loss: Loss, params: Params, model: Params | None = None) -> None:
        self.params = named(params)
        tensors = list(self.params.values())
        devices = sorted({p.device.index for p in tensors if p.device.type == "cuda"})
        with (
            PreservedState(params if model is None else model, ()),
            torch.random.fork_rng(devices),
            torch.enable_grad(),
            sdpa_kernel(SDPBackend.MATH),
        ):
            value = checked(loss())
            slopes: Sequence[Tensor | None] = torch.autograd.grad(
                value, tensors, create_graph=True, allow_unused=True
            )
        self.value = float(value.detach())
        self._graph = dict(zip(self.params, slopes, strict=True))
        self.grad = {
            name: torch.zeros_like(p) if g is None else g.detach()
            for (name, p), g in zip(self.params.items(), slopes, strict=True)
        }

    def hvp(self, v: Named) -> dict[str, Tensor]:
        """H·v for the blocks of the Hessian that `v` names.

        Args:
            v: tensors of the shapes of some parameters, by name; the others are held still.

        Raises:
            ValueError: an operation of the loss has no second derivative.
        """
        slopes = {k: g for k in v if (g := self._graph[k]) is not None and g.requires_grad}
        if not slopes:
            return {k: torch.zeros_like(self.params[k]) for k in v}
        try:
            found: Sequence[Tensor | None] = torch.autograd.grad(
                list(slopes.values()),
                [self.params[k] for k in v],
                [v[k] for k in slopes],
                retain_graph=True,
                allow_unused=True,
            )
        except RuntimeError as error:
            if "derivative for" not in str(error):
                raise
            raise invalid(
                "loss", str(error), "write that operation in differentiable ones"
            ) from None
        return {
            k: torch.zeros_like(self.params[k]) if h is None else h
            for k, h in zip(v, found, strict=True)
        }

    def direction(self, given: Direction, argument: str = "direction") -> dict[str, Tensor]:
        """A direction by the names of the parameters that it moves.

        Args:
            given: a tensor for a single parameter, one for each parameter in their order, or a
                mapping that names some of them.
            argument: the name that an error gives it.

        Raises:
            ValueError: an unknown name, another number of tensors, or another shape.
        """
        if isinstance(given, Tensor):
            given = [given]
        if not isinstance(given, Mapping):
            if len(given) != len(self.params):
                raise invalid(
                    argument,
                    f"{len(given)} tensors",
                    f"give {len(self.params)}, one for each parameter, or a mapping of names",
                )
            given = dict(zip(self.params, given, strict=True))
        if not given or not given.keys() <= self.params.keys():
            unknown = sorted(given.keys() - self.params.keys())
            raise invalid(argument, unknown, f"give some of the names {list(self.params)}")
        for name, d in given.items():
            p = self.params[name]
            if d.shape != p.shape:
                raise invalid(
                    argument,
                    f"{name} of shape {shape_text(d.shape)}",
                    f"give the shape of the parameter, {shape_text(p.shape)}",
                )
        return {k: d.detach().to(self.params[k]) for k, d in given.items()}


def checked(value: Any) -> Tensor:
    """A loss that can be differentiated.

    Raises:
        ValueError: it is not a scalar tensor, has no graph, or is not finite.
    """
    if not isinstance(value, Tensor):
        raise invalid("loss", type(value).__name__, "return the loss as a tensor")
    if value.numel() != 1:
        raise invalid(
            "loss", f"shape {shape_text(value.shape)}", "return one number: a mean or a sum"
        )
    if not value.requires_grad:
        raise invalid(
            "loss",
            "no graph",
            "return the tensor itself, without .item(), .detach() and torch.no_grad()",
        )
    if not bool(torch.isfinite(value.detach())):
        raise invalid("loss", float(value.detach()), "look at a point where it is finite")
    return value.reshape(())


def dot(a: Named, b: Named) -> float:
    """⟨a, b⟩ over the names of `b`, summed in double precision."""
    return sum(float(torch.sum(a[k].double() * t.double())) for k, t in b.items())


def as_vector(x: Named) -> Tensor:
    """All entries of named tensors, (n,), on the device of the first."""
    device = next(iter(x.values())).device
    return torch.cat([t.detach().reshape(-1).to(device) for t in x.values()])


def as_named(vector: Tensor, like: Named) -> dict[str, Tensor]:
    """The named tensors, of the shapes, types and devices of `like`, whose entries these are."""
    parts = vector.split([t.numel() for t in like.values()])
    return {
        k: part.reshape(t.shape).to(t) for (k, t), part in zip(like.items(), parts, strict=True)
    }
