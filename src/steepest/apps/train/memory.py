"""The least memory that a run needs, to refuse what cannot fit before it is allocated."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from steepest._common.errors import invalid
from steepest.apps.train.config import DTYPES
from steepest.apps.train.settings import Config, ModelConfig

SIZES = ("width", "layers", "context")
COPIES = 3
"""Numbers per parameter at least: itself, its gradient, and one state of the optimizer."""

# The limit of a container, in version 2 of Linux's control groups and in version 1.
LIMITS = tuple(
    Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory/memory.limit_in_bytes")
)


def parameters(model: ModelConfig, vocabulary: int) -> int:
    """The number of parameters of the GPT.

    Examples:
        >>> from steepest.apps.train.model import GPT
        >>> size = ModelConfig(layers=2, width=8, heads=2, context=4)
        >>> made = GPT(size, vocabulary=5, seed=0)
        >>> parameters(size, 5) == sum(p.numel() for p in made.parameters())
        True
    """
    width = model.width
    ends = (2 * vocabulary + model.context + 1) * width
    return ends + model.layers * (12 * width**2 + 2 * width)


def least(config: Config, vocabulary: int) -> int:
    """Bytes that a run of one process needs at least.

    Of what the backward pass keeps only the inputs of the linear layers and of the head's loss are
    counted, which every implementation keeps.
    """
    model = config.model
    item = torch.float32.itemsize if config.dtype == "bfloat16" else DTYPES[config.dtype].itemsize
    kept = DTYPES[config.dtype].itemsize
    characters = config.batch * model.context
    inside = characters * (7 * model.layers * model.width + vocabulary) * kept
    return COPIES * parameters(model, vocabulary) * item + inside


def available(device: torch.device) -> int | None:
    """Bytes of memory that a run may count on; None where that is not known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu" or not hasattr(os, "sysconf"):
        return None
    # Not what is free at the moment: Linux would free more.
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
    limits = [path.read_text().strip() for path in LIMITS if path.is_file()]
    return min([found, *(int(text) for text in limits if text.isdecimal())])


def check(config: Config, vocabulary: int, *, alone: bool = True) -> None:
    """Raise if a run cannot fit into memory.

    Args:
        config: the settings of the run.
        vocabulary: the number of characters.
        alone: whether one process trains. Several share what a run needs, but each of them draws
            all weights before it keeps its part.

    Raises:
        ValueError: it cannot; the message names the size that is furthest above its default.
    """
    device = torch.device(config.device)
    drawn = parameters(config.model, vocabulary) * torch.float32.itemsize
    needed, there = least(config, vocabulary) if alone else drawn, available(device)
    if there is None or needed <= there:
        return
    usual, model = Config(optimizers=config.optimizers), config.model
    sizes = {
        "batch": (config.batch, usual.batch),
        **{name: (getattr(model, name), getattr(usual.model, name)) for name in SIZES},
    }
    name = max(sizes, key=lambda n: sizes[n][0] / sizes[n][1])
    raise invalid(
        name,
        sizes[name][0],
        f"the run would need at least {needed / 1e9:,.0f} GB of memory, and {config.device} has "
        f"{there / 1e9:,.0f} GB; give a smaller one",
    )
