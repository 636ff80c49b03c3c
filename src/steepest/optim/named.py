"""Optimizers by name: each reads its row of `PRESETS`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack, cast

from torch import Tensor, nn

from steepest._common.checks import positive
from steepest._common.errors import invalid
from steepest.norms import (
    RMS,
    Norm,
    Operator,
    ProductNorm,
)
from steepest.optim.descent import DescentOptions, SteepestDescent, as_norm
from steepest.optim.options import check_options, routing_options
from steepest.optim.presets import PRESETS, Preset
from steepest.optim.routed import Params
from steepest.optim.rule import UpdateRule
from steepest.routing.layer_norms import EMBEDDING, HEAD, LAYER_NORMS, layer_kind
from steepest.routing.rules import Kind
from steepest.routing.table import Assignment, Routing, route
from steepest.views import ParameterViews


class _Named(SteepestDescent):
    """A row of the table as an optimizer; every value can be changed by its argument."""

    preset: ClassVar[Preset]

    def __init__(
        self,
        params: Params,
        lr: float | Tensor | None = None,
        *,
        betas: tuple[float, float] | None = None,
        **options: Unpack[DescentOptions],
    ) -> None:
        row = self.preset
        check_options(type(self), options, DescentOptions)
        given = {key: value for key, value in options.items() if value is not None}
        sharp = given.get("sharpness") is not None
        values: dict[str, Any] = {"norm": row.norm, "weight_decay": row.weight_decay}
        values["scale"] = "dual" if sharp else row.scale
        if betas is None:
            values |= {"momentum": row.momentum, "nesterov": row.nesterov}
        values |= {"betas": row.betas if betas is None else betas, **given}
        if lr is None and not sharp and values["scale"] != "linesearch":
            raise invalid("lr", None, f"{type(self).__name__} needs a learning rate")
        if values["scale"] == "dual":
            values.setdefault("sharpness", 1.0)
        super().__init__(params, values.pop("norm"), lr, **values)


class SGD(_Named):
    """Gradient descent: ℓ2 with the dual norm as scale, W ← W − lr·u.

    The weights of the average add up to 1, so torch.optim.SGD with momentum μ and (1 − μ)·lr takes
    the same steps. All arguments are those of `SteepestDescent`; `lr` is 1/λ.

    Examples:
        >>> import torch
        >>> w = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> w.grad = torch.tensor([1.0, 2.0])
        >>> SGD([w], lr=0.5).step()
        >>> w.tolist()
        [2.5, 3.0]
    """

    preset = PRESETS["SGD"]


class NormalizedSGD(_Named):
    """Steps of one length: ℓ2 with scale 1, W ← W − lr·u/‖u‖₂ for each tensor.

    All arguments are those of `SteepestDescent`; `lr` is the Euclidean length of a step.
    """

    preset = PRESETS["NormalizedSGD"]


class SignSGD(_Named):
    """Sign descent with momentum (Signum): ℓ∞ with scale 1, W ← W − lr·sign(u).

    All arguments are those of `SteepestDescent`; `lr` is how far every entry moves, and
    `momentum=0` gives signSGD proper.
    """

    preset = PRESETS["SignSGD"]


class Lion(_Named):
    """Lion: sign descent with two averages, W ← (1 − lr·weight_decay)·W − lr·sign(u).

        u = β₁·buffer + (1 − β₁)·grad;  buffer ← β₂·buffer + (1 − β₂)·grad

    `betas` are (β₁, β₂), and (0.9, 0.99) unless given. All other arguments are those of
    `SteepestDescent`; `weight_decay` keeps max|W| ≤ 1/weight_decay. It is `LionK` with K =
    `maps.L1Map()`.
    """

    preset = PRESETS["Lion"]

    def __init__(
        self,
        params: Params,
        lr: float | Tensor | None = None,
        betas: tuple[float, float] | None = None,
        **options: Unpack[DescentOptions],
    ) -> None:
        super().__init__(params, lr, betas=betas, **options)


class SpectralDescent(_Named):
    """The spectral norm with the dual norm as scale: W ← W − lr·‖u‖_*·polar(u).

    All arguments are those of `SteepestDescent`; `lr` is 1/λ, and a module is routed. For another
    polar method give `norm=norms.Spectral(polar=…)`.
    """

    preset = PRESETS["SpectralDescent"]


class PolarGrad(_Named):
    """Muon with the nuclear norm as scale: W ← W − lr·‖u‖_*·polar(u), which goes to 0 with u.

    The momentum comes before the polar factor. All arguments are those of `SteepestDescent`; `lr`
    is 1/λ, and a module is routed. For another polar method give `norm=norms.Spectral(polar=…)`.
    """

    preset = PRESETS["PolarGrad"]


# Pethick et al., arXiv 2502.07529, NanoGPT: radius 3000 for the last layer, 50 for hidden ones.
HEAD_SCALE = 60.0


class Scion(_Named):
    """A norm for each kind of layer, as in Scion: W ← (1 − lr·weight_decay)·W − lr·dualize(u).

        hidden matrices    RMS → RMS     √(out/in)·polar(u)
        convolutions       norms.Conv    √(out/in)·polar(u_tap)/taps at every tap
        embeddings         1 → RMS       every row over its root mean square
        output head        1 → ∞, · in   sign(u)/in
        vectors            RMS           u over its root mean square

    A table that is tied to the head counts as a head. The head has `head_scale` times the learning
    rate and the decay over it, so that its ball is that much larger: decay keeps the
    RMS → RMS norm of a hidden matrix ≤ 1/weight_decay. Momentum and vectors follow the same rule.

    Args:
        params: a module; which parameter is what is read from it (`steepest.route`). Parameters
            without a module are hidden matrices, unless their group has its own `norm`; a `Routing`
            sends its tables and vectors to AdamW.
        lr: The norm of a step of the hidden layers.
        betas: Two weights in place of `momentum`, as in `SteepestDescent`.
        head_scale: The radius of the head over that of a hidden layer.
        options: The arguments of `SteepestDescent`. `norm` is that of the hidden matrices,
            `momentum` is 1 − α in the paper, and `weight_decay` one over the radius of the ball: 0
            is unconstrained Scion.

    Examples:
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
        >>> [group["norm"] for group in Scion(model, lr=0.1).param_groups][2:]
        ['Scaled(ColumnNorm(inf), ShapeFactor(cols=1))', 'RMS()']
    """

    preset = PRESETS["Scion"]

    def __init__(
        self,
        params: Params,
        lr: float | Tensor | None = None,
        *,
        betas: tuple[float, float] | None = None,
        head_scale: float = HEAD_SCALE,
        **options: Unpack[DescentOptions],
    ) -> None:
        positive("head_scale", head_scale)
        params, norm = self._unwrapped(params), as_norm(options.get("norm")) or self.preset.norm
        options["norm"] = norm
        self._kinds: dict[str, str] | None = None
        self._head_scale = head_scale
        if isinstance(params, nn.Module):
            if isinstance(norm, ProductNorm):
                raise invalid("norm", norm, "Scion has a norm for every layer: use SteepestDescent")
            routing = route(params, **routing_options(options))
            self._kinds = {a.name: _kind(a, params) for a in routing}
            params = routing
            for key in routing_options(options):
                del cast(dict[str, Any], options)[key]
        # The constructor's values, which a group of layers may change.
        self._hidden = {
            "norm": norm,
            "lr": 1.0 if lr is None else lr,
            "weight_decay": options.get("weight_decay", self.preset.weight_decay),
        }
        super().__init__(params, lr, betas=betas, **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; layers of a module that is added get the norms of their kinds.

        Raises:
            ValueError: as `SteepestDescent`.
        """
        module = param_group["params"]
        if self._kinds is not None and isinstance(module, nn.Module):
            self._kinds = {a.name: _kind(a, module) for a in route(module)} | self._kinds
        super().add_param_group(param_group)

    def _groups_of(self, routing: Routing, options: dict[str, Any]) -> list[Any]:
        """One group for each kind of layer, hidden matrices first."""
        if self._kinds is None:
            return super()._groups_of(routing, options)
        values = {**self._hidden, **options}
        head = {
            "lr": values["lr"] * self._head_scale,
            "weight_decay": values["weight_decay"] / self._head_scale,
        }
        groups = _layer_groups(routing, self._kinds, values["norm"], head)
        for kind, group in groups.items():
            if kind in self._rates.kinds:
                group.update(self._rates.of(cast(Kind, kind), options))
        return [{**options, **group} for group in groups.values()]

    def _norm_name(self, rule: UpdateRule) -> str:
        return SHORT.get(cast(Norm, rule.geometry).with_polar(None)) or super()._norm_name(rule)

    def __getstate__(self) -> dict[str, Any]:
        """The state of the base class, with what the constructor has read from the module."""
        own = {name: getattr(self, name) for name in ("_kinds", "_head_scale", "_hidden")}
        return {**super().__getstate__(), **own}


