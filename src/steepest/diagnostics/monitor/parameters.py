"""The parameters that a monitor looks at, each with its norm, its matrices and its step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest._common.numerics import in_double, widened
from steepest.diagnostics.constraint._measured import unscaled
from steepest.maps import ConvexMap, NuclearMap
from steepest.norms import RMS, Norm, Operator, Spectral
from steepest.norms.norm import inner
from steepest.optim import Constrained, SteepestOptimizer
from steepest.optim.groups import default_view
from steepest.optim.muon import torch_newton_schulz
from steepest.optim.updates import shape_factor
from steepest.polar import Svd
from steepest.polar.method import Accuracy
from steepest.routing import Routing, route
from steepest.views import INPUT_FIRST, LINEAR, conv

Cut: TypeAlias = Callable[[Tensor], list[Tensor]]
Group: TypeAlias = Mapping[str, Any]


def layer(name: str) -> str:
    """The name of a layer in a record: its parameter without the word that all have.

    Examples:
        >>> layer("blocks.0.mlp.fc.weight"), layer("head.bias")
        ('blocks.0.mlp.fc', 'head.bias')
    """
    return name.removesuffix(".weight")


@dataclass(frozen=True, eq=False, kw_only=True)
class Watched:
    """A parameter as a monitor sees it.

    Args:
        parameter: its name in the model.
        param: the parameter.
        norm: the norm that its steps are measured in, exact.
        why: the reason for that norm.
        cut: the parameter as the tensors that the norm measures.
        matrices: the parameter as matrices, each of shape (batch, m, n); none of a vector.
        group: its group in the optimizer; empty where the optimizer does not have it.
        state: its state in the optimizer.
        constrained: its constraint under an optimizer of this library; None for AdamW's parameters.
        fan_in: how many inputs an output adds up; 1 of an embedding and of a vector.
    """

    parameter: str
    param: Tensor
    norm: Norm
    why: str
    cut: Cut
    matrices: Cut
    group: Group
    state: Mapping[str, Any]
    constrained: Constrained | None
    fan_in: int

    @property
    def name(self) -> str:
        """The name of its layer."""
        return layer(self.parameter)

    def value(self, key: str) -> float:
        """A hyper-parameter of its group, 0 without it."""
        return float(self.group.get(key) or 0.0)

    @property
    def on_muon(self) -> bool:
        """Whether its steps are polar factors: of this library or of torch.optim.Muon."""
        if self.constrained is None:
            return "ns_steps" in self.group and not self.rest
        geometry = self.constrained.geometry
        exact = not isinstance(geometry, ConvexMap) or geometry.with_polar(None) == NuclearMap()
        return exact and unscaled(self.norm)[0] == Spectral()

    @property
    def rest(self) -> bool:
        """Whether AdamW has it in an optimizer of this library."""
        return bool(self.group.get("adamw"))

    @property
    def decays(self) -> bool:
        """Whether its weights are decayed beside the step, and not by way of the gradient."""
        # torch tells AdamW from Adam by the first key; Muon always decouples.
        keys = ("decoupled_weight_decay", "ns_steps", "adamw")
        decoupled = self.constrained is not None or any(self.group.get(key) for key in keys)
        return decoupled and self.value("lr") * self.value("weight_decay") > 0

    def descended(self, before: Tensor) -> Tensor:
        """The change that a step subtracted from the parameter, beside its decoupled decay.

            explicit:  (1 − lr·weight_decay)·before − after
            implicit:  before − (1 + lr·weight_decay)·after
            cautious:  before − after − lr·weight_decay·before·[(before − after)·before ≥ 0]

        Decay in the gradient, as of torch.optim.SGD, is part of the step.

        Args:
            before: the parameter before the step, in double precision.
        """
        after = in_double(self.param.detach())
        shrink = self.value("lr") * self.value("weight_decay")
        decay = "explicit" if self.rest else self.group.get("decay", "explicit")
        if decay == "implicit":
            return before - (1 + shrink) * after
        if decay == "cautious":
            # An entry's step and its decay have one sign where both take part.
            return before - after - shrink * before * (inner(before - after, before) >= 0)
        return (1 - shrink) * before - after

    @property
    def follows_gradient(self) -> bool:
        """Whether it is stepped without momentum, as far as the optimizer shows."""
        past = self.group.get("momentum")
        # A step of torch.optim.LBFGS goes along no average, but through its own evaluations.
        other = {"betas", "history_size"} & self.group.keys()
        return not (past or other or {"exp_avg", "momentum_buffer"} & self.state.keys())

    def average(self, grad: Tensor, past: Tensor | None) -> Tensor | None:
        """The average u of gradients that a step followed: of one without momentum the gradient.

        None where the optimizer's state does not show it.

        Args:
            grad: the gradient in double precision.
            past: the momentum before the step, for a group that weighs it by its first beta.
        """
        grad = -grad if self.group.get("maximize") else grad
        if self.follows_gradient:
            return grad
        if "exp_avg" in self.state:
            return in_double(self.state["exp_avg"])
        if "momentum_buffer" not in self.state:
            return None
        if "betas" in self.group:
            old = torch.zeros_like(grad) if past is None else in_double(past)
            return grad.lerp(old, self.group["betas"][0])
        buffer, momentum = in_double(self.state["momentum_buffer"]), self.value("momentum")
        if not self.group.get("nesterov"):
            return buffer
        # torch.optim.SGD adds gradients up; everything else here averages them.
        return (
            grad + momentum * buffer if "dampening" in self.group else grad.lerp(buffer, momentum)
        )

    def lengths(self) -> list[float | None]:
        """How long the step of each matrix is over lr·UVᴴ; None where that follows the gradient."""
        parts = self.matrices(self.param.detach())
        if self.constrained is None:
            rule = self.group["adjust_lr_fn"]
            return [shape_factor(part.shape[-2], part.shape[-1], rule) for part in parts]
        if self.constrained.K is None:
            return [None] * len(parts)
        pairs = zip(self.constrained.lengths, parts, strict=True)
        return [length / unscaled(self.norm, part)[1] for length, part in pairs]

    def accuracy(self, m: int, n: int) -> Accuracy:
        """The accuracy that the optimizer's polar method promises for an m × n matrix."""
        if self.constrained is not None:
            method = self.constrained.geometry.polar or Svd()
            return method.accuracy(m, n, self.constrained.works_in)
        quintic = tuple(self.group["ns_coefficients"]), self.group["ns_steps"]
        return torch_newton_schulz(*quintic).accuracy(m, n, widened(self.param.dtype))


