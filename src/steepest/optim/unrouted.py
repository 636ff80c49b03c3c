"""Parameters that come without their module: what names and shapes tell of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

from torch import Tensor, nn

from steepest._common.errors import invalid, shape_text
from steepest.optim.choices import Unrouted
from steepest.optim.foreign import check_whole
from steepest.optim.group_keys import translate
from steepest.optim.membership import MEMBERS, Rates, extended, is_told, routed_groups
from steepest.optim.notices import Notices
from steepest.routing.by_name import route_by_name
from steepest.routing.table import Routing, route
from steepest.views import LINEAR, default_view

TALL = 6
"""Rows over columns of a matrix from which on it is taken for a table; a gated layer has 5.4."""

SMALLEST = 64
"""Rows from which on a matrix is taken for a table."""

FACTORS = 8
"""Bound on how much more tall than wide the two factors of a low-rank update are."""

SHAPES = (
    "stepped as matrices, and by their shapes they look like embeddings or output heads, which "
    "AdamW should have. Give the module, or names with the parameters, or put them into a group "
    "with adamw=True"
)
NAMES = (
    "AdamW has them, since by their names they are embeddings or output heads. To step them as "
    "matrices put them into a group with adamw=False"
)


def grouped(params: Iterable[Any]) -> list[dict[str, Any]]:
    """Parameters, pairs or groups as groups whose `params` is a list.

    Integers, such as the quantised weights below an adapter, have no gradient and are left out.

    Raises:
        ValueError: a class in the place of a model.
    """
    if isinstance(params, type):
        name = params.__name__
        raise invalid("params", name, f"this is a class: give a model, {name}(…)")
    every: list[Any] = list(params)
    if every and not isinstance(every[0], Mapping):
        every = [{"params": every}]
    return [normalised(group) for group in every]


def normalised(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group in this library's keys, whose `params` is a list of what has a gradient."""
    made = dict(group)
    translate(made)
    given, names = made["params"], made.get("param_names")
    if isinstance(given, nn.Module | Routing | Set):
        return made
    members = [given] if isinstance(given, Tensor) else list(given)
    stay = [i for i, member in enumerate(members) if _is_real(member)]
    made["params"] = [members[i] for i in stay]
    if names is not None and len(names) == len(members):
        made["param_names"] = [names[i] for i in stay]
    return made


def _is_real(member: Any) -> bool:
    """Whether a parameter, or that of a pair, holds real or complex numbers; True of all else."""
    tensor = member[1] if isinstance(member, tuple) and len(member) == 2 else member
    if not isinstance(tensor, Tensor):
        return True
    return tensor.dtype.is_floating_point or tensor.is_complex() or tensor.requires_grad


def names_in(group: Mapping[str, Any]) -> list[tuple[str, Tensor]] | None:
    """The (name, parameter) pairs of a group; None unless all of its members have names."""
    members = group["params"]
    if isinstance(members, Tensor | nn.Module | Routing) or not members:
        return None
    if all(isinstance(member, tuple) for member in members):
        return list(members)
    names = group.get("param_names")
    return list(zip(names, members, strict=True)) if names and len(names) == len(members) else None


def takes_matrices(defaults: Mapping[str, Any]) -> bool:
    """Whether groups that name no geometry of their own are of matrices."""
    geometry = defaults.get("norm", defaults.get("K"))
    if geometry is None:
        return "norm" not in defaults
    return getattr(geometry, "axes", None) == 2  # a norm of named blocks has none


def sort_groups(groups: list[dict[str, Any]], notices: Notices, **options: Any) -> Routing | None:
    """Route the parameters that have names, and say what looks like a table among the others.

    Args:
        groups: Groups as `grouped` makes them.
        notices: The warnings of the optimizer.
        options: The options of `steepest.route`.

    Returns:
        The routing of the members of all groups with names that do not say themselves what they
        are, in their order; None if there are none.
    """
    untold = [group for group in groups if not is_told(group)]
    named = [pairs for pairs in map(names_in, untold) if pairs]
    if not named:
        if len(untold) == len(groups):
            found = [
                f"parameter {i} ({shape_text(group['params'][i].shape)})"
                for group in groups
                for i in like_tables(group["params"])
            ]
            notices.tables(found, SHAPES)
        return None
    routing = route_by_name([pair for pairs in named for pair in pairs], **options)
    # Of a list of matrices alone the caller has said what they are.
    if all(p.ndim == 2 for pairs in named for _, p in pairs):
        notices.tables([a.name for a in routing if a.target == "table"], NAMES)
    else:
        notices.guesses(routing)
    matrices = [
        (a.name, p)
        for a, p in zip(routing, routing.parameters, strict=True)
        if a.target == "matrix" and p.ndim == 2 and a.view == LINEAR
    ]
    tall = like_tables([p for _, p in matrices])
    notices.tables([f"{matrices[i][0]} ({shape_text(matrices[i][1].shape)})" for i in tall], SHAPES)
    return routing


