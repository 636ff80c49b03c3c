"""Parameters that come without their module: what names and shapes tell of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

from torch import Tensor, nn

from steepest._common.errors import shape_text
from steepest.optim.group_keys import unwritten
from steepest.optim.membership import MEMBERS, routed_groups
from steepest.optim.notices import Notices
from steepest.optim.options import Unrouted
from steepest.routing.by_name import route_by_name
from steepest.routing.rules import Kind
from steepest.routing.table import Routing
from steepest.views import LINEAR, default_view

TOLD = ("adamw", "views", "norm", "K", "use_muon")
"""Keys by which a group says itself what its parameters are."""

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
    """
    every: list[Any] = [params] if isinstance(params, Tensor) else list(params)
    if every and not isinstance(every[0], Mapping):
        every = [{"params": every}]
    out = []
    for group in every:
        given = group["params"]
        single = isinstance(given, Tensor | nn.Module | Routing | Set)
        out.append({**group, "params": given if single else list(filter(_is_real, given))})
    return out


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
    return list(zip(names, members, strict=True)) if names else None


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
            found = [one for group in groups for one in like_tables(group["params"])]
            notices.tables(found, SHAPES)
        return None
    routing = route_by_name([pair for pairs in named for pair in pairs], **options)
    # Of a list of matrices alone the caller has said what they are.
    if all(p.ndim == 2 for pairs in named for _, p in pairs):
        notices.tables([a.name for a in routing if a.target == "table"], NAMES)
    else:
        notices.guesses(routing)
    return routing


def is_told(group: Mapping[str, Any]) -> bool:
    """Whether a group says itself what its parameters are."""
    return any(key in group for key in TOLD)


def like_tables(members: Any) -> list[str]:
    """Shapes of members of a list of matrices that look like embeddings or output heads.

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
        f"parameter {i} ({shape_text((m, n))})"
        for i, (m, n) in enumerate(matrices)
        if m >= max(SMALLEST, TALL * n) and wide.get(n, 0.0) * FACTORS < m / n
    ]


def split_by_shape(group: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A group without names as one of matrices and one for AdamW, by the shapes alone."""
    members = group["params"] if isinstance(group["params"], list) else [group["params"]]
    tensors = [m[1] if isinstance(m, tuple) else m for m in members]
    views = [default_view(t.ndim) if min(t.shape, default=1) > 1 else None for t in tensors]
    matrices = [m for m, view in zip(members, views, strict=True) if view is not None]
    others = [m for m, view in zip(members, views, strict=True) if view is None]
    if matrices:
        found = tuple(view for view in views if view is not None)
        yield {**group, "params": matrices} | ({} if set(found) == {LINEAR} else {"views": found})
    if others:
        yield {"weight_decay": 0.0, **group, "params": others, "adamw": True}


def relative(
    part: dict[str, Any], given: Mapping[str, Any], defaults: Mapping[str, Any], adamw: Any
) -> dict[str, Any]:
    """A part of a group that was divided, with AdamW's learning rate in the ratio of the group's.

    Args:
        part: The part.
        given: The group, whose `lr` is meant for matrices.
        defaults: The values of a group of matrices.
        adamw: The values of a group of AdamW.
    """
    lr, usual = given.get("lr"), defaults["lr"]
    if part is not given and part.get("adamw") and lr is not None and part["lr"] is lr:
        ratio = float(lr) / float(usual) if usual is not None and float(usual) > 0 else 1.0
        part = {**part, "lr": adamw["lr"] * ratio}
    return part


def sort_params(
    params: Any,
    defaults: Mapping[str, Any],
    adamw: Mapping[str, Any],
    *,
    options: Mapping[str, Any],
    unrouted: Unrouted,
    rates: Mapping[Kind, float | Tensor],
    notices: Notices,
) -> tuple[list[Any], Routing | None]:
    """The groups of parameters that come without their module, each of one kind.

    Args:
        params: Parameters, (name, parameter) pairs, or groups of them.
        defaults: The values of a group of matrices.
        adamw: The values of a group of AdamW.
        options: The options of `steepest.route`, for those that have names.
        unrouted: Whether shapes decide on those that have none.
        rates: The learning rates of the kinds that have their own.
        notices: The warnings of the optimizer.

    Returns:
        The groups, and the routing of the parameters that have names; None if there are none.
    """
    groups = grouped(params)
    if not takes_matrices(defaults):
        return groups, None
    routing = sort_groups(groups, notices, **options)
    out: list[Any] = []
    at = 0
    for group in groups:
        count = 0 if routing is None or is_told(group) else len(names_in(group) or ())
        if routing is not None and count:
            rest = {k: v for k, v in group.items() if k not in MEMBERS}
            parts = routed_groups(routing.pick(range(at, at + count)), rest, rates)
            at += count
        else:
            parts = list(split_by_shape(group)) if unrouted and not is_told(group) else [group]
        out += [relative(part, group, defaults, adamw) for part in parts]
    if unrouted and routing is None:
        others = sum(len(group["params"]) for group in out if group.get("adamw"))
        notices.by_shape(sum(len(group["params"]) for group in out) - others, others)
    return unwritten(out, defaults, adamw, notices), routing
