"""The measurements made anew at a checkpoint: curvature, directions, verdicts, balls."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from steepest import route
from steepest.apps.train.constraint import has_ball, layer
from steepest.apps.train.data import batch
from steepest.apps.train.model import GPT
from steepest.apps.train.trial import Trainer
from steepest.diagnostics import (
    DIRECTIONS,
    ConstraintReport,
    DirectionReport,
    Smoothness,
    Verdict,
    compare_directions,
    compare_geometries,
    constraint_report,
    smoothness,
)
from steepest.norms import L2, LInf, Norm, Spectral

NORMS: Mapping[str, Norm] = {"ℓ2": L2(), "ℓ∞": LInf(), "spectral": Spectral()}
"""The norms of gradient descent, of sign descent and of Muon, by name."""

CLIMB, REST = 10, 0.01
"""The search for the smoothness in a norm: most products with the Hessian, and least rise."""

PRODUCT, LANCZOS, CLIMBS = 1.4, 15, 14
"""A product with the Hessian in gradients, the products of a layer's verdict, and those for a step
of each search for a smoothness, with its singular values; ours, from the default model. For an
estimate, which need not be better than a factor of two."""

TIMED = 4
"""The most windows that a gradient is timed on."""

LIMIT = 1800.0
"""Seconds from which on a diagnosis is refused: nobody waits for half an hour without having asked
for it, and fewer windows say the same."""

T = TypeVar("T")
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class CheckpointMeasurements:
    """The measurements at one checkpoint; a field is None where `failed` says why.

    Args:
        step: the step of the checkpoint.
        windows: the number of windows of text that the loss is a mean of.
        seed: the seed that drew them.
        loss: the loss there, in nats per character.
        shapes: the shapes of the parameters, by name.
        constraint: the places of the weights in their balls; None without balls.
        directions: the fall of the loss along each direction.
        verdict: the geometry that each layer favours.
        smoothness: the smoothness of the loss in each of `NORMS`.
        slopes: the dual norm of the gradient in each of `NORMS`.
        hidden: the layers that are hidden matrices, as the routing sees them.
        tables: the layers that are embeddings and heads.
        skipped: the number of updates that the optimizer left out as not finite.
        failed: the reason why something is missing, by the name of its field.
    """

    step: int
    windows: int
    seed: int
    loss: float
    shapes: dict[str, tuple[int, ...]]
    constraint: ConstraintReport | None = None
    directions: DirectionReport | None = None
    verdict: Verdict | None = None
    smoothness: Mapping[str, Smoothness] | None = None
    slopes: Mapping[str, float] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()
    tables: frozenset[str] = frozenset()
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """The loss that this is about, in words."""
        windows = "1 window" if self.windows == 1 else f"{self.windows} windows"
        return (
            f"At step {self.step}, on {windows} of the training text drawn with seed "
            f"{self.seed}, where the loss is {self.loss:.4f}."
        )


class _Attempts:
    """Computes one thing after the other; what is refused leaves its reason in `failed`."""

    def __init__(self, report: Say) -> None:
        self.failed: dict[str, str] = {}
        self._report = report

    def __call__(self, name: str, make: Callable[[], T]) -> T | None:
        self._report(name)
        try:
            return make()
        except ValueError as error:
            self.failed[name] = str(error)
            return None


def estimate(trainer: Trainer, *, windows: int) -> dict[str, float]:
    """The seconds that each thing to compute will take, roughly: from a gradient.

    Raises:
        ValueError: there are not so many windows, or it would take longer than `LIMIT`.
    """
    context = trainer.config.model.context
    most = trainer.corpus.train.numel() // context
    if windows > most:
        raise ValueError(
            f"--windows {windows}: the training text has {most} windows of {context} characters; "
            "give fewer, such as the default of 4"
        )
    some = _windows(trainer, min(windows, TIMED), seed=0)
    gradient = min(_gradient_seconds(trainer.model, some) for _ in range(2)) / len(some)
    hidden, tables = _places(trainer.model)
    products = {
        "directions": len(DIRECTIONS) * (len(hidden) + 1),
        "verdict": LANCZOS * (len(hidden) + len(tables)),
        "smoothness": CLIMBS * CLIMB,
    }
    plan = {name: PRODUCT * gradient * windows * count for name, count in products.items()}
    if (total := sum(plan.values())) > LIMIT:
        fit = max(1, int(windows * LIMIT / total))
        raise ValueError(
            f"--windows {windows}: it would take about {total / 3600:.1f} hours on this machine; "
            f"give at most {fit}, which take half an hour, or the default of 4"
        )
    return plan


def _gradient_seconds(model: GPT, ids: Tensor) -> float:
    """The time of a gradient."""
    start = time.perf_counter()
    torch.autograd.grad(model.loss(ids), list(model.parameters()))
    return time.perf_counter() - start


def _places(model: nn.Module) -> tuple[frozenset[str], frozenset[str]]:
    """The hidden matrices and the tables of a model, as layers."""
    routing = list(route(model))
    return (
        frozenset(layer(a.name) for a in routing if a.target == "matrix"),
        frozenset(layer(a.name) for a in routing if a.target == "table"),
    )


def measure(trainer: Trainer, *, windows: int, seed: int, report: Say) -> CheckpointMeasurements:
    """Look at a trial in memory, in the type of its parameters and without autocast.

    Args:
        trainer: the trial, restored from a checkpoint.
        windows: the number of windows of the training text that the loss is a mean of.
        seed: draws them.
        report: called with what is going to be computed.
    """
    model, optimizer = trainer.model, trainer.optimizer
    ids = _windows(trainer, windows, seed)
    hidden, tables = _places(model)

    def loss() -> Tensor:
        return model.loss(ids)

    attempt = _Attempts(report)
    chosen = dict(DIRECTIONS)
    if not _has_averages(model, optimizer, hidden):
        # Adam's first step is along the sign, which is there already.
        del chosen["adam"]
    directions = attempt(
        "directions", lambda: compare_directions(loss, model, chosen, optimizer=optimizer)
    )
    return CheckpointMeasurements(
        step=trainer.step,
        windows=windows,
        seed=seed,
        loss=float(loss().detach()),
        shapes={name: tuple(p.shape) for name, p in model.named_parameters()},
        directions=directions,
        verdict=attempt("verdict", lambda: compare_geometries(model, GPT.loss, ids)),
        smoothness=attempt("smoothness", lambda: _smoothness(loss, model, directions)),
        slopes=_slopes(loss, model, directions),
        hidden=hidden,
        tables=tables,
        skipped=int(getattr(optimizer, "skipped", 0)),
        constraint=attempt("constraint", lambda: constraint_report(model, optimizer))
        if has_ball(optimizer)
        else None,
        failed=attempt.failed,
    )


def _has_averages(
    model: nn.Module, optimizer: torch.optim.Optimizer, hidden: frozenset[str]
) -> bool:
    """Whether an optimizer keeps Adam's averages of all hidden matrices."""
    return all(
        "exp_avg_sq" in optimizer.state.get(p, {})
        for name, p in model.named_parameters()
        if layer(name) in hidden
    )


