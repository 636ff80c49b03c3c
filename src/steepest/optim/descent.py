"""Steepest descent in any norm, one for each parameter group or one for the whole model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from steepest._types import invalid
from steepest.norms import MaxOf, Modular, Norm, ProductNorm
from steepest.norms.product import check_names
from steepest.optim._groups import Group
from steepest.optim._linesearch import line_search
from steepest.optim._moves import Move
from steepest.optim.steepest import Loss, NonFinite, Params, SteepestOptimizer

Scale = Literal["unit", "dual", "linesearch"]
Sharpness = float | Literal["estimate"]

# KellerJordan/Muon, muon.py: learning rate and betas of the AdamW half of MuonWithAuxAdam.
REST_LR = 3e-4
REST_BETAS = (0.9, 0.95)

PROBE = 1e-3
"""Length of the first step over the norm of the weights, while the sharpness is unknown."""

KEPT = 0.95
"""What remains of the estimated sharpness in a step that shows a smaller one."""


class SteepestDescent(SteepestOptimizer):
    """Steepest descent in a norm: decay, momentum, duality map, scale.

        buffer ← momentum·buffer + (1 − momentum)·grad
        u = momentum·buffer + (1 − momentum)·grad  if nesterov else buffer
        W ← (1 − lr·weight_decay)·W − lr·length·norm.dualize(u)

    or with `past`, u = past·buffer + (1 − past)·grad from the buffer before the step.

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
    the parameter of the last step are kept for it.

    Given a module and a norm of matrices it routes, as `Muon` does: hidden matrices move in the
    norm, the rest by AdamW. A norm of entries takes every parameter of a module, and a norm of
    named blocks those it names, which have to be all.

    Args:
        params: a module, a `Routing`, parameters, (name, parameter) pairs, or groups of them. A
            group may have `views` and its own `norm`, `lr`, `sharpness`, `momentum` and
            `weight_decay`.
        norm: a norm of `steepest.norms`, or of named blocks.
        lr: norm of a step for `scale="unit"`, factor of the length otherwise (1 if None).
        sharpness: λ > 0, the smoothness constant of the loss in the norm, or "estimate".
        momentum: weight of the past in the average, in [0, 1).
        nesterov: look one step ahead, which is past = momentum².
        past: weight of the buffer in u, where it is neither momentum nor momentum²: Lion's β₁,
            with β₂ for `momentum`.
        weight_decay: decoupled decay; with `scale="unit"` it keeps norm(W) ≤ 1/weight_decay.
        scale: "unit", "dual" or "linesearch"; None means "dual" with a sharpness, else "unit".
        nonfinite: "skip" leaves a parameter with NaN or inf in its gradient as it is, without
            waiting for the device; "raise" names it, waiting for the device in every step.
        maximize: ascend instead of descend.
        momentum_dtype: type of the momentum buffers; None means the parameter's.
        max_batch_bytes: bound on one stack of matrices, in bytes; a single parameter may exceed it.
        rest_lr: learning rate of AdamW for groups with `rest=True`.
        rest_betas: AdamW's betas.
        rest_eps: AdamW's eps.
        rest_weight_decay: AdamW's decoupled decay for embeddings, heads and your `rest` groups.

    Raises:
        ValueError: neither lr nor sharpness, a scale that contradicts them, a value out of range, a
            norm that does not fit a parameter, or names that are not those of the model.

    Example:
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

    objects: ClassVar[tuple[str, ...]] = (*SteepestOptimizer.objects, "norm")

    def __init__(
        self,
        params: Params,
        norm: Norm | ProductNorm | None = None,
        lr: float | Tensor | None = None,
        *,
        sharpness: Sharpness | None = None,
        momentum: float = 0.0,
        nesterov: bool = False,
        past: float | None = None,
        weight_decay: float = 0.0,
        scale: Scale | None = None,
        nonfinite: NonFinite = "skip",
        maximize: bool = False,
        momentum_dtype: torch.dtype | None = None,
        max_batch_bytes: int = 2**29,
        rest_lr: float | Tensor = REST_LR,
        rest_betas: tuple[float, float] = REST_BETAS,
        rest_eps: float = 1e-8,
        rest_weight_decay: float = 0.0,
    ) -> None:
        if scale is None:
            scale = "unit" if sharpness is None else "dual"
        if lr is None:
            if scale == "unit":
                raise invalid("lr", None, "give lr, the norm of a step, or a sharpness")
            lr = 1.0
        if isinstance(norm, ProductNorm):
            params = _by_name(params, norm)
        elif isinstance(params, nn.Module) and norm is not None and norm.axes is None:
            params = list(params.named_parameters())
        elif isinstance(params, nn.Module) and norm is not None and norm.axes != 2:
            raise invalid("norm", norm, "it is no norm for every parameter: give groups")
        self._one_problem = scale != "unit" and (
            isinstance(norm, ProductNorm) or scale == "linesearch" or sharpness == "estimate"
        )
        defaults = {
            "lr": lr,
            "norm": norm,
            "sharpness": sharpness,
            "momentum": momentum,
            "nesterov": nesterov,
            "past": past,
            "weight_decay": weight_decay,
            "scale": scale,
            "estimate": None,
            "nonfinite": nonfinite,
            "maximize": maximize,
            "momentum_dtype": momentum_dtype,
        }
        rest = {
            "lr": rest_lr,
            "betas": rest_betas,
            "eps": rest_eps,
            "weight_decay": rest_weight_decay,
        }
        super().__init__(params, defaults, rest=rest, max_batch_bytes=max_batch_bytes)

    @property
    def sharpness(self) -> float | None:
        """The sharpness in use, of the first group: given or estimated; waits for the device."""
        group = self.param_groups[0]
        value = group["estimate"] if group["sharpness"] == "estimate" else group["sharpness"]
        return None if value is None else float(value)

    def _norm(self, group: Group) -> Norm:
        norm: Norm = group["norm"]
        return norm

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        if group["rest"]:
            if group["scale"] == "linesearch":
                raise invalid("rest", True, "a line search moves all parameters along their norms")
            return
        if not isinstance(group["norm"], Norm):
            raise invalid(
                "norm",
                group["norm"],
                "give a norm of one tensor, such as steepest.norms.Spectral()",
            )
        if group["past"] is not None and (group["nesterov"] or not 0 <= group["past"] < 1):
            raise invalid("past", group["past"], "give a weight in [0, 1), and no nesterov")
        sharpness, scale = group["sharpness"], group["scale"]
        if sharpness not in (None, "estimate") and not 0 < _number(sharpness) < float("inf"):
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
            for key in ("momentum", "past", "weight_decay"):
                if group[key]:
                    raise invalid(key, group[key], "a line search follows the loss alone: give 0")
        whole = self._one_problem or "estimate" in (sharpness, self.defaults["sharpness"])
        for key in ("scale", "sharpness"):
            if (whole or scale == "linesearch") and group[key] != self.defaults[key]:
                raise invalid(
                    key, group[key], "one length for all parameters: no group has its own"
                )

    def _check_shapes(self, group: Group) -> None:
        for p, view in zip(group["params"], group["views"], strict=True):
            for shape in view.shapes(p.shape) if view else [p.shape]:
                x = torch.empty(tuple(shape), dtype=p.dtype, device="meta")
                if x.numel():
                    group["norm"].accept(x, check=False, argument="params")

    def _lengths(self, group: Group, move: Move) -> list[Tensor | float]:
        if group["scale"] == "unit":
            return [1.0] * len(move.direction)
        return [dual / group["sharpness"] for dual in move.duals()]

    def _descend(
        self, ok: dict[Tensor, Tensor], closure: Callable[[], Loss] | None, loss: Loss | None
    ) -> None:
        if not self._one_problem:
            super()._descend(ok, closure, loss)
            return
        search = self.defaults["scale"] == "linesearch"
        if search and closure is None:
            raise invalid("closure", None, 'scale="linesearch" evaluates the loss: step(closure)')
        todo = [
            (group, move)
            for group in self.param_groups
            if not group["rest"]
            for move in self._moves(group, ok)
        ]
        if not todo:
            return
        if closure is not None and loss is not None and search:
            self._search(todo, closure, _value(loss))
            return
        slope = _total(dual * move.item.ok for _, move in todo for dual in move.duals())
        length = slope / self._sharpness(todo, slope)
        for group, move in todo:
            each = [length.to(move.item.param.device, move.item.work)] * len(move.direction)
            move.take(each, lr=group["lr"], weight_decay=group["weight_decay"])

    def _sharpness(self, todo: list[tuple[Group, Move]], slope: Tensor) -> Tensor | float:
        """The given sharpness, or the estimate after the gradients of this step."""
        given = self.defaults["sharpness"]
        if given != "estimate":
            return float(given)
        head = self.param_groups[0]
        seen = [self._change(move) for _, move in todo]
        known = [pair for pair in seen if pair is not None]
        if known:
            change = _total(c for c, _ in known)
            moved = _total((m for _, m in known), largest=True)
            ratio = torch.where(moved > 0, change / moved, 0.0)
            if head["estimate"] is not None:
                ratio = torch.maximum(ratio, KEPT * head["estimate"].to(ratio))
            head["estimate"] = ratio
        if head["estimate"] is None:
            size = _total((_size(m, m.item.param) for _, m in todo), largest=True)
            estimate = slope / (PROBE * torch.where(size > 0, size, 1.0))
        else:
            estimate = head["estimate"].to(slope)
        # Without a slope, or without any curvature so far, there is no step.
        return torch.where(estimate > 0, estimate, float("inf"))

    def _change(self, move: Move) -> tuple[Tensor, Tensor] | None:
        """‖∇f(x + Δ) − ∇f(x)‖† and ‖Δ‖ of the last step, in this parameter; remembers the next."""
        item, state = move.item, self.state[move.item.param]
        pair = None
        if "previous_grad" in state:
            turned = torch.where(item.ok, item.grad.to(item.dtype) - state["previous_grad"], 0)
            moved = item.param.to(item.dtype) - state["previous_param"]
            duals = [move.norm.dual(part, check=False).sum() for part in item.cut(turned)]
            pair = (_total(duals), _size(move, moved))
        before = state.get("previous_grad", torch.zeros_like(item.grad, dtype=item.dtype))
        state["previous_grad"] = torch.where(item.ok, item.grad.to(item.dtype), before)
        state["previous_param"] = item.param.to(item.dtype, copy=True)
        return pair

    def _search(
        self, todo: list[tuple[Group, Move]], closure: Callable[[], Loss], loss: float
    ) -> None:
        head = self.param_groups[0]
        sign = -1.0 if head["maximize"] else 1.0
        slope = _total(
            dual * (move.item.ok * group["lr"]) for group, move in todo for dual in move.duals()
        )
        size = float(_total((_size(m, m.item.param) for _, m in todo), largest=True))
        first = head["estimate"] or PROBE * (size or 1.0)
        lines = [
            (m.item.param, m.item.param.clone(), m.update([m.item.ok * g["lr"]] * len(m.direction)))
            for g, m in todo
        ]

        def go(length: float) -> None:
            for param, start, update in lines:
                param.copy_(start - length * update)

        def value(length: float) -> float:
            go(length)
            with torch.enable_grad():
                return sign * _value(closure())

        length = 0.0
        try:
            length = line_search(value, sign * loss, -float(slope), float(first))
        finally:
            go(length)
        head["estimate"] = length or None

    def __getstate__(self) -> dict[str, Any]:
        """As the base class, with what the constructor has concluded."""
        return {**super().__getstate__(), "_one_problem": self._one_problem}


def _value(loss: Loss) -> float:
    return float(loss.detach() if isinstance(loss, Tensor) else loss)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _total(values: Iterable[Tensor], *, largest: bool = False) -> Tensor:
    """The sum, or the largest, of all numbers, in float64 where the first of them is."""
    flat = [v.detach().reshape(-1) for v in values]
    every = torch.cat([v.to(flat[0].device, torch.float64) for v in flat])
    return every.amax() if largest else every.sum()


def _size(move: Move, x: Tensor) -> Tensor:
    """The norm of a tensor of the parameter's shape, the largest over its parts."""
    return torch.stack([move.norm(part, check=False).amax() for part in move.item.cut(x)]).amax()


def _by_name(params: Params, norm: ProductNorm) -> Iterator[Group]:
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
    still = norm.still if isinstance(norm, Modular) else frozenset()
    wanted = {name for name, p in named.items() if p.requires_grad} - still
    check_names("norm", norm.blocks.keys() & wanted | norm.blocks.keys() - named.keys(), wanted)
    groups: dict[Norm, list[tuple[str, Tensor]]] = {}
    for name, block in norm.blocks.items():
        groups.setdefault(block, []).append((name, named[name]))
    return ({"params": members, "norm": block} for block, members in groups.items())
