"""The groups that parameters are in: a memory of the routing, and the groups that are added."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from steepest._common.errors import invalid
from steepest.routing.rules import Kind
from steepest.routing.table import Routing, route

MEMBERS = ("params", "param_names")
"""Keys of a group that hold one value for each parameter."""


@dataclass(frozen=True)
class Joined:
    """The parts of a group that is added.

    Args:
        routing: The routing of the optimizer, with the modules that are added.
        chosen: The routing of the parameters of the group that it knows.
        others: The parameters that no routing knows; (name, parameter) pairs in a named optimizer.
    """

    routing: Routing | None
    chosen: Routing
    others: list[Any]


class RoutingMemory:
    """The routing of a module, without holding on to its parameters.

    A framework that shards a model puts other parameters in the place of those that were routed,
    and lets these go: a routing that held them would keep the whole model in memory.

    Args:
        routing: The routing.
    """

    def __init__(self, routing: Routing) -> None:
        self.assignments = routing.assignments
        self._parameters = [weakref.ref(p) for p in routing.parameters]

    def now(self, groups: Iterable[Any]) -> Routing:
        """The routing of the parameters that are there now.

        Args:
            groups: Groups of an optimizer. A parameter of one of them is known by its name, others
                as long as something else holds them.
        """
        named = {
            name: p
            for group in groups
            for name, p in zip(group.get("param_names", ()), group["params"], strict=False)
        }
        pairs = zip(self.assignments, self._parameters, strict=True)
        found = [(a, named.get(a.name, ref())) for a, ref in pairs]
        there = [(a, p) for a, p in found if p is not None]
        return Routing(tuple(a for a, _ in there), tuple(p for _, p in there))

    def __getstate__(self) -> Routing:
        """The routing of what is there: a copy has its own parameters."""
        return self.now(())

    def __setstate__(self, routing: Routing) -> None:
        """Forget the parameters of the copy as well."""
        RoutingMemory.__init__(self, routing)


def join(group: dict[str, Any], routing: Routing | None, named: bool, number: int) -> Joined | None:
    """How the parameters of a group are routed.

    A parameter is known by itself, or by its name and shape where a framework has put another
    tensor in its place.

    Args:
        group: The group to add.
        routing: The routing of the optimizer, if it has one.
        named: Whether its groups have names.
        number: The number of its groups, for names where none are given.

    Returns:
        None for a group that is taken as it is.

    Raises:
        ValueError: a parameter is given twice.
    """
    given = group["params"]
    if isinstance(given, nn.Module):
        given = route(given)
    pairs: list[tuple[str, Any]]
    if isinstance(given, Routing):
        routing = _extended(routing, given)
        pairs = [(a.name, p) for a, p in zip(given, given.parameters, strict=True)]
    elif {"views", "adamw"} & group.keys() or not named:
        return None
    else:
        pairs = _pairs(given)
    assignments = routing or ()
    by_tensor = {p: i for i, p in enumerate(routing.parameters)} if routing else {}
    by_name = {(a.name, a.shape): i for i, a in enumerate(assignments)}
    chosen, others = dict[int, nn.Parameter](), list[Any]()
    if len({id(p) for _, p in pairs}) < len(pairs):
        raise invalid("params", "a parameter twice", "give each parameter once")
    for place, (name, p) in enumerate(pairs):
        i = by_tensor.get(p, by_name.get((name, tuple(p.shape))))
        if i is None:
            others.append((name or f"param_groups.{number}.{place}", p))
        else:
            chosen[i] = p
    picked = routing.pick(chosen) if routing else Routing((), ())
    # In the optimizer go the tensors that were given.
    picked = Routing(picked.assignments, tuple(chosen[i] for i in sorted(chosen)))
    return Joined(routing, picked, others)


def _pairs(given: Any) -> list[tuple[str, Any]]:
    """Parameters with their names, empty where there is none."""
    every = [given] if isinstance(given, Tensor) else list(given)
    return [pair if isinstance(pair, tuple) else ("", pair) for pair in every]


def _extended(routing: Routing | None, more: Routing) -> Routing:
    """A routing with the parameters of another that it does not know."""
    if routing is None:
        return more
    have = set(routing.parameters)
    new = more.pick([i for i, p in enumerate(more.parameters) if p not in have])
    return Routing(routing.assignments + new.assignments, routing.parameters + new.parameters)


def leave(groups: Iterable[Any], routing: Routing, states: Mapping[Tensor, dict[str, Any]]) -> None:
    """Take parameters that were frozen, and never stepped, out of the groups they are in."""
    pairs = zip(routing, routing.parameters, strict=True)
    going = {p for a, p in pairs if a.frozen and not states.get(p)}
    for group in groups:
        stay = [i for i, p in enumerate(group["params"]) if p not in going]
        if len(stay) < len(group["params"]):
            for key in MEMBERS:
                if key in group:
                    group[key] = type(group[key])([group[key][i] for i in stay])


def not_routed(key: str, value: object) -> ValueError:
    """The error for an option of the routing where nothing is routed."""
    return invalid(
        key,
        value,
        "it is about the routing of a module, and none is routed here: give the module to an "
        "optimizer of matrices, or steepest.route(module, …) in its place",
    )


def unnamed(group: dict[str, Any]) -> dict[str, Any]:
    """A group whose parameters have lost their names."""
    params = [pair[1] if isinstance(pair, tuple) else pair for pair in group["params"]]
    return {**group, "params": params}


def routed_groups(
    routing: Routing, options: Mapping[str, Any], rates: Mapping[Kind, float | Tensor]
) -> list[dict[str, Any]]:
    """The groups of routed parameters.

    Args:
        routing: The routing.
        options: The hyper-parameters that are given for all of them.
        rates: The learning rates of the kinds that have their own.
    """
    kinds = {a.name: a.kind for a in routing}
    groups = routing.groups(by_kind=bool(rates))
    for group in groups:
        kind = kinds[group["params"][0][0]]
        if group.get("adamw") and kind in rates:
            group["lr"] = rates[kind]
    return [{**options, **group} for group in groups]
