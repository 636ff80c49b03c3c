"""The ranks that hold copies of the parameters and compute directions for each other."""

from __future__ import annotations

import gc
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from steepest.optim.foreign import (
    Copies,
    Modules,
    check_whole,
    inside,
    modules_in,
    several_processes,
    wrappers_in,
)
from steepest.optim.groups import (
    Replicas,
    modules_of,
    named_replicas,
    replicas_of,
    trained_copies,
)
from steepest.optim.notices import Notices
from steepest.sharding import RankGroup, is_sharded


def living(refs: Iterable[weakref.ref[DistributedDataParallel]]) -> list[DistributedDataParallel]:
    """The wrappers that still exist, each of them once."""
    found = (ref() for ref in refs)
    return list(dict.fromkeys(wrap for wrap in found if wrap is not None))


def wrappers_of(params: Collection[Tensor]) -> list[DistributedDataParallel]:
    """The wrappers of this process around modules that hold some of the parameters.

    torch keeps no list of them, but Python's collector finds what refers to a class, as its objects
    do. Nothing but the types of what it finds is looked at: some objects run code of their own when
    they are asked for more.
    """
    kinds = [DistributedDataParallel]
    for kind in kinds:
        kinds += kind.__subclasses__()
    wanted = frozenset(kinds)
    refs = [weakref.ref(one) for one in gc.get_referrers(*kinds) if type(one) in wanted]

    def around() -> list[DistributedDataParallel]:
        # A constructor that has failed leaves a wrapper around nothing.
        whole = [wrap for wrap in living(refs) if hasattr(wrap, "reducer")]
        return [wrap for wrap in whole if any(p in params for p in wrap.module.parameters())]

    if around():
        gc.collect()  # or one that was dropped counts on the ranks that have not collected it
    return around()


def common_replicas(
    wraps: Collection[DistributedDataParallel], params: Collection[Tensor]
) -> Replicas:
    """The ranks that hold copies of all parameters, and the modules that average their gradients.

    None, and no module, stand for what is not sure.

    An optimizer of some of the parameters may be one of several, which share them out among the
    ranks. So the modules have to hold its parameters and no others, as far as they are trained.

    Args:
        wraps: The wrappers of modules that hold some of them.
        params: The parameters of an optimizer.
    """
    trained = {p for wrap in wraps for p in wrap.module.parameters() if p.requires_grad}
    found = [replicas_of(wrap) for wrap in wraps]
    if (
        not found
        or trained != trained_copies(params)
        or any(ranks != found[0][0] for ranks, _ in found)
    ):
        return None, ()
    return found[0][0], modules_of(found)


class UncompiledStep(Protocol):
    """The step of an optimizer in eager mode, also where it is called from what is compiled."""

    def __call__(
        self, step: Callable[..., Any], optimizer: torch.optim.Optimizer, closure: Any
    ) -> Any:
        """Take the step."""


@cache
def uncompiled_step() -> UncompiledStep:
    """The function that takes steps which talk to other ranks; the compiler lets it run as it is.

    torch's optimizers import the compiler when they are made, so that asking for it then costs
    nothing; at the import of this file it would.
    """

    def take(step: Callable[..., Any], optimizer: Any, closure: Any) -> Any:
        return step(optimizer, closure)

    reason = (
        "a step of parameters that several ranks hold asks the other ranks, and goes on by what "
        "they say: it runs in eager mode, whatever is compiled around it"
    )
    disabled: UncompiledStep = torch.compiler.disable(take, reason=reason)
    return disabled


