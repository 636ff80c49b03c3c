"""The matrices that the parameters of a model are: the one answer that every instrument gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from torch import Tensor, nn

from steepest._common.errors import invalid
from steepest._common.patterns import Patterns
from steepest._common.wrapped import unwrapped
from steepest.routing.table import Routing, route
from steepest.views import LINEAR, MatrixView, default_view

Model: TypeAlias = nn.Module | Routing | Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]
"""Parameters to see as matrices: a module, a `Routing`, or tensors by name."""

Views: TypeAlias = Mapping[str, MatrixView | None]
"""Views by name of the parameter, or by a pattern of names; None for one that is not a matrix."""


def matrix_views(
    model: Model,
    *,
    optimizer: Any = None,
    views: Views | None = None,
    tables: bool = False,
) -> dict[str, MatrixView]:
    """The view of each parameter that consists of matrices, by name in the order of the model.

    The first that has an answer decides, parameter by parameter:

    1. `views`;
    2. the optimizer, if it moves the parameter as matrices: one of this library by the views of its
       groups, `torch.optim.Muon` by taking two axes as one matrix. What AdamW has in an optimizer
       of this library is not a matrix;
    3. the routing of a module;
    4. without a module the number of axes: two are a matrix, four or five a convolution kernel.

    `steepest.diagnostics` and the applications see a model in this way, so that a rule of routing
    that changes is a change in all of them.

    Args:
        model: the module, a routing of it, or named tensors, as a mapping or as pairs.
        optimizer: any optimizer of torch's kind, or None.
        views: `{pattern: view}` on full names, with the wildcards of `fnmatch`, and None for what
            is to be left out; the first pattern that matches wins.
        tables: whether to include what is stepped as something else than a matrix and can be looked
            at as one: embeddings, heads, what AdamW has. Their views are those of the routing, else
            those of their number of axes.

    Raises:
        ValueError: a pattern that decides nothing, a view that does not fit its parameter, or a
            module that cannot be routed.

    Examples:
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Conv1d(4, 6, 3), nn.Linear(4, 9))
        >>> {name: view.shapes(model.get_parameter(name).shape)
        ...  for name, view in matrix_views(model, views={"2.*": None}).items()}
        {'1.weight': [(1, 6, 12)]}
        >>> list(matrix_views(model, tables=True))
        ['0.weight', '1.weight', '2.weight']
    """
    names = all_names(model)
    given = Patterns("views", views or {}, "parameter", "model.named_parameters()")
    hits = {p: given.first(every) for p, every in names.items()}
    _check(given, views or {}, names)
    stepped = _stepped(optimizer)
    open_to_others = [
        p
        for p in names
        if not hits[p] and stepped.get(p) is None and (tables or p not in stepped) and p.ndim > 1
    ]
    otherwise = _not_stepped(model, open_to_others, tables)
    found: dict[str, MatrixView] = {}
    for p, (name, *_) in names.items():
        hit = hits[p]
        view = hit[1] if hit else stepped.get(p) or otherwise.get(p)
        if view is not None:
            found[name] = view
    return found


def all_names(model: Model) -> dict[Tensor, tuple[str, ...]]:
    """Every parameter with its names, the first one first; a tied parameter has several.

    Raises:
        ValueError: neither a module, a routing nor named tensors.
    """
    if isinstance(model, Routing):
        pairs = zip(model.parameters, model, strict=True)
        return {p: (a.name, *a.aliases) for p, a in pairs}
    given: Any = model.items() if isinstance(model, Mapping) else model
    if isinstance(model, nn.Module):
        given = model.named_parameters(remove_duplicate=False)
    names: dict[Tensor, tuple[str, ...]] = {}
    for pair in given:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise invalid(
                "model", type(model).__name__, "give a module, or (name, parameter) pairs"
            )
        names[pair[1]] = (*names.get(pair[1], ()), pair[0])
    return names


def _stepped(optimizer: Any) -> dict[Tensor, MatrixView | None]:
    """How an optimizer moves each parameter as matrices; None for one that its AdamW has.

    Parameters that it takes as whole tensors, and all of an optimizer that says nothing of
    matrices, are missing. Groups are read as data, since optimizers are built upon this module.
    """
    optimizer = unwrapped(optimizer)
    groups = getattr(optimizer, "param_groups", ())
    views = getattr(optimizer, "views", None)
    if callable(views):
        found = {p: view for p, view in views().items() if view is not None}
        return found | {p: None for group in groups if group["adamw"] for p in group["params"]}
    # torch.optim.Muon takes matrices alone.
    muon = [group["params"] for group in groups if "ns_steps" in group]
    return {p: LINEAR for params in muon for p in params if p.ndim == 2}


def _not_stepped(
    model: Model, params: Sequence[Tensor], tables: bool
) -> dict[Tensor, MatrixView | None]:
    """The views of parameters of which no optimizer says anything: of the routing, or by axes."""
    if not params:
        return {}  # and a model without a free parameter need not be one that can be routed
    if isinstance(model, nn.Module):
        model = route(model)
    routed: dict[Tensor, MatrixView | None] = {}
    if isinstance(model, Routing):
        routed = {p: a.view for p, a in zip(model.parameters, model, strict=True)}
    by_axes = tables or not isinstance(model, Routing)
    return {p: routed.get(p) or (default_view(p.ndim) if by_axes else None) for p in params}


def _check(
    given: Patterns[str, MatrixView | None], views: Views, names: Mapping[Tensor, Sequence[str]]
) -> None:
    """Raise for a pattern that decides nothing, or a view that does not fit a parameter."""
    every = [name for some in names.values() for name in some]
    if unknown := sorted(k for k in views if not any(fnmatchcase(name, k) for name in every)):
        raise invalid("views", unknown, f"give some of the names {every}")
    given.check()
    for p, some in names.items():
        hit = given.first(some)
        if hit and hit[1] is not None:
            try:
                hit[1].shapes(p.shape)
            except ValueError as error:
                raise invalid("views", hit[1], f"{some[0]} does not fit it ({error})") from None
