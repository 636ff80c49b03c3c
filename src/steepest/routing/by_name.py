"""The routing of parameters that come with their names and without their module."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from steepest._common.errors import invalid
from steepest._common.patterns import Patterns
from steepest.routing.assignment import Assignment
from steepest.routing.judge import judge
from steepest.routing.names import EMBED
from steepest.routing.places import ModelIndex
from steepest.routing.table import Routing, route

CONV = {4: nn.Conv2d, 5: nn.Conv3d}

NAMELESS = "∅"
"""A stand-in for an empty part of a name, which no module can have."""


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
        The routing, in the order of the pairs. A name that comes again begins another model, which
        is routed by itself.

    Raises:
        ValueError: as `route`; a parameter that is given twice.

    Examples:
        >>> import torch
        >>> pairs = [("embed.weight", torch.zeros(9, 4)), ("up.weight", torch.zeros(8, 4)),
        ...          ("up.bias", torch.zeros(8))]
        >>> [a.target for a in route_by_name(pairs)]
        ['table', 'matrix', 'vector']
    """
    if len({id(p) for _, p in named}) < len(named):
        raise invalid("params", "a parameter twice", "give each parameter once")
    trees = [skeleton(members) for members in _models(named)] or [nn.Module()]
    found: dict[Tensor, Assignment] = {}
    for tree, own in zip(trees, _divided(trees, options), strict=True):
        routing = route(tree, **own)
        found |= zip(routing.parameters, routing, strict=True)
    # A name with empty parts has stand-ins for them.
    assignments = tuple(replace(found[p], name=name) for name, p in named)
    parameters: Any = tuple(p for _, p in named)
    return Routing(assignments, parameters)


def _models(named: Sequence[tuple[str, Tensor]]) -> list[dict[str, Tensor]]:
    """The parameters as models in which each name occurs once."""
    models: list[dict[str, Tensor]] = []
    current: dict[str, Tensor] = {}
    for name, p in named:
        if name in current or not models:
            # Groups may alternate between models, so an earlier one can lack the name.
            current = next((model for model in models if name not in model), {})
            if not current:
                models.append(current)
        current[name] = p
    return models


def _divided(trees: Sequence[nn.Module], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The options of each tree, without patterns that decide something in another one alone."""
    shares = [dict(options) for _ in trees]
    if len(trees) == 1:
        return shares
    for key in ("overrides", "heads"):
        given = options.get(key)
        if given is None:
            continue
        patterns = given if isinstance(given, Mapping) else {"*": given}
        used = [_deciding(patterns, tree, key) for tree in trees]
        # What decides nowhere stays with the first tree, whose routing says so.
        used[0] |= patterns.keys() - set().union(*used)
        for share, mine in zip(shares, used, strict=True):
            kept = {p: value for p, value in patterns.items() if p in mine}
            share[key] = given if kept and not isinstance(given, Mapping) else kept
    return shares


def _deciding(patterns: Mapping[str, Any], tree: nn.Module, key: str) -> set[str]:
    """The patterns of an option that are the first ones to match some parameter of a tree."""
    index = ModelIndex(tree)
    seen = Patterns(key, patterns, "parameter")
    hits = [
        seen.first([place.name for place in places])
        for places in index.tied.values()
        if key == "overrides" or judge(places, index).query is not None
    ]
    return {hit[0] for hit in hits if hit}


def skeleton(named: Mapping[str, Tensor]) -> nn.Module:
    """A module tree that holds these parameters under their names."""
    return _tree("", named)


def _tree(name: str, named: Mapping[str, Tensor]) -> nn.Module:
    """The module of a name, with the parameters under it."""
    own: dict[str, Any] = {}
    below: dict[str, dict[str, Tensor]] = {}
    for path, p in named.items():
        step, dot, rest = path.partition(".")
        step = step or NAMELESS
        if dot:
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
    fused = own.get("in_proj_weight")
    thirds = fused is not None and fused.ndim == 2 and fused.shape[0] % 3 == 0
    if thirds and "out_proj" in below:
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
    if any(child in own or hasattr(module, child) for child in below):
        return _Node()
    return module


class _Node(nn.Module):
    """A module whose children may be called as its attributes are."""

    def get_submodule(self, target: str) -> nn.Module:
        """The child of a name."""
        child = self._modules[target]
        assert child is not None
        return child