class Watch:
    """The parameters of a model under an optimizer, as they are at this moment.

    Args:
        model: the model whose parameters are looked at.
        optimizer: the optimizer that steps them.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self.routing = _routing(model)
        self._sites = dict(_sites(model))

    def __iter__(self) -> Iterator[Watched]:
        """Each parameter that can be trained, in the order of the model."""
        groups = {p: group for group in self.optimizer.param_groups for p in group["params"]}
        ours = self.optimizer if isinstance(self.optimizer, SteepestOptimizer) else None
        balls = {c.param: c for c in ours.constraints()} if ours else {}
        for name, p in self.model.named_parameters():
            if p.requires_grad and p.numel():
                group = groups.get(p, {})
                norm, why, cut, matrices = self._seen(name, p, balls.get(p), group)
                yield Watched(
                    parameter=name,
                    param=p,
                    norm=norm,
                    why=why,
                    cut=cut,
                    matrices=matrices,
                    group=group,
                    state=self.optimizer.state.get(p, {}),
                    constrained=balls.get(p),
                    fan_in=self._fan_in(name, p),
                )

    def _seen(
        self, name: str, p: Tensor, c: Constrained | None, group: Group
    ) -> tuple[Norm, str, Cut, Cut]:
        """The norm of a parameter, where it comes from, and the two ways to cut it."""
        matrices = self._matrices(name, p)
        if c is not None:
            norm = c.geometry.domain if isinstance(c.geometry, ConvexMap) else c.geometry
            if isinstance(norm, Norm):
                whose = f"of the optimizer's group, {c.geometry}"
                return norm.with_polar(None), whose, c.cut, c.cut if norm.axes == 2 else matrices
        if c is None and p.ndim == 2 and "ns_steps" in group and not group.get("adamw"):
            return Spectral(), "of torch.optim.Muon", LINEAR.matrices, LINEAR.matrices
        if p.ndim < 2:
            return RMS(), "a vector", lambda x: [x.reshape(-1)], matrices
        if isinstance(self._sites.get(name), nn.Embedding):
            return Operator(1, "rms"), "an embedding: a row is an input", matrices, matrices
        return Spectral(), "a matrix", matrices, matrices

    def _fan_in(self, name: str, p: Tensor) -> int:
        if p.ndim < 2 or isinstance(self._sites.get(name), nn.Embedding):
            return 1
        return int(self._matrices(name, p)(p.detach())[0].shape[-1])

    def _matrices(self, name: str, p: Tensor) -> Cut:
        """The matrices of a parameter, as routing sees them."""
        if p.ndim < 2:
            return lambda _: []
        if isinstance(self._sites.get(name), nn.Embedding):
            return INPUT_FIRST.matrices
        view = self.routing[name].view if self.routing else None
        return (view or default_view(p.ndim) or conv(p.ndim - 2)).matrices


def _sites(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The module of each parameter."""
    for path, module in model.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            yield f"{path}.{name}".lstrip("."), module


def _routing(model: nn.Module) -> Routing | None:
    """The routing of a model; None for one that it refuses."""
    try:
        return route(model)
    except ValueError:
        return None
