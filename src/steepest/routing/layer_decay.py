"""Learning rates that fall from layer to layer, towards the input: for fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from steepest._common.checks import positive
from steepest._common.errors import invalid
from steepest.routing.table import Routing, route

STAGE = 0.75
"""The share of its parameters that a stage has in its blocks; a block has less in its own lists."""


def layer_decay(
    model: nn.Module, decay: float = 0.75, *, lr: float, adamw_lr: float = 3e-4, **options: Any
) -> list[dict[str, Any]]:
    """Parameter groups whose learning rates fall by a factor with each layer towards the input.

    Layer 0 is what is registered before the first block, such as embeddings and the stem; the
    blocks are layers 1, 2, …; what comes after them, such as the last norm and the head, is the
    last layer L. A parameter of layer i has decay^(L − i) times the learning rate of its kind. The
    blocks are the members of lists and sequences of modules of one class, in the order in which
    they are registered; a stage that consists of blocks counts as these.

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
        raise invalid("model", type(model).__name__, "it has no list of blocks of one class")
    groups: list[dict[str, Any]] = []
    for depth in range(last + 1):
        factor = decay ** (last - depth)
        members = [i for i, a in enumerate(routing) if depths[a.name] == depth]
        for group in _groups(routing, members):
            rate = adamw_lr if group.get("adamw") else lr
            groups.append({**group, "lr": rate * factor})
    return groups


def _groups(routing: Routing, members: list[int]) -> list[dict[str, Any]]:
    """The groups of some parameters."""
    return routing.pick(members).groups() if members else []


def layer_depths(model: nn.Module) -> dict[str, int]:
    """The layer of each parameter, by its name: see `layer_decay`."""
    blocks = list(_blocks(model))
    places = {path: i for i, path in enumerate(blocks, start=1)}
    found: dict[str, int] = {}
    reached = 0
    for name, _ in model.named_parameters():
        inside = [place for path, place in places.items() if name.startswith(f"{path}.")]
        if inside:
            reached = max(inside)
            found[name] = reached
        else:
            # Between two blocks it belongs to the one that comes, as a change of width does.
            found[name] = min(reached + 1, len(blocks) + 1) if reached else 0
    return found


def _blocks(module: nn.Module, path: str = "") -> Iterator[str]:
    """Paths of the blocks of a module, whose stages are seen as the blocks that they consist of."""
    within = f"{path}." if path else ""
    # Experts of a layer stand beside each other.
    if not _is_stack(module) or "expert" in path.rpartition(".")[2]:
        for name, child in module.named_children():
            yield from _blocks(child, within + name)
        return
    for name, member in module.named_children():
        blocks = list(_blocks(member, within + name))
        inner = [member.get_submodule(block[len(within + name) + 1 :]) for block in blocks]
        if sum(map(_numel, inner)) >= STAGE * _numel(member):
            yield from blocks
        else:
            yield within + name


def _numel(module: nn.Module) -> int:
    """How many numbers the parameters of a module hold."""
    return sum(p.numel() for p in module.parameters())


def _is_stack(module: nn.Module) -> bool:
    """Whether a module is a list of blocks of one class, which have modules of their own."""
    children = list(module.children())
    return (
        isinstance(module, nn.ModuleList | nn.Sequential)
        and len(children) > 1
        and len({type(child) for child in children}) == 1
        and all(any(True for _ in child.children()) for child in children)
    )
