"""The routing of parameters that come with their names and without their module."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from steepest._common.errors import invalid
from steepest.routing.names import EMBED
from steepest.routing.table import Routing, route

CONV = {4: nn.Conv2d, 5: nn.Conv3d}


def route_by_name(named: Sequence[tuple[str, Tensor]], **options: Any) -> Routing:
    """Say of parameters with names whether they are matrices, as `route` does of a module.

    The module tree is what the names say it is. A `weight` of two axes belongs to an embedding if
    it is called one and to a linear layer otherwise, one of four or five axes to a convolution.
    What only the type of a module tells stays unknown: a table with a name that says nothing, the
    groups of a convolution, a weight that is stored as in × out.

    Args:
        named: (name, parameter) pairs, as `named_parameters` gives them.
        options: the options of `route`.

    Returns:
        The routing, in the order of the pairs.

    Raises:
        ValueError: as `route`; a name or a parameter that is given twice.

    Examples:
        >>> import torch
        >>> pairs = [("embed.weight", torch.zeros(9, 4)), ("up.weight", torch.zeros(8, 4)),
        ...          ("up.bias", torch.zeros(8))]
        >>> [a.target for a in route_by_name(pairs)]
        ['table', 'matrix', 'vector']
    """
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        raise invalid("params", next(n for n in names if names.count(n) > 1), "give it once")
    routing = route(skeleton(dict(named)), **options)
    place: dict[Tensor, int] = {p: i for i, p in enumerate(routing.parameters)}
    order = [place[p] for _, p in named]
    if len(set(order)) < len(order):
        raise invalid("params", "a parameter twice", "give each parameter once")
    parameters = tuple(routing.parameters[i] for i in order)
    return Routing(tuple(routing.assignments[i] for i in order), parameters)


def skeleton(named: Mapping[str, Tensor]) -> nn.Module:
    """A module tree that holds these parameters under their names."""
    return _tree("", named)


def _tree(name: str, named: Mapping[str, Tensor]) -> nn.Module:
    """The module of a name, with the parameters under it."""
    own: dict[str, Any] = {}
    below: dict[str, dict[str, Tensor]] = {}
    for path, p in named.items():
        step, _, rest = path.partition(".")
        if rest:
            below.setdefault(step, {})[rest] = p
        else:
            own[step] = p
    module = _empty(name, own, below)
    # A tensor that is no `nn.Parameter` is kept as it is as well.
    module._parameters.update(own)
    module._modules.update((child, _tree(child, members)) for child, members in below.items())
    return module


def _empty(
    name: str, own: Mapping[str, Tensor], below: Mapping[str, Mapping[str, Tensor]]
) -> nn.Module:
    """A module without parameters, of the type that names and shapes tell."""
    module: nn.Module = nn.Module()
    weight = own.get("weight")
    axes = weight.ndim if weight is not None else 0
    if "in_proj_weight" in own and "out_proj" in below:
        module = nn.MultiheadAttention(1, 1, device="meta")
    elif axes == 2:
        table = re.fullmatch(EMBED, name, re.IGNORECASE)
        module = (nn.Embedding if table else nn.Linear)(1, 1, device="meta")
    elif axes in CONV:
        module = CONV[axes](1, 1, 1, device="meta")
    elif axes == 3 and re.search("conv", name, re.IGNORECASE):
        module = nn.Conv1d(1, 1, 1, device="meta")
    elif below and all(child.isdecimal() for child in below):
        deep = any("." in n for members in below.values() for n in members)
        module = nn.ModuleList() if deep else nn.Sequential()
    module._parameters.clear()
    module._modules.clear()
    return module
