"""Steepest descent in any norm, one for each parameter group or one for the whole model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar, Unpack, cast

import torch
from torch import Tensor, nn

from steepest._common.checks import check_object
from steepest._common.errors import invalid, shape_text
from steepest._common.norm_names import NORM_NAMES
from steepest._common.numerics import host_value, number
from steepest.norms import MaxOf, Modular, Norm, ProductNorm, parse_norm
from steepest.norms.product import check_names
from steepest.optim.batching import GroupStep, Update
from steepest.optim.choices import Loss, Scale, Sharpness
from steepest.optim.groups import module_params
from steepest.optim.optimizer import Params, SteepestOptimizer
from steepest.optim.options import Group, StepOptions
from steepest.optim.rule import NormRule, SharpRule, UnboundedRule, UpdateRule
from steepest.optim.step_length import estimated_sharpness, search, slope_of


class DescentOptions(StepOptions, total=False):
    """The arguments of `SteepestDescent`, by keyword, for optimizers that are rows of a table.

    They mean what they mean there; `betas` is an argument of its own.
    """

    norm: Norm | ProductNorm | str | None
    sharpness: Sharpness | None
    momentum: float
    nesterov: bool
    weight_decay: float
    scale: Scale | None


class SteepestDescent(SteepestOptimizer):
    """Steepest descent in a norm: decay, momentum, duality map, scale.

        buffer ← momentum·buffer + (1 − momentum)·grad
        u = momentum·buffer + (1 − momentum)·grad  if nesterov else buffer
        W ← (1 − lr·weight_decay)·W − lr·length·norm.dualize(u)

    or with two weights, betas = (β₁, β₂), from the buffer before the step

        u = β₁·buffer + (1 − β₁)·grad;  buffer ← β₂·buffer + (1 − β₂)·grad

    The length is 1 for `scale="unit"`: then a step has norm `lr`. With a `sharpness` λ it is
    norm.dual(u)/λ (`scale="dual"`), the minimiser of the model ⟨u, Δ⟩ + (λ/2)·norm(Δ)², and `lr` is
    1 by default and only there for schedules. With `scale="linesearch"` it is found by evaluating
    the loss: exactly on a quadratic, by Armijo's rule elsewhere.

    Each parameter is a problem by itself: its length follows from its own dual norm. It is one
    problem, with one shared length, for a norm of named blocks (`norms.MaxOf`, `norms.Modular`),
    and whenever the length is estimated or searched for: the norm is then the largest over all
    parameters, its dual their sum.

    `sharpness="estimate"` keeps L = ‖∇f(x + Δ) − ∇f(x)‖†/‖Δ‖ of the last steps: the newest ratio,
    or 0.95 of the estimate before if that is larger. Batch noise is in the ratio, so small batches
    make short steps. The first step has a thousandth of the norm of the weights. The gradient and
    the parameter of the last step are kept for it. While the gradient does not change at all, the
    step doubles.

    A line search calls the closure two to four times more in each step, and what these calls leave
    behind stays: the gradients of the last one, the statistics of batch norms.

    Given a module and a norm of matrices it routes, as `Muon` does: hidden matrices move in the
    norm, the rest by AdamW. A norm of entries takes every parameter of a module, and a norm of
    named blocks those it names, which have to be all.

    Args:
        params: A module, a `Routing`, parameters, (name, parameter) pairs, or groups of them. A
            group may have `views` and its own `norm`, `lr`, `sharpness`, `momentum`, `betas` and
            `weight_decay`.
        norm: A norm of `steepest.norms`, or of named blocks; or its name, as `norms.parse_norm`
            takes it: "spectral", "schatten:4", "operator:rms:rms".
        lr: Norm of a step for `scale="unit"`, factor of the length otherwise (1 if None).
        sharpness: The smoothness constant λ > 0 of the loss in the norm, or "estimate".
        momentum: Weight of the past in the average, in [0, 1).
        nesterov: Whether the average looks one step ahead, which is betas = (momentum², momentum).
        betas: Two weights (β₁, β₂) in [0, 1) in place of `momentum`, as in Lion.
        weight_decay: Decoupled decay; with `scale="unit"` it keeps norm(W) ≤ 1/weight_decay.
        scale: "unit", "dual" or "linesearch"; None means "dual" with a sharpness, else "unit".
        options: The options of every optimizer: see `StepOptions`. A constraint "project" needs
            `scale="unit"`.

    Raises:
        ValueError: neither lr nor sharpness, a scale that contradicts them, a value out of range, a
            norm that does not fit a parameter, or names that are not those of the model.

    Examples:
        >>> from steepest import norms
        >>> w = torch.nn.Parameter(torch.tensor([3.0, 1.0]))
        >>> optimizer = SteepestDescent([w], norm=norms.LInf(), sharpness=4.0)
        >>> loss = w.square().sum()
        >>> loss.backward()
        >>> optimizer.step()
        >>> w.tolist()  # ‖g‖₁/λ = 8/4 along the sign
        [1.0, -1.0]

    Sources:
        Bernstein & Newhouse, arXiv 2409.20325, proposition 1; Large et al., arXiv 2405.14813;
        Carlson et al., Stochastic spectral descent, 2015.
    """

    objects: ClassVar[tuple[str, ...]] = ("norm",)
    rule_keys: ClassVar[tuple[str, ...]] = ("norm", "scale", "sharpness")

    def __init__(
        self,
        params: Params,
        norm: Norm | ProductNorm | str | None = None,
        lr: float | Tensor | None = None,
        *,
        sharpness: Sharpness | None = None,
        momentum: float = 0.0,
        nesterov: bool = False,
        betas: tuple[float, float] | None = None,
        weight_decay: float = 0.0,
        scale: Scale | None = None,
        **options: Unpack[StepOptions],
    ) -> None:
        if scale is None:
            scale = "unit" if sharpness is None else "dual"
        if lr is None and scale != "unit":
            lr = 1.0
        norm = as_norm(norm)
        params = self._unwrapped(params)
        frozen: dict[str, Tensor] = {}
        if isinstance(norm, ProductNorm):
            if isinstance(params, nn.Module):
                frozen = _frozen_without(params, norm)
            params = _by_name(params, norm)
        elif norm is not None:
            params = module_params(params, norm, "norm")
        self._shares_length = scale != "unit" and (
            isinstance(norm, ProductNorm) or scale == "linesearch" or sharpness == "estimate"
        )
        defaults: dict[str, Any] = {
            "lr": lr,
            "norm": norm,
            "sharpness": sharpness,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "scale": scale,
            "estimate": None,
            "known": False,
        }
        # Schedulers ask the defaults for betas: they are there only if they are used.
        if betas is not None:
            defaults["betas"] = betas
        super().__init__(params, defaults, options)
        self._frozen = frozen

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; a `sharpness` of its own gives it `scale="dual"` and lr 1, if not said.

        With `betas` of its own it has no other momentum, if not said.

        Raises:
            ValueError: as the constructor.
        """
        group = dict(param_group)
        norm = group.get("norm")
        if isinstance(norm, str) and norm.lower().partition(":")[0] in NORM_NAMES:
            group["norm"] = parse_norm(norm)
        if group.get("sharpness") is not None and not group.get("adamw"):
            group.setdefault("scale", "dual")
            if self.defaults["lr"] is None:
                group.setdefault("lr", 1.0)
        if "betas" in group and not group.get("adamw"):
            group = {"momentum": 0.0, "nesterov": False, **group}
        super().add_param_group(group)

    @property
    def sharpness(self) -> float | None:
        """The sharpness of the first group, given or estimated; None without, or not known yet.

        An estimate waits for the device.
        """
        group = self.param_groups[0]
        if group["sharpness"] == "estimate":
            return float(group["estimate"]) if bool(group["known"]) else None
        return None if group["sharpness"] is None else float(group["sharpness"])

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        if group["adamw"]:
            if group["scale"] == "linesearch":
                raise invalid("adamw", True, "a line search moves all parameters along their norms")
            return
        check_object("norm", group["norm"], Norm, NORM_OBJECT)
        sharpness, scale = group["sharpness"], group["scale"]
        if sharpness not in (None, "estimate") and not 0 < number(sharpness) < float("inf"):
            raise invalid("sharpness", sharpness, 'give a positive number or "estimate"')
        if scale not in ("unit", "dual", "linesearch"):
            raise invalid("scale", scale, 'give "unit", "dual" or "linesearch"')
        if (scale == "dual") != (sharpness is not None):
            raise invalid(
                "sharpness",
                sharpness,
                f'scale="{scale}" '
                + ('needs one: a positive number or "estimate"' if scale == "dual" else "has none"),
            )
        if scale == "linesearch":
            betas = group.get("betas", ())
            none: dict[str, Any] = {"momentum": group["momentum"], "betas": any(betas) and betas}
            none["weight_decay"] = group["weight_decay"]
            for key, value in none.items():
                if value:
                    raise invalid(key, value, "a line search follows the loss alone: give 0")
        own: dict[str, Any] = {"scale": scale, "sharpness": sharpness}
        for key, value in own.items():
            found = {"linesearch", "estimate"} & {value, self.defaults[key]}
            shared = found or (self._shares_length and key == "scale")
            if shared and value != self.defaults[key]:
                raise invalid(key, value, "one length for all parameters: no group has its own")

    def _make_rule(self, group: Group) -> UpdateRule:
        norm, sharpness = group["norm"], cast(Any, group["sharpness"])
        if group["scale"] == "unit":
            return NormRule(norm)
        if self._shares_length or sharpness == "estimate":
            return UnboundedRule(norm)
        return SharpRule(norm, sharpness if isinstance(sharpness, Tensor) else float(sharpness))

    def _move_together(
        self, steps: list[GroupStep], closure: Callable[[], Loss] | None, loss: Loss | None
    ) -> None:
        searched = self.defaults["scale"] == "linesearch"
        if searched and closure is None and not any(host_value(s.group["lr"]) for s in steps):
            return  # so torch's distributed checkpoints ask for a state that is not there
        if searched and (closure is None or loss is None):
            missing = "step(closure)" if closure is None else "the closure has to return it"
            raise invalid("closure", None, f'scale="linesearch" evaluates the loss: {missing}')
        given = {step.group["sharpness"] for step in steps}
        if len(given) > 1:
            raise invalid("sharpness", given, "one length for all parameters: no group has its own")
        # A parameter that stays is still part of the one problem.
        finite = {p: torch.as_tensor(f, device=p.device) for p, f in steps[0].finite.items()}
        own = [
            replace(s, finite=finite, inner=cast(Norm, s.rule.geometry), kept=list[Update]())
            for s in steps
        ]
        self._move(own)
        moved = [
            (step, update)
            for step, each in zip(steps, own, strict=True)
            for update in each.kept or ()
        ]
        # Stacks follow what a rank holds, and what comes next is asked for by all ranks in turn.
        order = {p: i for i, p in enumerate(p for step in steps for p in step.group["params"])}
        moved.sort(key=lambda pair: order[pair[1].member.param])
        if not moved:
            return
        head, sets = self.param_groups[0], self._replicated[0]
        if searched:
            search(moved, closure, loss, head, sets, self._replicas)  # type: ignore[arg-type]
            return
        slope = slope_of(moved, [update.finite for _, update in moved], sets)
        sharpness: Any = given.pop()
        if sharpness == "estimate":
            sharpness = estimated_sharpness(moved, slope, head, self.state)
        length = slope / sharpness
        for step, update in moved:
            each = length.to(update.member.like.device, update.member.compute_dtype)
            step.apply([update], [[each] * len(update.direction)])

    def __getstate__(self) -> dict[str, Any]:
        """The state of the base class, with the conclusions of the constructor."""
        return {**super().__getstate__(), "_shares_length": self._shares_length}


