"""The parameters that a monitor looks at, each with its norm, its matrices and its step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest._common.numerics import in_double
from steepest.diagnostics.constraint._ball_sizes import unscaled
from steepest.maps import ConvexMap, NuclearMap
from steepest.norms import Norm, Spectral
from steepest.norms.norm import inner
from steepest.optim import ParameterView, SteepestOptimizer
from steepest.optim.muon import torch_newton_schulz
from steepest.optim.rule import shape_factor
from steepest.polar import Svd
from steepest.polar.method import Accuracy
from steepest.routing import Routing, matrix_views, route
from steepest.routing.layer_norms import LAYER_NORMS, layer_kind
from steepest.sharding import whole
from steepest.views import LINEAR, MatrixView


def layer(name: str) -> str:
    """The name of a layer in a record: its parameter without the word that all have.

    Examples:
        >>> layer("blocks.0.mlp.fc.weight"), layer("head.bias")
        ('blocks.0.mlp.fc', 'head.bias')
    """
    return name.removesuffix(".weight")


@dataclass(frozen=True, eq=False, kw_only=True)
class MonitoredParam(ParameterView):
    """A parameter under any optimizer, called as in the model, as a monitor sees it.

    Args:
        norm: the norm in which its steps are measured, with exact singular values.
        why: the origin of that norm.
        matrix_view: the matrices whose spectra are looked at; None of a vector.
        fan_in: how many inputs an output adds up; 1 of an embedding and of a vector.
    """

    norm: Norm
    why: str
    matrix_view: MatrixView | None
    fan_in: int

    @property
    def layer(self) -> str:
        """The name of its layer."""
        return layer(self.name)

    def measured(self, x: Tensor) -> list[Tensor]:
        """A tensor of its shape as the tensors that its norm measures."""
        return [part.reshape(-1) if part.ndim == 0 else part for part in self.parts(x)]

    def matrices(self, x: Tensor) -> list[Tensor]:
        """A tensor of its shape as matrices, each of shape (batch, m, n); none of a vector."""
        return [] if self.matrix_view is None else self.matrix_view.matrices(whole(x))

    def value(self, key: str) -> float:
        """A hyper-parameter of its group, 0 without it."""
        return float(self.group.get(key) or 0.0)

    @property
    def on_muon(self) -> bool:
        """Whether its steps are polar factors of averages: here, or in torch.optim.Muon."""
        geometry = self.geometry
        if self.mapped:
            return False
        if geometry is None:
            return "ns_steps" in self.group and not self.adamw
        exact = not isinstance(geometry, ConvexMap) or geometry.with_polar(None) == NuclearMap()
        return exact and unscaled(self.norm)[0] == Spectral()

    @property
    def decays(self) -> bool:
        """Whether its weights are decayed beside the step, and not by way of the gradient."""
        # torch tells AdamW from Adam by the first key; Muon always decouples.
        keys = ("decoupled_weight_decay", "ns_steps", "adamw")
        decoupled = self.geometry is not None or any(self.group.get(key) for key in keys)
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
        decay = "explicit" if self.adamw else self.group.get("decay", "explicit")
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
        return not (past or other or "exp_avg" in self.state or self.momentum is not None)

    def average(self, grad: Tensor, past: Tensor | None) -> Tensor | None:
        """The average u of gradients that a step followed: of one without momentum the gradient.

        None where the optimizer's state does not show it.

        Args:
            grad: the gradient in double precision.
            past: the momentum before the step, for a group that weighs it by its first beta.
        """
        if self.group.get("retraction") is not None:
            return None  # it may average other gradients
        grad = -grad if self.group.get("maximize") else grad
        if self.follows_gradient:
            return grad
        if "exp_avg" in self.state:
            return in_double(self.state["exp_avg"])
        if self.momentum is None:
            return None
        if "betas" in self.group:
            old = torch.zeros_like(grad) if past is None else in_double(past)
            return grad.lerp(old, self.group["betas"][0])
        buffer, momentum = in_double(self.momentum), self.value("momentum")
        if not self.group.get("nesterov"):
            return buffer
        # torch.optim.SGD adds gradients up; everything else here averages them.
        return (
            grad + momentum * buffer if "dampening" in self.group else grad.lerp(buffer, momentum)
        )

    def polar_lengths(self) -> list[float | None]:
        """How long the step of each matrix is over lr·UVᴴ; None where that follows the gradient."""
        parts = self.matrices(self.param.detach())
        if self.geometry is None:
            rule = self.group["adjust_lr_fn"]
            return [shape_factor(part.shape[-2], part.shape[-1], rule) for part in parts]
        if self.K is None:
            return [None] * len(parts)
        pairs = zip(self.lengths, parts, strict=True)
        return [length / unscaled(self.norm, part)[1] for length, part in pairs]

    def accuracy(self, m: int, n: int) -> Accuracy:
        """The accuracy that the optimizer's polar method promises for an m × n matrix."""
        if self.geometry is not None:
            method = self.geometry.polar or Svd()
        else:
            quintic = tuple(self.group["ns_coefficients"]), self.group["ns_steps"]
            method = torch_newton_schulz(*quintic)
        return method.accuracy(m, n, self.works_in)


