"""A row of the table of other people's meshes, and the training that every row is compared by."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

import steepest
from steepest.polar import Svd
from tests.sharding.models import MODELS, Model, Spread

STEPS = 5
EXACT = 1e-9
"""Largest relative difference to one process where only the order of sums differs."""


@dataclass(frozen=True)
class Outcome:
    """What a rank brings back.

    Args:
        losses: Of every step, the loss of this rank's share; empty where it has none.
        weights: A number for every parameter that lies here, made of all of its entries, by name.
        said: The line with which the step or the constructor was refused.
        moved: Whether a refusal has left another weight behind.
    """

    losses: list[float]
    weights: dict[str, float]
    said: str = ""
    moved: bool = False


@dataclass(frozen=True)
class Row:
    """One use of somebody else's set-up.

    Args:
        topic: The part of the table that it belongs to.
        title: What is used, for the table.
        run: A function of (rank, world) that trains, or is refused, on every rank.
        alone: The same training in one process, as a function of the number of ranks; None for a
            row that is refused.
        within: The largest relative difference to it.
        refused: Words of the line that refuses it; empty if it works.
        worlds: The numbers of processes that it runs on.
        fast: Whether every run of the tests includes it, on two processes.
    """

    topic: str
    title: str
    run: Callable[[int, int], Outcome]
    alone: Callable[[int], Outcome] | None = None
    within: float = EXACT
    refused: str = ""
    worlds: Sequence[int] = (2, 4)
    fast: bool = False


def whole(x: Tensor) -> Tensor:
    """All entries of a tensor, on every rank of its mesh."""
    return (x.full_tensor() if isinstance(x, DTensor) else x).detach()


def number(name: str, x: Tensor) -> float:
    """A number that depends on every entry: its product with noise that its name decides on."""
    generator = torch.Generator().manual_seed(sum(name.encode()))
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return float((x.to("cpu", torch.float64) * noise).sum())


def weights(module: nn.Module) -> dict[str, float]:
    """The numbers of the parameters of a module, by the names of the module without wrappers."""
    found = {}
    for name, p in module.named_parameters():
        short = name.replace("_fsdp_wrapped_module.", "").removeprefix("module.")
        found[short] = number(short, whole(p))
    return found


def muon(module: Any, **options: Any) -> steepest.Muon:
    """The optimizer of the rows: its results depend on every entry of every matrix."""
    return steepest.Muon(
        module, lr=0.02, momentum=0.9, polar=Svd(), adamw_lr=0.01, weight_decay=0.1, **options
    )


def built(name: str, dtype: torch.dtype = torch.float64) -> Model:
    """A model of the table, the same on every rank."""
    torch.manual_seed(0)
    return MODELS[name]().to(dtype)


def train(
    run: Spread,
    optimizer: torch.optim.Optimizer,
    dtype: torch.dtype = torch.float64,
    after: Callable[[], None] = lambda: None,
) -> Outcome:
    """A few steps on this rank's share of every batch.

    Args:
        run: The model with its share.
        optimizer: Its optimizer.
        dtype: The type of the inputs.
        after: What comes between the backward pass and the step.
    """
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = run.loss(step, dtype)
        loss.backward()
        after()
        optimizer.step()
        losses.append(loss.item())
    return Outcome(losses, weights(run.model))


def alone(
    name: str, make: Callable[[Any], torch.optim.Optimizer] = muon
) -> Callable[[int], Outcome]:
    """The training of a model of the table in one process."""

    def run(_: int) -> Outcome:
        model = built(name)
        return train(Spread(model, model, 0, 1), make(model))

    return run


@contextlib.contextmanager
def words(found: list[str]) -> Iterator[None]:
    """Keep the line of a refusal."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        found.append(str(error))


def refusal(module: nn.Module, attempt: Callable[[], None]) -> Outcome:
    """What an attempt is refused with, and whether it has moved a weight of this rank."""
    found: list[str] = []
    before = [p.detach().clone() for p in module.parameters()]
    with words(found):
        attempt()
    after = list(module.parameters())
    moved = len(before) == len(after) and any(
        a.shape == b.shape and not torch.equal(local(a), local(b))
        for a, b in zip(before, after, strict=True)
        if not a.is_meta and not b.is_meta
    )
    return Outcome([], {}, said=found[0] if found else "nothing", moved=moved)


def local(x: Tensor) -> Tensor:
    """What is here of a tensor."""
    return (x.to_local() if isinstance(x, DTensor) else x).detach()