def _windows(trainer: Trainer, count: int, seed: int) -> Tensor:
    """Windows of the training text; drawn for this alone, as the steps of a run are ≥ 0."""
    context = trainer.config.model.context
    ids = batch(trainer.corpus.train, seed=seed, step=-1, size=count, context=context)
    return ids.to(trainer.device)


def _compared(model: nn.Module, directions: DirectionReport | None) -> dict[str, nn.Parameter]:
    """The parameters that directions were compared over."""
    params = dict(model.named_parameters())
    return params if directions is None else {name: params[name] for name in directions.layers}


def _smoothness(
    loss: Callable[[], Tensor], model: nn.Module, directions: DirectionReport | None
) -> dict[str, Smoothness]:
    """The smoothness in every norm over the matrices that directions were compared over."""
    params = _compared(model, directions)
    return {
        name: smoothness(loss, params, norm, steps=CLIMB, restarts=0, tolerance=REST)
        for name, norm in NORMS.items()
    }


def _slopes(
    loss: Callable[[], Tensor], model: nn.Module, directions: DirectionReport | None
) -> dict[str, float]:
    """‖g‖† in every norm: entries as one vector, matrices side by side, whose duals add up."""
    params = _compared(model, directions)
    grads = torch.autograd.grad(loss(), list(params.values()))
    flat = torch.cat([g.flatten() for g in grads])
    matrices = [g.flatten(1) for g in grads if g.ndim > 1]
    return {
        name: sum(float(norm.dual(g, check=False)) for g in matrices)
        if norm == Spectral()
        else float(norm.dual(flat, check=False))
        for name, norm in NORMS.items()
    }
