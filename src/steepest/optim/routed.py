"""The parameters of an optimizer: groups that are routed, named and checked."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from steepest._common.errors import invalid
from steepest._common.numerics import host_value
from steepest.norms import Norm
from steepest.optim.groups import (
    check_ball,
    check_group,
    choose_polar,
    plain_numbers,
    replicas_of,
    views_of,
)
from steepest.optim.options import RENAMED, Group
from steepest.optim.rule import UpdateRule
from steepest.optim.updates import check_decay
from steepest.routing.table import Routing, route
from steepest.sharding import RankGroup

Params = (
    nn.Module | Routing | Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]
)

MEMBERS = ("params", "param_names", "views")
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


class RoutedOptimizer(torch.optim.Optimizer, ABC):
    """An optimizer that is given a module, or groups of matrices and of parameters for AdamW.

    It decides which group a parameter is in and checks what the groups hold. What a step does is a
    subclass's business.

    Args:
        params: A module, a `Routing`, parameters, (name, parameter) pairs, or groups of them.
        defaults: The values of a group.
        adamw: The values of a group with `adamw=True`, in place of the defaults.
        routing: The options of `steepest.route` for a module.
    """

    param_groups: list[Group]  # type: ignore[assignment]

    objects: ClassVar[tuple[str, ...]] = ("views", "momentum_dtype")
    """Keys of a group that hold objects: saved as text, rebuilt by the constructor."""

    rule_keys: ClassVar[tuple[str, ...]]
    """Keys of a group that its rule is made of: a change of one makes another rule."""

    _replicas: RankGroup | None = None
    """Ranks that hold copies of the parameters and step them for each other."""

    def __init__(
        self,
        params: Params,
        defaults: dict[str, Any],
        *,
        adamw: dict[str, Any],
        routing: dict[str, Any],
    ) -> None:
        params = self._unwrapped(params)
        if isinstance(params, nn.Module):
            params = route(params, **routing)
        elif routing:
            raise _not_routed(*next(iter(routing.items())))
        # Not while torch adds the first groups, which are routed already.
        self._routed: RoutingMemory | None = None
        self._adamw = adamw
        # Frozen when the norm of their model was made, which has no block for them.
        self._frozen: Mapping[str, Tensor] = {}
        super().__init__(
            self._groups_of(params, {}) if isinstance(params, Routing) else params, defaults
        )
        self._routed = RoutingMemory(params) if isinstance(params, Routing) else None
        if all(group["adamw"] for group in self.param_groups):
            raise invalid(
                "params",
                "no matrix",
                f"every parameter is in an `adamw` group, so {type(self).__name__} would run plain "
                "AdamW: use torch.optim.AdamW, or give at least one matrix",
            )

    def _unwrapped(self, params: Params) -> Params:
        """A module without DistributedDataParallel around it, whose ranks are remembered."""
        if isinstance(params, nn.parallel.DistributedDataParallel):
            self._replicas = replicas_of(params)
            params = params.module
        return params

    @abstractmethod
    def _make_rule(self, group: Group) -> UpdateRule:
        """The rule of a group, from its values of `rule_keys`."""

    @abstractmethod
    def _rule(self, place: int) -> UpdateRule:
        """The rule of the group in a place."""

    def _check_frozen(self) -> None:
        """Raise if a parameter without a block in the norm of its model is not frozen any more."""
        thawed = [name for name, p in self._frozen.items() if p.requires_grad]
        if thawed:
            raise invalid(
                "params",
                ", ".join(thawed),
                "frozen when the norm of named blocks was made, which has no block for it: make "
                "the norm and the optimizer again",
            )

    @property
    def routing(self) -> Routing | None:
        """The destination of each parameter of the module, and why; None if no module was given."""
        if self._routed is None:
            return None
        groups = [(g, self._destination(i)) for i, g in enumerate(self.param_groups)]
        destinations = {p: name for group, name in groups for p in group["params"]}
        return self._routed.now(self.param_groups).as_in(destinations)

    def _destination(self, place: int) -> str:
        """The name of what moves the parameters of a group, in the routing table."""
        group = self.param_groups[place]
        if group["adamw"]:
            return "AdamW" if host_value(group["weight_decay"]) != 0 else "AdamW, no decay"
        return f"{type(self).__name__}, {self._norm_name(self._rule(place))}"

    def _norm_name(self, rule: UpdateRule) -> str:
        """The norm or map of a rule, in the routing table."""
        geometry = rule.geometry
        return repr(geometry.with_polar(None) if isinstance(geometry, Norm) else geometry)

    def _groups_of(self, routing: Routing, options: dict[str, Any]) -> list[Any]:
        """The groups of routed parameters, with the hyper-parameters given for all of them."""
        return [{**options, **group} for group in routing.groups()]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group: matrices, or with `adamw=True` parameters for AdamW.

        Parameters of a routed module keep their routing: unless the group says `views` or `adamw`,
        they become a group for each kind, with what else the group says. Those that were frozen
        when the module was given, and have not been trained since, leave the groups they were in.

        Args:
            param_group: The `params` and any of the optimizer's hyper-parameters. `params` are
                parameters, (name, parameter) pairs, a module or a `Routing`. A matrix group takes
                `views`, one `MatrixView` for all or one each; without it 2-D parameters that no
                routing knows are matrices out × in and 4-D or 5-D ones convolution kernels.

        Raises:
            ValueError: a parameter that is no matrix, a view that does not fit it, a negative
                hyper-parameter, or a parameter that is in a group already. Nothing has changed.
        """
        count = len(self.param_groups)
        groups = cast(list[dict[str, Any]], self.param_groups)
        before = [{key: g.get(key) for key in MEMBERS} for g in groups]
        routed = self._routed
        try:
            for group in self._divided(dict(param_group)):
                self._add(group)
        except BaseException:
            del self.param_groups[count:]
            self._routed = routed
            for own, old in zip(groups, before, strict=True):
                own.update({key: value for key, value in old.items() if value is not None})
            raise

    def _divided(self, group: dict[str, Any]) -> list[Any]:
        """A group that is added as groups of one kind each, whose parameters are in no other."""
        named = any(g.get("param_names") for g in self.param_groups)
        routing = self._routed.now(self.param_groups) if self._routed else None
        joined = join(group, routing, named, len(self.param_groups))
        if joined is None:
            return [group]
        self._routed = RoutingMemory(joined.routing) if joined.routing else None
        options = {key: value for key, value in group.items() if key != "params"}
        leave(self.param_groups, joined.chosen, self.state)
        groups = self._groups_of(joined.chosen, options)
        if joined.others:
            groups.append({**group, "params": joined.others})
        return groups if named else [unnamed(g) for g in groups]

    def _add(self, group: Group) -> None:
        """Add a group of one kind."""
        given = cast(dict[str, Any], group)
        if "use_muon" in given:
            # KellerJordan's Muon has groups for Adam by this key.
            given.setdefault("adamw", not given.pop("use_muon"))
        if given.setdefault("adamw", False):
            for key, value in self._adamw.items():
                given.setdefault(key, value)
        for old, new in RENAMED.items():
            if old in given:
                raise invalid(old, given[old], f"this key of a group is called {new} now")
        views = given.pop("views", None)
        super().add_param_group(given)
        plain_numbers(given)
        if "betas" in given and not given["adamw"]:
            # A momentum of the defaults has no part in an average with two weights.
            for key in ("momentum", "nesterov"):
                if not given.get(key):
                    given.pop(key, None)
        # A scheduler writes into a tensor: groups must not share one.
        if isinstance(group["lr"], Tensor):
            group["lr"] = group["lr"].clone()
        if len({id(p) for p in group["params"]}) < len(group["params"]):
            raise invalid("params", "a parameter twice", "give each parameter once")
        self._check_group(group)
        if not group["adamw"]:
            rule = self._make_rule(group)
            group["views"] = views_of(group, views, rule.geometry)
            self._check_rule(group, rule)
            choose_polar(group, rule.geometry.polar)

    def _check_group(self, group: Group) -> None:
        """Raise if a hyper-parameter of a group is out of range."""
        check_group(group)

    def _check(self, group: Group) -> None:
        """Raise if a group that has its views cannot be used."""
        self._check_group(group)
        if not group["adamw"]:
            self._check_rule(group, self._make_rule(group))

    def _check_rule(self, group: Group, rule: UpdateRule) -> None:
        """Raise if a rule does not fit the decay and the shapes of a group."""
        check_decay(group["lr"], group["weight_decay"], group["decay"])
        check_ball(group, rule.ball)
        self._check_shapes(group, rule)

    def _check_shapes(self, group: Group, rule: UpdateRule) -> None:
        """Raise if the geometry of a rule cannot be used for the shapes of a group."""
        geometry = rule.geometry
        for p, view in zip(group["params"], group["views"], strict=True):
            for shape in view.shapes(p.shape) if view else [p.shape]:
                x = torch.empty(tuple(shape), dtype=p.dtype, device="meta")
                if x.numel():
                    geometry.validate(x, check=False, argument="params")

    def __getstate__(self) -> dict[str, Any]:
        """torch's own keeps three attributes; a copy needs these as well."""
        # Processes cannot be copied: of copies on several ranks, each computes everything.
        own: dict[str, Any] = {"_adamw": self._adamw, "_replicas": None, "_frozen": self._frozen}
        # With the parameters that the groups have now, which are the ones that are copied.
        own["_routed"] = self._routed and RoutingMemory(self._routed.now(self.param_groups))
        return {**super().__getstate__(), **own}


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


def _not_routed(key: str, value: object) -> ValueError:
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