class MonitoredParams:
    """The parameters of a model under an optimizer, as they are at this moment.

    Args:
        model: the model whose parameters are looked at.
        optimizer: the optimizer that steps them.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self.routing = _routing(model)
        self._owners = dict(_owners(model))

    def __iter__(self) -> Iterator[MonitoredParam]:
        """Each parameter that can be trained, in the order of the model."""
        ours = self.optimizer if isinstance(self.optimizer, SteepestOptimizer) else None
        own = {v.param: v for v in ours.parameter_views()} if ours else {}
        groups = {p: group for group in self.optimizer.param_groups for p in group["params"]}
        named = self.routing or dict(self.model.named_parameters())
        views = matrix_views(named, optimizer=self.optimizer, tables=True)
        for name, p in self.model.named_parameters():
            if p.requires_grad and p.numel():
                state = self.optimizer.state.get(p, {})
                foreign = ParameterView(name=name, param=p, group=groups.get(p, {}), state=state)
                yield self._monitored(name, own.get(p, foreign), views.get(name))

    def _monitored(self, name: str, of: ParameterView, view: MatrixView | None) -> MonitoredParam:
        """A parameter with its norm: of the optimizer, else of the kind of its layer.

        Args:
            name: its name in the model.
            of: the parameter under its optimizer.
            view: the matrices that it is; None of a vector.
        """
        shape = tuple(of.param.shape)
        kind = layer_kind(self._owners.get(name, self.model), name.rpartition(".")[2], shape)
        norm = of.geometry.domain if isinstance(of.geometry, ConvexMap) else of.geometry
        measured, why = of.view, f"of the optimizer's group, {of.geometry}"
        if not isinstance(norm, Norm):
            norm = _norm_of(kind, shape)
            if view is None and norm.axes:
                norm = _norm_of("vector", shape)
            measured, why = (view, "a matrix") if norm.axes else (None, "a vector")
            if of.geometry is None and "ns_steps" in of.group and view == LINEAR and not of.adamw:
                norm, measured, why = Spectral(), view, "of torch.optim.Muon"
            elif kind == "embedding":
                why = "an embedding: a row is an input"
        known = {f.name: getattr(of, f.name) for f in fields(ParameterView)}
        return MonitoredParam(
            **{**known, "name": name, "view": measured},
            norm=norm.with_polar(None),
            why=why,
            matrix_view=view,
            fan_in=1 if view is None or kind == "embedding" else view.shapes(shape)[0][2],
        )


def _norm_of(kind: str, shape: tuple[int, ...]) -> Norm:
    """The norm of a kind of layer."""
    norm = LAYER_NORMS[kind].norm("monitor", shape)
    assert norm is not None, "a monitor has one for every layer"
    return norm


def _owners(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
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