class ReplicatedOptimizer(torch.optim.Optimizer, ABC):
    """An optimizer that may know which ranks hold copies of its parameters."""

    _replicas: RankGroup | None = None
    """Ranks that hold copies of the parameters and step them for each other."""

    _copies: tuple[Copies, ...] = ()
    """The modules that average gradients, as far as they are known."""

    _seen: tuple[Copies, ...] = ()
    """Other modules that do, of which nobody says that all ranks step the same parameters."""

    _wraps: tuple[weakref.ref[DistributedDataParallel], ...] = ()
    """The wrappers in what the optimizer and its groups were given, up to the next step."""

    _search: bool | None = None
    """Whether the next step looks for wrappers; None if none ever does."""

    _modules: Modules = ()
    """The modules whose parameters these are."""

    _notices: Notices
    _uncompiled: UncompiledStep

    def _unwrapped(self, params: Any) -> Any:
        """Modules without DistributedDataParallel around them, whose ranks are remembered."""
        check_whole(params)
        if isinstance(params, Iterator):
            params = list(params)
        if isinstance(params, list | tuple) and any(isinstance(g, Mapping) for g in params):
            return [self._unwrapped_group(g) if isinstance(g, Mapping) else g for g in params]
        if isinstance(params, nn.Module):
            module = inside(params)
            if isinstance(module, DistributedDataParallel):
                self._replicas, self._copies = replicas_of(module)
                params = module.module
            else:
                self._wraps += tuple(map(weakref.ref, wrappers_in(module)))
        self._modules = self._modules or modules_in(params)
        return params

    def _unwrapped_group(self, group: Mapping[str, Any]) -> Mapping[str, Any]:
        """A group whose module has no DistributedDataParallel around it, which is remembered."""
        given = group.get("params")
        if not isinstance(given, nn.Module):
            return group
        module = inside(given)
        self._wraps += tuple(map(weakref.ref, wrappers_in(module)))
        return (
            {**group, "params": module.module}
            if isinstance(module, DistributedDataParallel)
            else group
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what a copy does not have."""
        super().__setstate__(state)
        self._uncompiled = uncompiled_step()

    def _is_spread(self) -> bool:
        """Whether a step has to do with other ranks, as far as is known before it."""
        if self._replicas is not None or self._copies or self._wraps:
            return True
        if self._search and several_processes():
            return True
        return any(is_sharded(p) for group in self.param_groups for p in group["params"])

    def _find_replicas(self) -> None:
        """Take the ranks of wrappers that were given, or that are found around the parameters."""
        given, self._wraps = living(self._wraps), ()
        params = {p for group in self.param_groups for p in group["params"]}
        known = [wrap for wrap in (one.module() for one in self._copies) if wrap is not None]
        found: list[DistributedDataParallel] = []
        if self._search and several_processes():
            self._search = False
            found = [wrap for wrap in wrappers_of(params) if wrap not in (*given, *known)]
        own, others = ([replicas_of(wrap) for wrap in wraps] for wraps in (given, found))
        if not any(copies for _, copies in (*own, *others)):
            return
        if self._replicas is None:
            self._replicas, common = common_replicas([*given, *found, *known], params)
            self._copies = common or (*self._copies, *modules_of(own))
            self._seen = () if common else modules_of(others)
        else:
            same = all(ranks == self._replicas for ranks, _ in own)
            self._replicas = self._replicas if same else None
            self._copies += modules_of((*own, *others))
        if self._replicas is None and self._divides():
            self._notices.undivided()

    def _doubtful(self) -> list[RankGroup]:
        """The ranks whose gradients this one may not have averaged with theirs.

        Raises:
            ValueError: within `DistributedDataParallel.join`.
        """
        for one in self._copies:
            one.check_not_joined()
        if any(one.doubtful() for one in self._seen):
            self._notices.unshared()
        return [self._replicas or one.ranks for one in self._copies if one.doubtful()]

    def set_replicas(self, replicas: nn.Module | dist.ProcessGroup | None) -> None:
        """Name the ranks that hold copies of the parameters, which divide the polar factors.

        An optimizer that is given the `DistributedDataParallel` module knows them, and one of all
        trained parameters of a wrapped model finds them at its first step. This is for other cases:
        one of several optimizers, a wrapper that comes after the first step. All of the ranks have
        to call it, at the same step.

        Args:
            replicas: The wrapped module, one that computes the same or that contains it, or the
                process group of the ranks. With None each rank computes everything for itself.

        Raises:
            ValueError: something else, or a module that holds none of the parameters.
        """
        members = {p for group in self.param_groups for p in group["params"]}
        self._replicas, self._copies = named_replicas(replicas, members)
        named = self._replicas is not None or bool(self._copies)
        # A process group says nothing of the module whose passes average the gradients.
        self._search = not self._copies if named else None
        self._seen, self._wraps = (), ()
        self._forget_plans()
        if self._copies and self._replicas is None and self._divides():
            self._notices.undivided()

    @abstractmethod
    def _divides(self) -> bool:
        """Whether there are directions that one rank may compute for all."""

    @abstractmethod
    def _forget_plans(self) -> None:
        """Plan anew: other ranks take part."""