SHORT: Mapping[Norm, str] = {
    Operator("rms", "rms"): "RMS→RMS",
    EMBEDDING: "1→RMS",
    HEAD: "sign/in",
    RMS(): "RMS",
}
"""The norms of Scion's layers, as its routing table says them."""


def _kind(a: Assignment, model: nn.Module) -> str:
    """The kind of layer that a parameter belongs to: "hidden", "convolution 2", "embedding", …."""
    kind = layer_kind(model.get_submodule(a.name.rpartition(".")[0]), "weight", a.shape)
    if a.target == "matrix":
        return f"convolution {len(a.shape) - 2}" if kind == "convolution" else "hidden"
    if a.target == "table" and len(a.shape) == 2:
        return "embedding" if kind == "embedding" and not a.aliases else "head"
    return a.target if a.target == "constant" else "vector"


def _norm(kind: str, shape: tuple[int, ...] = ()) -> Norm:
    """The norm of a kind of layer in Scion."""
    norm = LAYER_NORMS[kind].norm("scion", shape)
    assert norm is not None, "Scion has one for every layer"
    return norm


def _layer_groups(
    routing: Routing, kinds: Mapping[str, str], hidden: Norm, head: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """A group for each kind of layer, hidden matrices first; `head` is for that of the head."""
    members: dict[str, list[tuple[Assignment, Tensor]]] = {}
    for a, p in zip(routing, routing.parameters, strict=True):
        # A routing that came without its module says less.
        kind = kinds.get(a.name) or {"matrix": "hidden", "table": "head"}.get(a.target, a.target)
        if a.target != "constant":
            members.setdefault(kind, []).append((a, p))
    fixed = {"hidden": hidden, **{k: _norm(k) for k in ("embedding", "head", "vector")}}
    groups: dict[str, dict[str, Any]] = {}
    for kind in (kind for kind in {**fixed, **members} if members.get(kind)):
        shape = members[kind][0][0].shape
        norm = fixed.get(kind) or _norm("convolution", shape).with_polar(hidden.polar)
        groups[kind] = {"params": [(a.name, p) for a, p in members[kind]], "norm": norm}
        if kind == "hidden" and norm.axes == 2:
            seen = [a.view for a, _ in members[kind] if a.view]
            groups[kind]["views"] = ParameterViews(seen, [p for _, p in members[kind]])
        if kind == "head":
            groups[kind].update(head)
    return groups
