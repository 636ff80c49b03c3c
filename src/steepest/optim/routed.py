"""The parameters of an optimizer: groups that are routed, named and checked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from steepest._common.errors import invalid
from steepest._common.numerics import host_value
from steepest.norms import Coupling, Norm
from steepest.optim.choices import SLOTS, Unrouted
from steepest.optim.foreign import check_not_flattened, check_whole, modules_in
from steepest.optim.group_keys import check_keys, inside_another, unwritten
from steepest.optim.groups import (
    Views,
    check_group,
    check_rule,
    choose_polar,
    plain_numbers,
    views_of,
)
from steepest.optim.member_views import MemberViews
from steepest.optim.membership import (
    MEMBERS,
    Rates,
    RoutingMemory,
    is_told,
    join,
    leave,
    not_routed,
    rates_in_ratio,
    routed_groups,
    unnamed,
)
from steepest.optim.notices import Notices
from steepest.optim.objects import GroupObjects
from steepest.optim.options import Group
from steepest.optim.remedies import SHARDING, framework
from steepest.optim.replicas import ReplicatedOptimizer, uncompiled_step
from steepest.optim.rule import UpdateRule, with_maps
from steepest.optim.unrouted import normalised, sort_params, split_by_shape, takes_matrices
from steepest.routing.rules import Kind
from steepest.routing.table import Routing, route
from steepest.views import MatrixView

Params = (
    nn.Module | Routing | Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]
)
"""The parameters of an optimizer: a module or a `Routing`, which are routed; parameters; (name,
parameter) pairs, routed by name and shape; or groups, dictionaries of `params` and options."""


KEPT = ("_objects", "_views", "_unrouted", "_rates", "_notices", "_nested")
"""Attributes that a copy of an optimizer has as they are."""


class RoutedOptimizer(ReplicatedOptimizer, ABC):
    """An optimizer that is given a module, or groups of matrices and of parameters for AdamW.

    It decides which group a parameter is in and checks what the groups hold. What a step does is a
    subclass's business.

    Args:
        params: A module, a `Routing`, parameters, (name, parameter) pairs, or groups of them.
        defaults: The values of a group.
        adamw: The values of a group with `adamw=True`, in place of the defaults.
        routing: The options of `steepest.route` for a module.
        unrouted: "adamw" to tell matrices by their shape where there are no names.
        rates: The learning rates of kinds of parameters that AdamW has, if they have their own.
    """

    param_groups: list[Group]  # type: ignore[assignment]

    objects: ClassVar[tuple[str, ...]] = ()
    """Keys of a group whose values are objects, of which the group holds the text."""

    rule_keys: ClassVar[tuple[str, ...]]
    """Keys of a group that its rule is made of: a change of one makes another rule."""

    _made = True
    """Whether the constructor has come to its end."""

    def __init__(
        self,
        params: Params,
        defaults: dict[str, Any],
        *,
        adamw: dict[str, Any],
        routing: dict[str, Any],
        unrouted: Unrouted = None,
        rates: Mapping[Kind, float | Tensor] | None = None,
    ) -> None:
        if unrouted not in (None, "adamw"):
            raise invalid("unrouted", unrouted, 'give "adamw" or None')
        self._made = False
        self._objects = GroupObjects((*self.objects, *SLOTS))
        self._views = MemberViews()
        # Not while torch adds the first groups, which are routed already.
        self._routed: RoutingMemory | None = None
        self._adamw, self._unrouted = adamw, unrouted
        self._rates = Rates(defaults["lr"], adamw["lr"], dict(rates or {}))
        self._notices = Notices()
        self._nested = inside_another(self)
        # Frozen when the norm of their model was made, which has no block for them.
        self._frozen: Mapping[str, Tensor] = {}
        given = params = self._unwrapped(params)
        if isinstance(params, nn.Module):
            params = route(params, **routing)
            self._notices.guesses(params)
        found: Routing | None
        if isinstance(params, Routing):
            groups, found = self._groups_of(params, {}), params
        else:
            groups, found = sort_params(
                params,
                defaults,
                self._rates,
                options=routing,
                unrouted=unrouted,
                notices=self._notices,
            )
        asked = {key: value for key, value in routing.items() if value and params is not found}
        own_rates = {f"{kind}_lr": rate for kind, rate in self._rates.kinds.items()}
        if asked and (found is None or isinstance(given, Routing)):
            raise not_routed(*next(iter(asked.items())))
        if found is None and own_rates:
            raise not_routed(*next(iter(own_rates.items())))
        if self._nested:
            groups = unwritten(groups, defaults, adamw, self._notices)
        super().__init__(groups, defaults)
        self._made = True
        self._uncompiled = uncompiled_step()
        if not self._nested:
            # Another optimizer around this one may share the parameters out among the ranks.
            self._search = self._replicas is None
        self._routed = RoutingMemory(found) if found is not None else None
        if all(group["adamw"] for group in self.param_groups) and framework() != SHARDING:
            self._notices.no_matrix(type(self), routed=found is not None)

    @abstractmethod
    def _make_rule(self, group: Group) -> UpdateRule:
        """The rule of a group, from its values of `rule_keys`; objects are there as such."""

    def _rule_of(self, group: Group) -> UpdateRule:
        """The rule of a group, with the maps and the retraction that it asks for."""
        return with_maps(self._make_rule(group), group)

    @abstractmethod
    def _rule(self, place: int) -> UpdateRule:
        """The rule of the group in a place."""

    def lrs(self, lr: float) -> list[float]:
        """A learning rate for each group, in the ratios in which the groups were made.

        For whatever writes absolute learning rates, which would otherwise give AdamW that of the
        matrices.

        Args:
            lr: The learning rate of the matrices that were made with the constructor's; of those
                that were made with the largest one, if none was.

        Raises:
            ValueError: no matrices, or all of them made with a learning rate of 0.

        Examples:
            >>> from steepest import Muon
            >>> optimizer = Muon(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4)), lr=0.02)
            >>> optimizer.lrs(0.04)
            [0.04, 0.0006, 0.0006]
            >>> scheduler = torch.optim.lr_scheduler.OneCycleLR(
            ...     optimizer, max_lr=optimizer.lrs(0.04), total_steps=100
            ... )
        """
        return rates_in_ratio(self.param_groups, self.defaults["lr"], lr)

    def _divides(self) -> bool:
        """Whether a direction of some group depends on whole matrices."""
        places = [i for i, group in enumerate(self.param_groups) if not group["adamw"]]
        return any(self._rule(place).couples is Coupling.MATRIX for place in places)

    def views(self) -> dict[Tensor, MatrixView | None]:
        """How each parameter that AdamW does not have is seen: as matrices, or None, as it is."""
        found: dict[Tensor, MatrixView | None] = {}
        for place, group in enumerate(self.param_groups):
            if not group["adamw"]:
                self._rule(place)
                found.update(zip(group["params"], self._views[place], strict=True))
        return found

    def _seat(self, place: int, views: Any, rule: UpdateRule) -> None:
        """Give the parameters of a group their views.

        Raises:
            ValueError: a view, or the geometry of the group, does not fit a parameter.
        """
        group = self._objects.opened(self.param_groups[place])
        found = views_of(group, views, rule.geometry, type(self))
        self._check_shapes(group, found, rule)
        self._views.seat(place, group["params"], found)
        choose_polar(group, found, rule.geometry)

    def _follow(self, place: int, rule: UpdateRule) -> None:
        """Let views follow their parameters, after others have edited the groups."""
        there, now = set(self._members()), self.param_groups[place]["params"]
        check_not_flattened(self._views.replaced(place, now), now)
        found = self._views.of(place, now, there)
        self._seat(place, found if rule.geometry.axes == 2 else None, rule)
        self._forget_plans()

    def _members(self) -> Iterator[Tensor]:
        """The parameters of all groups."""
        return (p for group in self.param_groups for p in group["params"])

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
        return routed_groups(routing, options, self._rates)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group: matrices, or with `adamw=True` parameters for AdamW.

        Parameters of a routed module keep their routing: unless the group says `views` or `adamw`,
        they become a group for each kind, with what else the group says. Those that were frozen
        when the module was given, and have not been trained since, leave the groups they were in.

        Args:
            param_group: The `params` and any of the optimizer's hyper-parameters. `params` are
                parameters, (name, parameter) pairs, a module or a `Routing`. A matrix group takes
                `views`, one `MatrixView` for all or one each; without it 2-D parameters that no
                routing knows are matrices out × in.

        Raises:
            ValueError: a parameter that is not a matrix, a view that does not fit it, a negative
                hyper-parameter, or a parameter that is in a group already. Nothing has changed.
        """
        count = len(self.param_groups)
        groups = cast(list[dict[str, Any]], self.param_groups)
        before = [{key: g.get(key) for key in MEMBERS} for g in groups]
        routed, modules, wraps = self._routed, self._modules, self._wraps
        try:
            given = normalised(self._unwrapped_group(param_group))
            if self._made:
                check_whole([*self._members(), given])
            self._modules += modules_in(given)
            for group in self._divided(given):
                self._add(group)
            if self._search is not None:
                self._search = True
        except BaseException:
            del self.param_groups[count:]
            self._views.cut(count)
            self._routed, self._modules, self._wraps = routed, modules, wraps
            for own, old in zip(groups, before, strict=True):
                own.update({key: value for key, value in old.items() if value is not None})
            raise

    def _divided(self, group: dict[str, Any]) -> list[Any]:
        """A group that is added as groups of one kind each, whose parameters are in no other."""
        named = any(g.get("param_names") for g in self.param_groups)
        routing = self._routed.now(self.param_groups) if self._routed else None
        matrices = takes_matrices(self.defaults)
        count = len(self.param_groups)
        joined = join(group, routing, named=named, routes=matrices, number=count)
        if joined is None:
            by_shape = self._unrouted and matrices and not is_told(group)
            return list(split_by_shape(group, self._rates)) if by_shape else [group]
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
        if given.setdefault("adamw", False):
            for key, value in self._adamw.items():
                given.setdefault(key, value)
        check_keys(given, {*self.defaults, *self._adamw}, None if self._nested else self._notices)
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
        self._check_group(self._objects.opened(group))
        if not group["adamw"]:
            rule = self._rule_of(self._objects.opened(group))
            check_rule(group, rule)
            self._seat(len(self.param_groups) - 1, views, rule)
        self._objects.close(group)
        group["first_lr"] = lr.clone() if isinstance(lr := group["lr"], Tensor) else lr

    def _check_group(self, group: Group) -> None:
        """Raise if a hyper-parameter of a group is out of range."""
        check_group(group)

    def _check(self, place: int, group: Group) -> None:
        """Raise if the group in a place cannot be used with these values."""
        group = self._objects.opened(group)
        self._check_group(group)
        if not group["adamw"]:
            rule = self._rule_of(group)
            check_rule(group, rule)
            self._check_shapes(group, self._views[place], rule)

    def _check_shapes(self, group: Group, views: Views, rule: UpdateRule) -> None:
        """Raise if the geometry of a rule cannot be used for the shapes of a group."""
        geometry = rule.geometry
        for p, view in zip(group["params"], views, strict=True):
            for shape in view.shapes(p.shape) if view else [p.shape]:
                x = torch.empty(tuple(shape), dtype=p.dtype, device="meta")
                if x.numel():
                    geometry.validate(x, check=False, argument="params")

    def __getstate__(self) -> dict[str, Any]:
        """torch's own keeps three attributes; a copy needs these as well."""
        # Processes cannot be copied: of copies on several ranks, each computes everything.
        own: dict[str, Any] = {"_adamw": self._adamw, "_replicas": None, "_frozen": self._frozen}
        own |= {name: getattr(self, name) for name in KEPT}
        # With the parameters that the groups have now, which are the ones that are copied.
        own["_routed"] = self._routed and RoutingMemory(self._routed.now(self.param_groups))
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Bind the views of a copy to its own parameters."""
        super().__setstate__(state)
        for place, views in list(self._views.items()):
            if place < len(self.param_groups):
                self._views.seat(place, self.param_groups[place]["params"], views)
