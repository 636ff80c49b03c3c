"""Lion-K: steps along the gradient of a convex map; with decay, a constraint."""

from __future__ import annotations

from typing import ClassVar, Unpack

from torch import Tensor

from steepest._common.checks import check_object
from steepest._common.errors import invalid
from steepest.maps import ConvexMap, L1Map
from steepest.norms import Norm
from steepest.optim.groups import module_params, two_weights
from steepest.optim.optimizer import Params, SteepestOptimizer
from steepest.optim.options import Group, StepOptions
from steepest.optim.presets import LION_BETAS
from steepest.optim.rule import MapRule, UpdateRule


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
        params: A module, a `Routing`, parameters, (name, parameter) pairs, or groups of them. A
            group may have `views` and its own `K`, `lr`, `betas` and `weight_decay`.
        lr: Length of a step in the norm `K.domain`, if there is one, else factor of K.grad(u).
        betas: The weights (β₁, β₂) of the two averages, each in [0, 1).
        weight_decay: Decoupled decay λ ≥ 0; lr·λ is at most 1, unless decay is implicit.
        K: A map of `steepest.maps`, or of your own. Maps of singular values are exact unless made
            with a `polar` method: `maps.NuclearMap(polar=Auto(error=0.05))` costs what Muon costs.
        options: The options of every optimizer: see `StepOptions`.

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

    objects: ClassVar[tuple[str, ...]] = ("K",)
    rule_keys: ClassVar[tuple[str, ...]] = ("K",)

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = LION_BETAS,
        weight_decay: float = 0.0,
        K: ConvexMap | None = None,
        **options: Unpack[StepOptions],
    ) -> None:
        K = L1Map() if K is None else K
        _check_map(K)
        defaults = {
            "lr": lr,
            "K": K,
            "betas": two_weights(betas),
            "weight_decay": weight_decay,
        }
        super().__init__(module_params(self._unwrapped(params), K, "K"), defaults, options)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        _check_map(group["K"])

    def _make_rule(self, group: Group) -> UpdateRule:
        return MapRule(group["K"])


def _check_map(K: object) -> None:
    if isinstance(K, Norm):
        raise invalid("K", K, f"a norm is a map by steepest.maps.FromNorm(norms.{K!r})")
    check_object("K", K, ConvexMap, "give a map object such as steepest.maps.NuclearMap()")
