"""The ranks that hold copies of the parameters and compute directions for each other."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.nn.parallel import DistributedDataParallel

from steepest.optim.foreign import Copies, Modules, check_whole, modules_in, several_processes
from steepest.optim.groups import Replicas, named_replicas, replicas_of
from steepest.optim.notices import Notices
from steepest.sharding import RankGroup, is_sharded


class WrapWatch:
    """The modules that are wrapped in `DistributedDataParallel` from now on.

    torch calls its registration hooks for each module that becomes a part of another one, that of
    which `DistributedDataParallel` becomes the wrapper among them. Its constructor is a collective,
    so that all ranks of a group see it.
    """

    def __init__(self) -> None:
        self._wraps: list[weakref.ref[DistributedDataParallel]] = []
        self.stop = register_module_module_registration_hook(self._note).remove
        """Function that ends the watch."""

    def _note(self, module: nn.Module, name: str, _: nn.Module | None) -> None:
        if isinstance(module, DistributedDataParallel) and name == "module":
            self._wraps.append(weakref.ref(module))

    def around(self, params: Collection[Tensor]) -> list[DistributedDataParallel]:
        """The wrappers of modules that hold some of the parameters."""
        wraps = [wrap for wrap in (ref() for ref in self._wraps) if wrap is not None]
        # A constructor that has failed leaves a wrapper around nothing.
        whole = [wrap for wrap in wraps if hasattr(wrap, "reducer")]
        return [wrap for wrap in whole if any(p in params for p in wrap.module.parameters())]


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
    plain = {p for p in params if p.requires_grad and not is_sharded(p)}
    found = [replicas_of(wrap) for wrap in wraps]
    if not found or trained != plain or any(ranks != found[0][0] for ranks, _ in found):
        return None, ()
    return found[0][0], tuple(one for _, copies in found for one in copies)


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

    _wraps: tuple[weakref.ref[DistributedDataParallel], ...] = ()
    """The wrapped modules that groups were given as, up to the next step."""

    _modules: Modules = ()
    """The modules whose parameters these are."""

    _watch: WrapWatch | None = None
    """The watch for a wrapper, up to the first step."""

    _notices: Notices
    _uncompiled: UncompiledStep

    def _unwrapped(self, params: Any) -> Any:
        """Modules without DistributedDataParallel around them, whose ranks are remembered."""
        check_whole(params)
        if isinstance(params, Iterator):
            params = list(params)
        if isinstance(params, list | tuple) and any(isinstance(g, Mapping) for g in params):
            return [self._unwrapped_group(g) if isinstance(g, Mapping) else g for g in params]
        if isinstance(params, DistributedDataParallel):
            self._replicas, self._copies = replicas_of(params)
            params = params.module
        self._modules = self._modules or modules_in(params)
        return params

    def _unwrapped_group(self, group: Mapping[str, Any]) -> Mapping[str, Any]:
        """A group whose module has no DistributedDataParallel around it, which is remembered."""
        given = group.get("params")
        if not isinstance(given, DistributedDataParallel):
            return group
        self._wraps += (weakref.ref(given),)
        return {**group, "params": given.module}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what a copy does not have."""
        super().__setstate__(state)
        self._uncompiled = uncompiled_step()

    def _watch_for_replicas(self) -> None:
        """Watch for a `DistributedDataParallel` around the model, if there are several ranks."""
        # Without processes nothing is registered with torch, and with a wrapper all is known.
        if several_processes() and self._replicas is None:
            self._watch = WrapWatch()
            weakref.finalize(self, self._watch.stop)

    def _is_spread(self) -> bool:
        """Whether a step has to do with other ranks, as far as is known before it."""
        if self._replicas is not None or self._watch is not None or self._copies or self._wraps:
            return True
        return any(is_sharded(p) for group in self.param_groups for p in group["params"])

    def _find_replicas(self) -> None:
        """Take the ranks of a `DistributedDataParallel` that came after the optimizer."""
        if self._watch is None and not self._wraps:
            return
        watch, self._watch = self._watch, None
        given, self._wraps = [w for w in (ref() for ref in self._wraps) if w is not None], ()
        params = {p for group in self.param_groups for p in group["params"]}
        wraps = list(given)
        if watch is not None:
            watch.stop()
            wraps += watch.around(params)
        if not wraps:
            return
        own = [replicas_of(wrap) for wrap in given]
        copies = tuple(one for _, found in own for one in found)
        if self._replicas is None:
            every = [one.module() for one in self._copies]
            wraps += [wrap for wrap in every if wrap is not None]
            self._replicas, common = common_replicas(wraps, params)
            self._copies = common or (*self._copies, *copies)
        else:
            same = all(ranks == self._replicas for ranks, _ in own)
            self._replicas = self._replicas if same else None
            self._copies += copies
        if self._replicas is None and self._divides():
            self._notices.undivided()

    def _doubtful(self) -> list[RankGroup]:
        """The ranks whose gradients this one may not have averaged with theirs.

        Raises:
            ValueError: within `DistributedDataParallel.join`.
        """
        for one in self._copies:
            one.check_not_joined()
        return [one.ranks for one in self._copies if one.doubtful()]

    def set_replicas(self, replicas: DistributedDataParallel | dist.ProcessGroup | None) -> None:
        """Name the ranks that hold copies of the parameters, which divide the polar factors.

        An optimizer that is given the `DistributedDataParallel` module knows them, and so does one
        that is made of all trained parameters of a model before the model is wrapped. This is for
        other cases: an optimizer of bare parameters of a model that is wrapped already, one of
        several optimizers, a wrapper that comes after the first step. All of the ranks have to call
        it, at the same step.

        Args:
            replicas: The wrapped module, or the process group of the ranks. With None each rank
                computes everything for itself.

        Raises:
            ValueError: something else, or a module that holds none of the parameters.
        """
        members = {p for group in self.param_groups for p in group["params"]}
        self._replicas, self._copies = named_replicas(replicas, members)
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        self._wraps = ()
        self._forget_plans()

    @abstractmethod
    def _divides(self) -> bool:
        """Whether there are directions that one rank may compute for all."""

    @abstractmethod
    def _forget_plans(self) -> None:
        """Plan anew: other ranks take part."""
