"""The rule of two factors of a product: directions in the norm of what they do to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest._common.numerics import full_precision, widened
from steepest.maps import ConvexMap
from steepest.norms import Norm
from steepest.norms.pair import pair_metrics
from steepest.optim.groups import Views
from steepest.optim.kept import kept_tensors
from steepest.optim.member import Member
from steepest.optim.rule import Shapes, UpdateRule
from steepest.retractions import Retraction, SplitDecay
from steepest.sharding import whole
from steepest.transforms import State, StateShapes
from steepest.views import MatrixView

ROOT = "root"
"""The key of a factor's inverse root in the state, where it is during a step alone."""


@dataclass(frozen=True)
class PairRule(UpdateRule):
    """Steps of two factors along the duality map of `norms.PairNorm`.

    Both are read as r × n matrices, so that one rule is good for both: d = M^−½·polar(M^−½·u).

    Args:
        geometry: The spectral norm.
        scale: The factor of their product.
        cross_term: Whether the metric of A counts the product of both changes.
        decays: Whether there is weight decay, which each factor takes the root of.
    """

    geometry: Norm
    scale: float
    cross_term: bool
    decays: bool

    keeps_state = True

    def state_shapes(self, rows: int, cols: int) -> StateShapes:
        """The inverse root of the metric of a factor."""
        return {ROOT: (rows, rows)}

    def directions(self, us: Sequence[Tensor], states: Sequence[State] = ()) -> list[Tensor]:
        """M^−½·polar(M^−½·u)."""
        roots = [state[ROOT] for state in states]
        if not us:
            return []
        with full_precision(us[0].device, us[0].dtype):
            scaled = [root @ u for root, u in zip(roots, us, strict=True)]
            found = self.geometry.dualize_all(scaled, check=False)
            return [root @ d for root, d in zip(roots, found, strict=True)]

    def lengths(self, shapes: Shapes) -> list[float]:
        """One half: two factors change the product."""
        return [0.5] * max(1, len(shapes))

    @property
    def symmetric(self) -> bool:
        """False: the metric has a side."""
        return False

    @property
    def retraction(self) -> Retraction | None:  # type: ignore[override]
        """The decay of the product; None without one."""
        return SplitDecay() if self.decays else None

    @property
    def constraint_map(self) -> ConvexMap | None:
        """None: the norm is another one at every point."""
        return None


def rank_axes(a: Sequence[int], b: Sequence[int]) -> tuple[int, int] | None:
    """The axis of each of two factors along which they are multiplied; None if there is none.

    PEFT's factors are A, r × n, and B, m × r; of kernels of convolutions B's is 1 × 1. Where both
    ways fit, as for square weights, the rank is the smaller number.

    Examples:
        >>> rank_axes((4, 9), (6, 4)), rank_axes((9, 4), (4, 9)), rank_axes((4, 9), (6, 5))
        ((0, 1), (1, 0), None)
    """
    if min(len(a), len(b)) < 2 or any(size != 1 for size in b[2:]):
        return None
    fits = [(i, 1 - i) for i in (0, 1) if a[i] == b[1 - i]]
    return min(fits, key=lambda axes: a[axes[0]], default=None)


def factor_view(ndim: int, axis: int) -> MatrixView:
    """A factor as a matrix r × everything else."""
    return MatrixView(rows=(axis,), cols=tuple(i for i in range(ndim) if i != axis))


def roots(
    params: Sequence[Tensor],
    views: Views,
    members: Mapping[Tensor, Member],
    rule: PairRule,
    lr: float | Tensor,
) -> dict[Tensor, Tensor]:
    """The inverse roots of the metrics of the factors that take part, shape (1, r, r) each.

    Of sharded factors every rank computes all: they come together for it.

    Args:
        params: The factors A and B of each pair, in turn.
        views: Their views.
        members: Those that take part.
        rule: Their rule.
        lr: The learning rate.
    """
    alike: dict[tuple[int, torch.dtype, torch.device], list[tuple[int, Tensor, Tensor]]] = {}
    for place, a, b in pairs_of(params):
        if a in members or b in members:
            dtype = widened(torch.promote_types(a.dtype, b.dtype))
            factors = [
                view.matrices(whole(p).detach())[0].to(dtype)
                for p, view in zip((a, b), views[place : place + 2], strict=True)
                if view is not None
            ]
            with full_precision(a.device, dtype):
                grams = [x @ x.mT for x in factors]
            key = grams[0].shape[-1], dtype, a.device
            alike.setdefault(key, []).append((place, grams[0], grams[1]))
    found: dict[Tensor, Tensor] = {}
    for own in alike.values():
        metrics = pair_metrics(
            torch.cat([one for _, one, _ in own]),
            torch.cat([other for _, _, other in own]),
            scale=rule.scale,
            length=lr if rule.cross_term else 0.0,
        )
        for side, metric in enumerate(metrics):
            each = metric.root.split(1)
            found.update((params[p + side], r) for (p, _, _), r in zip(own, each, strict=True))
    return found


def pairs_of(params: Sequence[Tensor]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The place of each pair among the factors, with A and B."""
    for place in range(0, len(params), 2):
        yield place, params[place], params[place + 1]


def keep(
    roots: Mapping[Tensor, Tensor],
    members: Mapping[Tensor, Member],
    rule: PairRule,
    state: MutableMapping[Tensor, dict[str, Any]],
) -> None:
    """Put the roots where a step reads what a rule keeps."""
    for p, member in members.items():
        for kept in kept_tensors(member, rule.state_shapes):
            state[p][kept.key] = kept.on_this_rank(member, roots[p].to(member.stack_dtype))


def forget(members: Mapping[Tensor, Member], state: MutableMapping[Tensor, dict[str, Any]]) -> None:
    """Take them away again: they follow from the weights."""
    for p in members:
        state[p].pop(ROOT, None)
        if not state[p]:
            del state[p]
