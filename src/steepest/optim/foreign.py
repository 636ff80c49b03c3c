"""Parameters and gradients that a wrapper has left in a state which no step can follow."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from steepest._common.callers import callers, module_of
from steepest._common.errors import invalid, shape_text
from steepest._common.torch_modules import SAME_MODULE
from steepest.routing.table import Routing
from steepest.sharding import RankGroup, is_sharded

# torch keeps it to itself, and offers nothing else by which such a parameter is known.
FLATTENED = "_fsdp_flattened"
"""The mark that FullyShardedDataParallel leaves on parameters that it has flattened."""

PARTITIONED = "ds_shape"
"""The attribute of a parameter in which DeepSpeed keeps the shape that it has taken from it."""

CUTS = "cuts parameters into flat pieces, and a step needs to know whole ones"
SHARD = "shard the model with torch.distributed.fsdp.fully_shard (FSDP2)"

Modules = tuple[weakref.ref[nn.Module], ...]
"""Modules that something else holds."""


def modules_in(given: Any) -> Modules:
    """The module among parameters as an optimizer is given them, or those of a group."""
    if isinstance(given, Mapping):
        given = given["params"]
    return (weakref.ref(given),) if isinstance(given, nn.Module) else ()


def inside(module: nn.Module) -> nn.Module:
    """The module within all that compute the same as it does, as `torch.compile` makes them."""
    own = dict(module.named_children())
    return inside(*own.values()) if len(own) == 1 and own.keys() <= SAME_MODULE else module


def wrappers_in(module: nn.Module) -> list[DistributedDataParallel]:
    """The modules that are wrapped in `DistributedDataParallel` in a module, or around it."""
    return [one for one in module.modules() if isinstance(one, DistributedDataParallel)]


def tensors_in(given: Any) -> Iterator[Tensor]:
    """The tensors among parameters as an optimizer is given them; an iterator is not used up."""
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, nn.Module):
        yield from given.parameters()
    elif isinstance(given, Routing):
        yield from given.parameters
    elif isinstance(given, Mapping):
        yield from tensors_in(given.get("params"))
    elif isinstance(given, list | tuple | Set):
        for member in given:
            yield from tensors_in(member)


def check_whole(given: Any) -> None:
    """Raise if parameters, as an optimizer is given them, are flat pieces of themselves.

    Under FSDP1 with the strategy NO_SHARD and `use_orig_params=True` they are whole. What was
    flattened together lies in one memory, and what was cut is a vector: a matrix among them tells
    that nothing was.

    Raises:
        ValueError: they are.
    """
    found = list(tensors_in(given))
    if any(tuple(getattr(p, PARTITIONED, p.shape)) != tuple(p.shape) for p in found):
        remedy = f"it {CUTS}: turn ZeRO off, or {SHARD}"
        raise invalid("params", "ZeRO of DeepSpeed, stage 3", remedy)
    flat = [p for p in found if getattr(p, FLATTENED, False)]
    whole = {_memory(p) for p in flat if p.ndim > 1 and p.numel()}
    if any(p.ndim < 2 and _memory(p) not in whole for p in flat):
        raise invalid("params", "FullyShardedDataParallel (FSDP1)", f"it {CUTS}: {SHARD}")


def _memory(param: Tensor) -> int:
    """The memory that a parameter lies in."""
    return param.untyped_storage().data_ptr()


def check_not_flattened(before: Sequence[Sequence[int]], now: Sequence[Tensor]) -> None:
    """Raise if flat tensors have taken the place of the parameters of a group.

    Args:
        before: The shapes of the parameters that the group had.
        now: Those that it has, all of them new.

    Raises:
        ValueError: vectors in the place of matrices.
    """
    if not now or any(p.ndim != 1 or is_sharded(p) for p in now):
        return
    if any(len(shape) > 1 for shape in before):
        sizes = ", ".join(shape_text(p.shape) for p in now[:3]) + ", …" * (len(now) > 3)
        raise invalid(
            "params",
            f"flat tensors ({sizes}) in the place of {len(before)} parameters",
            f"ZeRO of DeepSpeed, or another optimizer around this one, {CUTS}: turn ZeRO off, or "
            f"{SHARD}",
        )


def check_followed(groups: Sequence[Any], modules: Modules) -> None:
    """Raise if a module now trains other parameters than those that came from it.

    Args:
        groups: The groups of the optimizer.
        modules: The modules that it was given.

    Raises:
        ValueError: a parameter without a gradient has in its place in the module one that is
            sharded and has a gradient, or is on the meta device; or the module is flattened.
    """
    own = {p for group in groups for p in group["params"]}
    there = [module for module in (ref() for ref in modules) if module is not None]
    for module in there:
        check_whole(module)
    trained: dict[str, Tensor] = {}
    for module in there:
        trained |= dict(module.named_parameters(remove_duplicate=False))
    computes = any(p.is_meta and p.grad is not None for p in own)
    for group in groups:
        names = group.get("param_names", ())
        names = names if len(names) == len(group["params"]) else [""] * len(group["params"])
        for name, p in zip(names, group["params"], strict=True):
            if p.grad is not None or not p.requires_grad:
                continue
            other = trained.get(name, p)
            if p.is_meta and not computes:
                raise _left_behind(name or shape_text(p.shape), "on the meta device", "to_empty")
            if other not in own and other.grad is not None and is_sharded(other):
                raise _left_behind(name, "not the one that the model has now", "fully_shard")


def _left_behind(name: str, state: str, call: str) -> ValueError:
    """The error for a parameter that was replaced after the optimizer was made."""
    return invalid(
        "params",
        f"{name} is {state}",
        f"{call} puts other parameters into a model: make the optimizer after it",
    )


def refused(groups: Sequence[Any], modules: Modules) -> ValueError | None:
    """The error for an optimizer that cannot take its first step, to be raised on all ranks."""
    try:
        check_whole(groups)
        check_followed(groups, modules)
    except ValueError as error:
        return error
    return None


PIPELINES = "torch.distributed.pipelining"
"""The package whose stages average gradients in their own way."""


class GradientSync:
    """A hook of a DistributedDataParallel module: whether its last forward pass is to average."""

    def __init__(self) -> None:
        self.passes = 0
        """Forward passes with gradients."""
        self.averages = True
        """Whether the backward pass of the last forward pass averages over the ranks."""

    def __call__(self, module: nn.Module, _: Any) -> None:
        """Look at a forward pass: it decides what the backward pass is going to do.

        A stage of a pipeline runs all of them in `no_sync`, and has the last one averaged itself.
        """
        if torch.is_grad_enabled():
            self.passes += 1
            quiet = not module.require_backward_grad_sync
            self.averages = not quiet or any(module_of(f).startswith(PIPELINES) for f in callers())


class Copies:
    """A DistributedDataParallel module whose gradients an optimizer follows.

    Args:
        module: The module.
    """

    def __init__(self, module: DistributedDataParallel) -> None:
        self.module = weakref.ref(module)
        """The module, as long as it exists."""
        self.ranks = RankGroup.of_group(module.process_group)
        """The ranks whose gradients it averages."""
        hooks = module._forward_pre_hooks.values()
        known = next((hook for hook in hooks if isinstance(hook, GradientSync)), None)
        self._sync = known or GradientSync()
        self._passes = self._sync.passes
        if known is None:
            module.register_forward_pre_hook(self._sync)

    def params(self) -> set[Tensor]:
        """The parameters whose gradients it averages, as long as it exists."""
        module = self.module()
        if module is None:
            return set()
        named = module.module.named_parameters()
        return {p for name, p in named if name not in module.parameters_to_ignore}

    def doubtful(self) -> bool:
        """Whether this rank may not have averaged its gradients with the others.

        There was no forward pass since this was asked for the last time, or the last one was in
        `no_sync`. They are averaged nevertheless if it had no backward pass, if one with
        synchronization shares its backward pass, or if the caller reduces them.
        """
        module, before = self.module(), self._passes
        self._passes = self._sync.passes
        if module is None:
            return False
        # accelerate sets the latter to have the gradients of earlier passes averaged.
        averages = self._sync.averages or module.require_forward_param_sync
        return self._passes == before or not averages

    def check_not_joined(self) -> None:
        """Raise within `join`, where a rank takes no more steps than its data last for.

        Raises:
            ValueError: the passes of the module run within it.
        """
        module = self.module()
        if module is not None and module._join_config.enable:
            raise invalid(
                "replicas",
                "DistributedDataParallel.join",
                "a rank whose data end takes no more steps, and the others would wait for it: call "
                "optimizer.set_replicas(None), so that each rank computes everything for itself",
            )


def check_frozen(frozen: Mapping[str, Tensor]) -> None:
    """Raise if a parameter without a block in the norm of its model is not frozen any more.

    Args:
        frozen: The parameters that were frozen when the norm was made, by name.

    Raises:
        ValueError: one of them can be trained.
    """
    thawed = [name for name, p in frozen.items() if p.requires_grad]
    if thawed:
        raise invalid(
            "params",
            ", ".join(thawed),
            "frozen when the norm of named blocks was made, which has no block for it: make "
            "the norm and the optimizer again",
        )


def several_processes() -> bool:
    """Whether this process is one of several, so that a module may be a part of a model."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