def like_tables(members: Any) -> list[int]:
    """Places of members of a list of matrices that look like embeddings or output heads.

    They have many rows for their columns, as a vocabulary has, and no matrix beside them is the
    other factor of a low-rank update.
    """
    if not isinstance(members, list) or not all(isinstance(p, Tensor) for p in members):
        return []
    shapes = [tuple(p.shape) for p in members]
    matrices = [s for s in shapes if len(s) == 2 and min(s) > 1]
    if not 1 < len(matrices) == len(shapes):
        return []
    # The largest ratio of columns to rows among the matrices with as many rows.
    wide = {m: n / m for m, n in sorted(matrices)}
    return [
        i
        for i, (m, n) in enumerate(matrices)
        if m >= max(SMALLEST, TALL * n) and wide.get(n, 0.0) * FACTORS < m / n
    ]


def split_by_shape(group: dict[str, Any], rates: Rates) -> Iterator[dict[str, Any]]:
    """A group without names as one of matrices and one for AdamW, by the shapes alone."""
    members = group["params"]
    if not isinstance(members, list):
        yield group  # a set, which torch refuses
        return
    tensors = [m[1] if isinstance(m, tuple) else m for m in members]
    views = [default_view(t.ndim) if min(t.shape, default=1) > 1 else None for t in tensors]
    matrices = [m for m, view in zip(members, views, strict=True) if view is not None]
    others = [m for m, view in zip(members, views, strict=True) if view is None]
    if matrices:
        found = tuple(view for view in views if view is not None)
        yield {**group, "params": matrices} | ({} if set(found) == {LINEAR} else {"views": found})
    if others:
        lr = rates.of("vector", group)
        yield {"weight_decay": 0.0, **group, "params": others, "adamw": True, **lr}


def sort_params(
    params: Any,
    defaults: Mapping[str, Any],
    rates: Rates,
    *,
    options: Mapping[str, Any],
    unrouted: Unrouted,
    notices: Notices,
) -> tuple[Any, Routing | None]:
    """The groups of parameters that come without their module, each of one kind.

    Args:
        params: Parameters, (name, parameter) pairs, or groups of them, which may hold modules.
        defaults: The values of a group of matrices.
        rates: The learning rates of AdamW.
        options: The options of `steepest.route`, for what has names.
        unrouted: Whether shapes decide on what has none.
        notices: The warnings of the optimizer.

    Returns:
        The groups, and the routing of what has names; None if nothing has.
    """
    if isinstance(params, Tensor):
        return params, None  # torch says what is wrong with it
    groups = grouped(params)
    check_whole(groups)
    if not groups:
        raise invalid(
            "params", [], "no parameters; if requires_grad has selected them, all are frozen"
        )
    if not takes_matrices(defaults):
        return groups, None
    # An optimizer around this one may have written the constructor's own geometry into all groups.
    groups = [
        {k: v for k, v in g.items() if not (k in ("norm", "K") and v == defaults.get(k))}
        for g in groups
    ]
    routing = sort_groups(groups, notices, **options)
    named, at = routing, 0
    out: list[Any] = []
    for group in groups:
        pairs = [] if is_told(group) else names_in(group) or []
        given = group["params"]
        if isinstance(given, nn.Module | Routing) and not is_told(group):
            found = given if isinstance(given, Routing) else route(given, **options)
        elif named is not None and pairs:
            found = named.pick(range(at, at + len(pairs)))
            at += len(pairs)
        else:
            by_shape = unrouted and not is_told(group)
            out += split_by_shape(group, rates) if by_shape else [group]
            continue
        routing = extended(routing, found)
        out += routed_groups(found, {k: v for k, v in group.items() if k not in MEMBERS}, rates)
    if unrouted and routing is None:
        others = sum(len(group["params"]) for group in out if group.get("adamw"))
        if others:
            notices.by_shape(sum(len(group["params"]) for group in out) - others, others)
    return out, routing
