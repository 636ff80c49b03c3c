"""The measurements made anew at a checkpoint: curvature, directions, verdicts, balls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor, nn

from steepest.apps.train.constraint import has_ball
from steepest.apps.train.data import batch
from steepest.apps.train.model import GPT
from steepest.apps.train.trial import Trainer
from steepest.diagnostics import (
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

T = TypeVar("T")
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class CheckpointMeasurements:
    """The measurements at one checkpoint; a field is None where `failed` says why.

    Args:
        step: the step of the checkpoint.
        windows: the number of windows of text that the loss is a mean of.
        seed: the seed that drew them.
        loss: the loss there, in nats a character.
        shapes: the shapes of the parameters, by name.
        constraint: the places of the weights in their balls; None without balls.
        directions: the fall of the loss along each direction.
        verdict: the geometry that each layer favours.
        smoothness: the smoothness of the loss in each of `NORMS`.
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

    def loss() -> Tensor:
        return model.loss(ids)

    attempt = _Attempts(report)
    directions = attempt("directions", lambda: compare_directions(loss, model, optimizer=optimizer))
    return CheckpointMeasurements(
        step=trainer.step,
        windows=windows,
        seed=seed,
        loss=float(loss().detach()),
        shapes={name: tuple(p.shape) for name, p in model.named_parameters()},
        directions=directions,
        verdict=attempt("verdict", lambda: compare_geometries(model, GPT.loss, ids)),
        smoothness=attempt("smoothness", lambda: _smoothness(loss, model, directions)),
        constraint=attempt("constraint", lambda: constraint_report(model, optimizer))
        if has_ball(optimizer)
        else None,
        failed=attempt.failed,
    )


def _windows(trainer: Trainer, count: int, seed: int) -> Tensor:
    """Windows of the training text; drawn for this alone, as the steps of a training are ≥ 0."""
    context = trainer.config.model.context
    ids = batch(trainer.corpus.train, seed=seed, step=-1, size=count, context=context)
    return ids.to(trainer.device)


def _smoothness(
    loss: Callable[[], Tensor], model: nn.Module, directions: DirectionReport | None
) -> dict[str, Smoothness]:
    """The smoothness in every norm over the matrices that directions were compared over."""
    params = dict(model.named_parameters())
    if directions is not None:
        params = {name: params[name] for name in directions.layers}
    return {
        name: smoothness(loss, params, norm, steps=CLIMB, restarts=0, tolerance=REST)
        for name, norm in NORMS.items()
    }
