"""Muon for the two factors of low-rank updates, in the norm of their product."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Unpack, cast

from torch import Tensor, nn

from steepest._common.checks import check_object, positive
from steepest._common.errors import invalid
from steepest._common.numerics import host_value
from steepest.norms import Spectral
from steepest.optim.batching import GroupStep
from steepest.optim.choices import SLOTS
from steepest.optim.groups import Views, name_of
from steepest.optim.member import Member
from steepest.optim.optimizer import SteepestOptimizer
from steepest.optim.options import Group, StepOptions, routing_options
from steepest.optim.pair_rule import PairRule, forget, keep, pairs_of, roots
from steepest.optim.pairs import adapter_scales, find_pairs, given_pairs, pair_groups
from steepest.optim.presets import FAST
from steepest.optim.routed import Params
from steepest.optim.rule import UpdateRule
from steepest.polar import PolarMethod
from steepest.routing.by_name import route_by_name
from steepest.routing.places import other_factor
from steepest.routing.table import Routing, route

Pairs = Params | Iterable[tuple[Tensor, Tensor]]
"""The parameters of `LoRAMuon`: those of any optimizer, or pairs of factors (A, B)."""

REMEDY = (
    "give a model whose factors are called lora_A and lora_B, or lora_down and lora_up; or pairs "
    "[(A, B), …] of factors A, r × n, and B, m × r, and all other parameters in a group with "
    "adamw=True"
)


class LoRAMuon(SteepestOptimizer):
    """LoRA-Muon: steepest descent of the product of two factors, W = W₀ + scale·B·A.

        u_A, u_B = momentum averages of the gradients
        A ← k·A − (lr/2)·M_A^−½·polar(M_A^−½·u_A)/k;  B ← k·B − (lr/2)·polar(u_B·M_B^−½)·M_B^−½/k

    with k = √(1 − lr·weight_decay) and the metrics of `norms.PairNorm`, both from the factors
    before the step: M_B = scale²·A·Aᵀ, M_A = scale²·Bᵀ·B + (lr/2)²·(A·Aᵀ)⁻¹. To first order each
    factor moves the product by lr/2 in the spectral norm, whatever their sizes are, and a step
    moves it by (1 + √2)/2·lr at most, products of both changes included. Steps do not depend on how
    the product is split into factors, as far as the momentum allows. B = 0 moves first: the
    gradient of A is zero then.

    Given a module, it finds the pairs by their names, as those of PEFT, with their scales. All
    other parameters are stepped by AdamW: magnitudes of DoRA, trained heads and gains, the factors
    of embeddings. `print(optimizer.routing)` tells.

    Args:
        params: A module, named parameters, pairs of factors [(A, B), …] with shapes r × n and
            m × r, or groups of them. A group may hold `lora_scale`.
        lr: Bound on the spectral norm of a step of the product, to first order.
        weight_decay: Decoupled decay of the product, 1 − lr·weight_decay for each step.
        momentum: Weight of the past in the average, in [0, 1).
        nesterov: Whether the average looks one step ahead.
        lora_scale: The factor of products whose module tells none.
        cross_term: Whether M_A has its second term. Without it the steps are those of the
            publication, and have no bound while the product is short or of a low rank.
        polar: The polar method; None means `Auto(error=0.05)`.
        options: The options of every optimizer: see `StepOptions`. `before`, `after`, `retraction`
            and `constraint` have no meaning here, and `decay` is "explicit".

    Raises:
        ValueError: a value out of range, no pair, factors that cannot be multiplied, or a parameter
            without a partner outside an `adamw` group.

    Examples:
        >>> import torch
        >>> a, b = nn.Parameter(torch.eye(2, 3)), nn.Parameter(torch.zeros(4, 2))
        >>> optimizer = LoRAMuon([(a, b)], lr=0.1)
        >>> (b @ a - torch.ones(4, 3)).square().sum().backward()
        >>> optimizer.step()
        >>> round(float(torch.linalg.matrix_norm((b @ a).detach(), 2)), 2)
        0.05

    Sources:
        Cesista et al., LoRA-Muon, arXiv 2606.12921, algorithm 1. The second term of M_A is ours.
    """

    objects: ClassVar[tuple[str, ...]] = ("polar",)
    rule_keys: ClassVar[tuple[str, ...]] = ("polar", "lora_scale", "cross_term", "weight_decay")

    def __init__(
        self,
        params: Pairs,
        lr: float | Tensor,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        nesterov: bool = False,
        *,
        lora_scale: float = 1.0,
        cross_term: bool = True,
        polar: PolarMethod | None = None,
        **options: Unpack[StepOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "lora_scale": lora_scale,
            "cross_term": cross_term,
            "polar": polar or FAST,
        }
        self._scales: dict[str, float | None] = {}
        given: Any = self._unwrapped(cast(Params, params))
        asked = routing_options(options)
        if isinstance(given, nn.Module):
            self._scales = adapter_scales(given)
            given = route(given, **asked)
        elif not isinstance(given, Routing | Tensor | type):
            given = list(given)
            if given and all(isinstance(x, tuple) and isinstance(x[0], str) for x in given):
                given = route_by_name(given, **asked)
            elif given_pairs(given):
                given = [{"params": given}]
        if isinstance(given, Routing):
            if not isinstance(params, Routing):
                for key in asked:
                    del cast(dict[str, Any], options)[key]
            if not find_pairs(given):
                raise invalid("params", "no pair of factors", REMEDY)
        elif isinstance(given, list):
            given = [self._opened(group) for group in given]
        super().__init__(given, defaults, options)

    def _opened(self, group: Any) -> Any:
        """A group with the factors of its pairs in turn."""
        members = group["params"] if isinstance(group, Mapping) else None
        if members is None or isinstance(members, nn.Module | Routing | Tensor):
            return group
        members = list(members)
        return {**group, **(given_pairs(members) or {"params": members})}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group: a module, named parameters, or pairs (A, B).

        Raises:
            ValueError: as the constructor.
        """
        module = param_group["params"]
        if isinstance(module, nn.Module):
            self._scales = adapter_scales(module) | self._scales
        super().add_param_group(self._opened(param_group))

    def _groups_of(self, routing: Routing, options: dict[str, Any]) -> list[Any]:
        """Pairs, a group for each scale; then what AdamW steps."""
        return pair_groups(routing, self._scales, options, self._rates)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        if group["adamw"]:
            return
        held = cast(dict[str, Any], group)
        positive("lora_scale", held["lora_scale"])
        remedy = "give a method object such as steepest.polar.Auto(error=0.05)"
        check_object("polar", held["polar"], PolarMethod, remedy)
        for key in SLOTS:
            if held.get(key) is not None:
                raise invalid(key, held[key], "pairs of factors have their own rule: leave it out")
        if held["decay"] != "explicit":
            raise invalid("decay", held["decay"], 'pairs of factors decay together: "explicit"')

    def _check_shapes(self, group: Group, views: Views, rule: UpdateRule) -> None:
        super()._check_shapes(group, views, rule)
        params = group["params"]
        if len(params) % 2:
            raise invalid("params", f"{len(params)} factors", REMEDY)
        pairs = zip(params, views, strict=True)
        ranks = [view.shapes(p.shape)[0][1] if view else 0 for p, view in pairs]
        for place, a, b in pairs_of(params):
            names = name_of(group, a), name_of(group, b)
            partners = other_factor(names[0]) in ("", names[1])
            if ranks[place] != ranks[place + 1] or not partners:
                raise invalid("params", ", ".join(names), f"they are no pair: {REMEDY}")

    def _make_rule(self, group: Group) -> UpdateRule:
        held = cast(dict[str, Any], group)
        return PairRule(
            Spectral(polar=held["polar"]),
            scale=held["lora_scale"],
            cross_term=held["cross_term"],
            decays=host_value(held["weight_decay"]) != 0,
        )

    def _norm_name(self, rule: UpdateRule) -> str:
        return f"{super()._norm_name(rule)} of {cast(PairRule, rule).scale:g}·B·A"

    def _move(self, steps: Sequence[GroupStep]) -> None:
        """Take the steps of groups, for which each factor is told the metric that it moves in."""
        plan, every = self._plan(steps), dict[Tensor, Member]()
        try:
            for step in steps:
                members = {m.param: m for m in plan.members(step.place)}
                every |= members
                rule, views = cast(PairRule, step.rule), self._views[step.place]
                found = roots(step.group["params"], views, members, rule, step.group["lr"])
                keep(found, members, rule, self.state)
            super()._move(steps)
        finally:
            forget(every, self.state)

    def __getstate__(self) -> dict[str, Any]:
        """The state of the base class, with the scales that modules have told."""
        return {**super().__getstate__(), "_scales": self._scales}
