"""Pairs of factors in a model, and the groups that they are stepped in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import Tensor, nn

from steepest._common.errors import invalid, shape_text
from steepest.optim.membership import Rates, routed_groups
from steepest.optim.pair_rule import factor_view, rank_axes
from steepest.routing.places import other_factor
from steepest.routing.table import Routing
from steepest.views import MatrixView, ParameterViews

EXPERTS = "its factors are those of several experts, which are multiplied one by one: override "
"""The beginning of an advice."""


@dataclass(frozen=True)
class FactorPair:
    """Two factors of a product scale·B·A.

    Args:
        a: The place of A among the parameters.
        b: The place of B.
        views: Both as matrices r × everything else.
    """

    a: int
    b: int
    views: tuple[MatrixView, MatrixView]


def find_pairs(routing: Routing) -> list[FactorPair]:
    """The pairs of factors among routed parameters, by their names.

    Factors of an embedding or an output head are none, and those of which one is overridden; nor
    are those that AdaLoRA multiplies with a diagonal matrix between them.
    """
    places = {a.name: i for i, a in enumerate(routing)}
    diagonal = {name.partition("lora_E")[0] for name in places if "lora_E" in name}
    found = []
    for i, a in enumerate(routing):
        j = places.get(a.pair, -1)
        # Names differ in A and B, a and b, down and up: A comes first.
        if j < 0 or a.name > a.pair or a.name.partition("lora_A")[0] in diagonal:
            continue
        if {a.target, routing.assignments[j].target} <= {"matrix", "vector"}:
            shapes = a.shape, routing.assignments[j].shape
            axes = rank_axes(*shapes)
            if axes is not None:
                first, second = map(factor_view, map(len, shapes), axes)
                found.append(FactorPair(i, j, (first, second)))
    return found


def adapter_scales(model: nn.Module) -> dict[str, float | None]:
    """The factor of the product of each low-rank update, by the name of a factor.

    PEFT's modules tell it as `scaling`, for each adapter, loralib's as one number, torchtune's by
    `alpha` and `rank`; others have none. None stands for the factors of several experts.
    """
    found: dict[str, float | None] = {}
    for name, _ in model.named_parameters():
        if other := other_factor(name):
            pairs = enumerate(zip(name, other, strict=False))
            end = next(i for i, (one, two) in pairs if one != two)  # behind `lora_`
            owner = model.get_submodule(name[: name.rindex("lora_", 0, end)].rstrip("."))
            adapter = (*name[end:].split("."), "")[1]
            if getattr(owner, "num_experts", 1) != 1:
                found[name] = None
            elif (scale := _told(owner, adapter)) is not None:
                found[name] = scale
    return found


def _told(owner: nn.Module, adapter: str) -> float | None:
    """The factor that a module with an adapter tells."""
    scaling: Any = getattr(owner, "scaling", None)
    told = scaling.get(adapter) if isinstance(scaling, Mapping) else scaling
    alpha, rank = (getattr(owner, key, None) for key in ("alpha", "rank"))
    if told is None and isinstance(alpha, Real) and isinstance(rank, Real):
        told = float(alpha) / float(rank)
    return float(told) if isinstance(told, Real) and float(told) > 0 else None


def pair_groups(
    routing: Routing,
    scales: Mapping[str, float | None],
    options: Mapping[str, Any],
    rates: Rates,
) -> list[dict[str, Any]]:
    """The groups of routed parameters: pairs, one group for each scale, and the rest for AdamW.

    Args:
        routing: The routing.
        scales: The factors of the products, by the names of factors, as far as they are known.
        options: The hyper-parameters that are given for all groups.
        rates: The learning rates of AdamW.

    Raises:
        ValueError: a pair whose factors are those of several experts.
    """
    named = [(a.name, p) for a, p in zip(routing, routing.parameters, strict=True)]
    pairs: dict[float | None, list[FactorPair]] = {}
    taken: set[int] = set()
    for pair in find_pairs(routing):
        name = named[pair.a][0]
        if name in scales and scales[name] is None:
            raise invalid("params", name, f'{EXPERTS}it with "adamw"')
        pairs.setdefault(scales.get(name), []).append(pair)
        taken |= {pair.a, pair.b}
    groups = []
    for scale, own in pairs.items():
        members = [named[i] for pair in own for i in (pair.a, pair.b)]
        views = ParameterViews([v for pair in own for v in pair.views], [p for _, p in members])
        told = {} if scale is None else {"lora_scale": scale}
        groups.append({**told, **options, "params": members, "views": views})
    hidden = [i for i, a in enumerate(routing) if i not in taken and a.target == "matrix"]
    if hidden:
        # Matrices that are no pair are stepped by AdamW as well.
        lr = rates.of("hidden", options)
        groups.append({**options, "params": [named[i] for i in hidden], "adamw": True, **lr})
    others = [i for i in range(len(named)) if i not in taken and i not in hidden]
    return groups + routed_groups(routing.pick(others), options, rates)


def given_pairs(members: Iterable[Any]) -> dict[str, Any] | None:
    """The factors of pairs (A, B) of tensors in turn, with their views; None for anything else.

    Raises:
        ValueError: two tensors that cannot be multiplied.
    """
    pairs = list(members)
    if not pairs or not all(_is_pair(pair) for pair in pairs):
        return None
    views: list[MatrixView] = []
    for a, b in pairs:
        axes = rank_axes(a.shape, b.shape)
        if axes is None:
            text = f"({shape_text(a.shape)}, {shape_text(b.shape)})"
            raise invalid("params", text, "give pairs of factors A, r × n, and B, m × r")
        views += [factor_view(a.ndim, axes[0]), factor_view(b.ndim, axes[1])]
    params = [p for pair in pairs for p in pair]
    return {"params": params, "views": ParameterViews(views, params)}


def _is_pair(x: object) -> bool:
    """Whether something is a pair of tensors."""
    return isinstance(x, tuple) and len(x) == 2 and all(isinstance(t, Tensor) for t in x)