NORM_OBJECT = 'give a norm object such as steepest.norms.Spectral(), or a text such as "schatten:4"'


def as_norm(norm: Any) -> Norm | ProductNorm | None:
    """A norm that is an argument: an object, or a text as on the command line.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(norm, str):
        return parse_norm(norm)
    if norm is not None:
        check_object("norm", norm, (Norm, ProductNorm), NORM_OBJECT)
    return cast(Norm | ProductNorm | None, norm)


def _frozen_without(model: nn.Module, norm: ProductNorm) -> dict[str, Tensor]:
    """The frozen parameters for which a norm has no block, but for those it is to leave alone."""
    known = norm.blocks.keys() | (norm.massless if isinstance(norm, Modular) else frozenset())
    pairs = model.named_parameters()
    return {name: p for name, p in pairs if not (p.requires_grad or name in known)}


def _by_name(params: Params, norm: ProductNorm) -> Iterator[dict[str, Any]]:
    """One group for each of the norms in a norm of named blocks."""
    if not isinstance(norm, MaxOf):
        raise invalid("norm", norm, "in a sum one block moves at a time: give norms.MaxOf")
    if isinstance(params, nn.Module):
        named: dict[str, Tensor] = dict(params.named_parameters())
    else:
        pairs: list[Any] = list(params)
        if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
            raise invalid(
                "params",
                type(params).__name__,
                "a norm of named blocks needs names: give the module, or (name, parameter) pairs",
            )
        named = dict(pairs)
        if len(named) < len(pairs):
            raise invalid("params", [name for name, _ in pairs], "give each name once")
    massless = norm.massless if isinstance(norm, Modular) else frozenset()
    if not massless <= named.keys():
        raise invalid(
            "massless", sorted(massless - named.keys()), "the model has no such parameters"
        )
    wanted = {name for name, p in named.items() if p.requires_grad} - massless
    check_names("norm", norm.blocks.keys() & wanted | norm.blocks.keys() - named.keys(), wanted)
    groups: dict[Norm, list[tuple[str, Tensor]]] = {}
    for name, block in norm.blocks.items():
        if block.axes == 2 and named[name].ndim > 2:
            raise invalid(
                f"norm[{name!r}]",
                block,
                f"{shape_text(named[name].shape)} is not a matrix: take norms.Conv(spatial) for a "
                "kernel, or give groups with views and norms of their own",
            )
        groups.setdefault(block, []).append((name, named[name]))
    return ({"params": members, "norm": block} for block, members in groups.items())
