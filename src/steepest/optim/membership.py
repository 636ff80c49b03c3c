"""The groups that parameters are in: a memory of the routing, and the groups that are added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from steepest._common.errors import invalid
from steepest._common.references import reference
from steepest.routing.by_name import route_by_name
from steepest.routing.rules import Kind
from steepest.routing.table import Assignment, Routing, route

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


@dataclass(frozen=True)
class Rates:
    """The learning rates of AdamW beside that of the matrices.

    Args:
        matrices: Learning rate of a group of matrices; None if it has to say its own.
        adamw: Learning rate of a group of AdamW.
        kinds: Learning rates of the kinds of parameters that have their own.
    """

    matrices: float | Tensor | None
    adamw: float | Tensor
    kinds: Mapping[Kind, float | Tensor]

    def of(self, kind: Kind, options: Mapping[str, Any]) -> dict[str, Any]:
        """The learning rate of a group of AdamW, from that of a group for all kinds.

        Such a group says it for matrices, and AdamW's has the same ratio to the usual one.

        Args:
            kind: The kind of its parameters.
            options: The hyper-parameters that the group gives for all.
        """
        lr, usual = options.get("lr"), self.matrices
        base = self.kinds.get(kind, self.adamw)
        if lr is None:
            return {"lr": self.kinds[kind]} if kind in self.kinds else {}
        ratio = float(lr) / float(usual) if usual is not None and float(usual) > 0 else 1.0
        return {"lr": base * ratio}


class RoutingMemory:
    """The routing of a module, without holding on to its parameters.

    A framework that shards a model puts other parameters in the place of those that were routed,
    and lets these go: a routing that held them would keep the whole model in memory.

    Args:
        routing: The routing.
    """

    def __init__(self, routing: Routing) -> None:
        self.assignments = routing.assignments
        self._parameters = [reference(p) for p in routing.parameters]

    def now(self, groups: Iterable[Any]) -> Routing:
        """The routing of the parameters that are there now.

        Args:
            groups: Groups of an optimizer. A parameter of one of them is known by its name, others
                as long as something else holds them.
        """
        named, members = dict[str, Any](), set[Any]()
        for group in groups:
            names = group.get("param_names", ())
            members.update(group["params"])
            # Code that edits the parameters of a group may leave their names as they were.
            if len(names) == len(group["params"]):
                named.update(zip(names, group["params"], strict=True))
        found: list[tuple[Assignment, Any]] = []
        for a, ref in zip(self.assignments, self._parameters, strict=True):
            p = ref()
            found.append((a, p if p in members else named.get(a.name, p)))
        there = [(a, p) for a, p in found if p is not None]
        return Routing(tuple(a for a, _ in there), tuple(p for _, p in there))

    def __getstate__(self) -> Routing:
        """The routing of what is there: a copy has its own parameters."""
        return self.now(())

    def __setstate__(self, routing: Routing) -> None:
        """Forget the parameters of the copy as well."""
        RoutingMemory.__init__(self, routing)


def join(
    group: dict[str, Any], routing: Routing | None, *, named: bool, routes: bool, number: int
) -> Joined | None:
    """How the parameters of a group are routed.

    A parameter is known by itself, or by its name and shape where a framework has put another
    tensor in its place.

    Args:
        group: The group to add.
        routing: The routing of the optimizer, if it has one.
        named: Whether its groups have names.
        routes: Whether names route parameters that the routing does not know.
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
        routing = extended(routing, given)
        pairs = [(a.name, p) for a, p in zip(given, given.parameters, strict=True)]
    elif is_told(group) or not named:
        return None
    else:
        pairs = _pairs(given)
        have = set(routing.parameters) if routing else set()
        known = {a.name for a in routing} if routing else set()
        more = [(n, p) for n, p in pairs if n and p not in have and n not in known]
        if more and routes:
            routing = extended(routing, route_by_name(more))
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


TOLD = ("adamw", "views", "norm", "K")
"""Keys by which a group says itself what its parameters are."""


def is_told(group: Mapping[str, Any]) -> bool:
    """Whether a group says itself what its parameters are."""
    return any(key in group for key in TOLD)


def _pairs(given: Any) -> list[tuple[str, Any]]:
    """Parameters with their names, empty where there is none."""
    return [pair if isinstance(pair, tuple) else ("", pair) for pair in given]


def extended(routing: Routing | None, more: Routing) -> Routing:
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
    routing: Routing, options: Mapping[str, Any], rates: Rates
) -> list[dict[str, Any]]:
    """The groups of routed parameters.

    Args:
        routing: The routing.
        options: The hyper-parameters that are given for all of them.
        rates: The learning rates of AdamW.
    """
    kinds = {a.name: a.kind for a in routing}
    groups = routing.groups(by_kind=bool(rates.kinds))
    found = []
    for group in groups:
        kind = kinds[group["params"][0][0]]
        found.append({**options, **group})
        if group.get("adamw"):
            found[-1].update(rates.of(kind, options))
    return found


def rates_in_ratio(groups: Iterable[Any], usual: float | Tensor | None, lr: float) -> list[float]:
    """A learning rate for each group, in the ratios in which the groups were made.

    Args:
        groups: The groups.
        usual: The learning rate that the optimizer was made with.
        lr: The one that takes its place.

    Raises:
        ValueError: matrices that were made with a learning rate of 0.
    """
    made = [(float(group["first_lr"]), bool(group["adamw"])) for group in groups]
    # A stage of a pipeline may have no matrices.
    matrices = [rate for rate, adamw in made if not adamw] or [float(usual or 0)]
    if not any(matrices):
        raise invalid("lr", 0.0, "the matrices were made with it: it has no ratio to AdamW's")
    common = usual is not None and float(usual) in matrices
    first = float(usual) if usual is not None and common and float(usual) > 0 else max(matrices)
    return [lr * (rate / first) for rate, _ in made]
