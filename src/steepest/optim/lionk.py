"""Lion-K: steps along the gradient of a convex map; with decay, a constraint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from steepest._common.errors import invalid
from steepest.maps import ConvexMap, L1Map
from steepest.norms import Norm
from steepest.optim.batching import Item
from steepest.optim.groups import ADAMW_BETAS, ADAMW_LR, Group, adamw_defaults, members, two_weights
from steepest.optim.optimizer import Constraint, NonFinite, Params, SteepestOptimizer
from steepest.optim.updates import Decay


class LionK(SteepestOptimizer):
    """Lion-K: two averages of the gradient, the gradient of a convex map K, decoupled decay.

        β₁, β₂ = betas
        u = β₁·buffer + (1 − β₁)·grad;  buffer ← β₂·buffer + (1 − β₂)·grad
        W ← (1 − lr·weight_decay)·W − lr·K.grad(u)

    Where it comes to rest W minimises F(W) + K.conjugate(weight_decay·W)/weight_decay: for a norm K
    the loss within the ball K.domain(W) ≤ 1/weight_decay. `maps.L1Map()` is Lion,
    `maps.HalfSquare()` gradient descent, `maps.NuclearMap()` with betas = (μ², μ) Muon with
    Nesterov's momentum, up to the factor √max(1, m/n) that Muon gives to a step.

    Given a module and a map of matrices it routes, as `Muon` does: hidden matrices move along the
    map, the rest by AdamW. A map of entries takes every parameter of a module.

    Args:
        params: a module, a `Routing`, parameters, (name, parameter) pairs, or groups of them. A
            group may have `views` and its own `K`, `lr`, `betas` and `weight_decay`.
        lr: length of a step in the norm `K.domain`, if there is one, else factor of K.grad(u).
        betas: (β₁, β₂), each in [0, 1); the groups hold them as `past` and `momentum`.
        weight_decay: λ ≥ 0; lr·λ is at most 1, unless decay is implicit.
        K: a map of `steepest.maps`, or of your own. Maps of singular values are exact unless made
            with a `polar` method: `maps.NuclearMap(polar=Auto(error=0.05))` costs what Muon costs.
        decay: "explicit" as above, "implicit", W ← (W − lr·K.grad(u))/(1 + lr·λ), or "cautious",
            which decays only entries with K.grad(u)·W ≥ 0, and has no ball.
        constraint: "project" projects every parameter on the ball after each step, exactly, one by
            one; None leaves that to the decay, which gets there exponentially: the distance shrinks
            by 1 − lr·λ.
        nonfinite: "skip" leaves a parameter with NaN or inf in its gradient as it is, without
            waiting for the device; "raise" names it, waiting for the device in every step.
        maximize: ascend instead of descend.
        momentum_dtype: type of the momentum buffers; None means the parameter's.
        max_batch_bytes: bound on one stack of matrices, in bytes, as in `Muon`.
        adamw_lr: learning rate of AdamW for groups with `adamw=True`.
        adamw_betas: AdamW's betas.
        adamw_eps: AdamW's eps.
        adamw_weight_decay: AdamW's decoupled decay.

    Raises:
        ValueError: a value out of range, a map that does not fit a parameter, a projection without
            a ball or with weight_decay = 0.

    Examples:
        >>> import torch
        >>> from steepest import maps
        >>> w = torch.nn.Parameter(torch.tensor([3.0, -1.0]))
        >>> optimizer = LionK([w], lr=0.1, weight_decay=0.5, K=maps.L1Map())
        >>> for _ in range(200):
        ...     w.grad = w.detach() - torch.tensor([3.0, -1.0])
        ...     optimizer.step()
        >>> [round(x, 1) for x in w.tolist()]  # the box |w| ≤ 2 holds the first, not the second
        [2.0, -1.0]

    Sources:
        Chen, Liu, Liang & Liu, Lion secretly solves constrained optimization, arXiv 2310.05898;
        Chen, Li & Liu, Muon optimizes under spectral norm constraints, arXiv 2506.15054.
    """

    objects: ClassVar[tuple[str, ...]] = (*SteepestOptimizer.objects, "K")

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        K: ConvexMap | None = None,
        *,
        decay: Decay = "explicit",
        constraint: Constraint = None,
        nonfinite: NonFinite = "skip",
        maximize: bool = False,
        momentum_dtype: torch.dtype | None = None,
        max_batch_bytes: int | None = None,
        adamw_lr: float | Tensor = ADAMW_LR,
        adamw_betas: tuple[float, float] = ADAMW_BETAS,
        adamw_eps: float = 1e-8,
        adamw_weight_decay: float = 0.0,
    ) -> None:
        K = L1Map() if K is None else K
        past, momentum = two_weights(betas)
        defaults = {
            "lr": lr,
            "K": K,
            "momentum": momentum,
            "past": past,
            "nesterov": False,
            "weight_decay": weight_decay,
            "decay": decay,
            "constraint": constraint,
            "nonfinite": nonfinite,
            "maximize": maximize,
            "momentum_dtype": momentum_dtype,
        }
        rest = adamw_defaults(adamw_lr, adamw_betas, adamw_eps, adamw_weight_decay)
        if not isinstance(K, ConvexMap):
            raise _no_map(K)
        params = members(self._unwrapped(params), K, "K")
        super().__init__(params, defaults, rest=rest, max_batch_bytes=max_batch_bytes)

    def add_param_group(self, param_group: Group) -> None:
        """Add a group; its `betas` are kept as `past` = β₁ and `momentum` = β₂, AdamW's as given.

        Raises:
            ValueError: as the constructor.
        """
        group = dict(param_group)
        if "betas" in group and not group.get("adamw"):
            group["past"], group["momentum"] = two_weights(group.pop("betas"))
        super().add_param_group(group)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        if not isinstance(group["K"], ConvexMap):
            raise _no_map(group["K"])

    def _geometry(self, group: Group) -> ConvexMap:
        K: ConvexMap = group["K"]
        return K

    def _directions(self, group: Group, us: Sequence[Tensor]) -> list[Tensor]:
        return self._geometry(group).grad_all(us, check=False)

    def _lengths(self, group: Group, item: Item) -> list[Tensor | float]:
        return [1.0] * item.parts

    def _ball(self, group: Group) -> Norm | None:
        return self._geometry(group).domain

    def constraint_map(self, group: Group) -> ConvexMap:
        """The group's K."""
        return self._geometry(group)


def _no_map(K: object) -> ValueError:
    return invalid("K", K, "give a map object such as steepest.maps.NuclearMap()")
