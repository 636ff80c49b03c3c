"""Learning rates that fall from layer to layer, towards the input: for fine-tuning."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from torch import nn

from steepest._common.checks import positive
from steepest._common.errors import invalid
from steepest.routing.table import route

STAGE = 0.75
"""The share of its parameters that a stage has in its blocks; a block has less in its own lists."""

SMALL = 0.05
"""The share of the largest stack below which another one is not a tower, but a stem or a head."""


def layer_decay(
    model: nn.Module, decay: float = 0.75, *, lr: float, adamw_lr: float = 3e-4, **options: Any
) -> list[dict[str, Any]]:
    """Parameter groups whose learning rates fall by a factor with each layer towards the input.

    Layer 0 is what is registered before the first block, such as the stem; the blocks are layers
    1, 2, …; what comes after them, such as the last norm, is the last layer L. Embeddings outside
    of the blocks are in layer 0 and output heads in layer L, wherever they are registered. A
    parameter of layer i has decay^(L − i) times the learning rate of its kind.

    The blocks are the members of sequences of modules of one class, and of lists of modules of
    fewer classes than members; a stage that consists of blocks counts as these. What stands between
    two blocks belongs to the one that comes. Each of several towers has layers of its own, which
    end at layer L − 1. Lists whose paths differ in numbers alone, such as `layer1` and `layer2`,
    follow each other in one tower. What is outside of the towers goes with the one whose path it
    shares longest; if there are several, to layer 0 before the first tower and to layer L after.

    Args:
        model: the model.
        decay: factor of the learning rate from one layer to the one before, in (0, 1].
        lr: learning rate of the hidden matrices of the last layer.
        adamw_lr: learning rate of what goes to AdamW in the last layer.
        options: the options of `steepest.route`.

    Returns:
        Groups for an optimizer of matrices, those of one layer after those of the layer before,
        each with its `lr`.

    Raises:
        ValueError: a decay or a learning rate out of range, or no blocks.

    Examples:
        >>> model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3)))
        >>> [round(group["lr"], 4) for group in layer_decay(model, 0.5, lr=0.02)][::2]
        [0.005, 0.01, 0.02]

    Sources:
        Clark et al., ELECTRA, arXiv 2003.10555; Bao et al., BEiT, arXiv 2106.08254.
    """
    if not 0 < decay <= 1:
        raise invalid("decay", decay, "give a factor in (0, 1]")
    positive("lr", lr)
    positive("adamw_lr", adamw_lr)
    routing = route(model, **options)
    depths = layer_depths(model)
    last = max(depths.values(), default=0)
    if not last:
        raise invalid("model", type(model).__name__, "it has no list of blocks")
    groups: list[dict[str, Any]] = []
    for depth in range(last + 1):
        factor = decay ** (last - depth)
        members = [i for i, a in enumerate(routing) if depths[a.name] == depth]
        if not members:
            continue
        for group in routing.pick(members).groups():
            rate = adamw_lr if group.get("adamw") else lr
            groups.append({**group, "lr": rate * factor})
    return groups


def layer_depths(model: nn.Module) -> dict[str, int]:
    """The layer of each parameter, by its name: see `layer_decay`."""
    stacks = _towers(model)
    if not stacks:
        return dict.fromkeys((name for name, _ in model.named_parameters()), 0)
    last = max(len(stack.blocks) for stack in stacks) + 1
    # An override tells which optimizer has a parameter, not which part of the model it is.
    kinds = {a.name: a.kind for a in route(model)}
    found: dict[str, int] = {}
    passed = [0] * len(stacks)
    for name, _ in model.named_parameters():
        inside = [(i, at) for i, stack in enumerate(stacks) if (at := stack.find(name)) is not None]
        for i, at in inside:
            passed[i] = max(passed[i], at + 1)
            found[name] = last - len(stacks[i].blocks) + at
        if kinds[name] == "head":
            found[name] = last
        elif not inside and kinds[name] == "embedding":
            found[name] = 0
        elif not inside:
            found[name] = _outside(name, stacks, passed, last)
    return found


@dataclass(frozen=True)
class _Stack:
    """Blocks that follow each other.

    Args:
        paths: the lists that hold them.
        blocks: the blocks.
        numel: how many numbers the parameters of the blocks hold.
    """

    paths: tuple[str, ...]
    blocks: tuple[str, ...]
    numel: int

    def find(self, name: str) -> int | None:
        """The place of the block of a parameter; None if it is in none."""
        return next((i for i, b in enumerate(self.blocks) if name.startswith(f"{b}.")), None)

    def shared(self, name: str) -> int:
        """How many steps a name goes together with the path of one of the lists."""
        steps = name.split(".")
        pairs = (zip(steps, path.split("."), strict=False) for path in self.paths)
        return max(sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], p)) for p in pairs)


def _outside(name: str, stacks: Sequence[_Stack], passed: Sequence[int], last: int) -> int:
    """The layer of a parameter of no block, where so many blocks of each stack come before it."""
    shared = [stack.shared(name) for stack in stacks]
    if shared.count(max(shared)) > 1:
        return last if any(passed) else 0
    i = shared.index(max(shared))
    # Between two blocks it belongs to the one that comes, as a change of width does.
    return last - len(stacks[i].blocks) + passed[i] if passed[i] else 0


def _towers(model: nn.Module) -> list[_Stack]:
    """The outermost stacks; `layer1` and `layer2` are one, and what is small beside it is none."""
    found: dict[str, list[_Stack]] = {}
    for stack in _stacks(model):
        found.setdefault(re.sub(r"\d+", "#", stack.paths[0]), []).append(stack)
    towers = [
        _Stack(
            tuple(path for stack in some for path in stack.paths),
            tuple(block for stack in some for block in stack.blocks),
            sum(stack.numel for stack in some),
        )
        for some in found.values()
    ]
    largest = max((tower.numel for tower in towers), default=0)
    return [tower for tower in towers if tower.numel >= SMALL * largest]


def _stacks(module: nn.Module, path: str = "") -> Iterator[_Stack]:
    """The outermost stacks of a module, whose stages are seen as the blocks they consist of."""
    within = f"{path}." if path else ""
    # Experts of a layer stand beside each other.
    if not _is_stack(module) or "expert" in path.rpartition(".")[2]:
        for name, child in module.named_children():
            yield from _stacks(child, within + name)
        return
    blocks: list[str] = []
    total = 0
    for name, member in module.named_children():
        whole = sum(p.numel() for p in member.parameters())
        inner = max(_stacks(member, within + name), key=lambda stack: stack.numel, default=None)
        is_stage = inner is not None and inner.numel >= STAGE * whole
        blocks += inner.blocks if inner is not None and is_stage else [within + name]
        total += whole
    yield _Stack((path,), tuple(blocks), total)


def _is_stack(module: nn.Module) -> bool:
    """Whether a module is a list of blocks, which have modules of their own and few classes."""
    children = list(module.children())
    kinds = len({type(child) for child in children})
    # Hybrid models mix two kinds of block in a list; a sequence of several is a block itself.
    few = kinds < len(children) if isinstance(module, nn.ModuleList) else kinds == 1
    return (
        isinstance(module, nn.ModuleList | nn.Sequential)
        and len(children) > 1
        and few
        and all(any(True for _ in child.children()) for child in children)
    )
