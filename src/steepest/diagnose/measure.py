"""What is computed anew at a checkpoint: curvature, directions, verdicts, balls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from steepest.diagnostics import (
    ConstraintReport,
    DirectionReport,
    Smoothness,
    Verdict,
    compare,
    compare_directions,
    constraint_report,
    smoothness,
)
from steepest.norms import L2, LInf, Norm, Spectral
from steepest.train.constraint import has_ball
from steepest.train.data import batch
from steepest.train.trial import Learner

NORMS: Mapping[str, Norm] = {"ℓ2": L2(), "ℓ∞": LInf(), "spectral": Spectral()}
"""The norms of gradient descent, of sign descent and of Muon, by name."""

CLIMB = 10
"""Products with the Hessian that look for the smoothness in a norm."""

T = TypeVar("T")
Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was found at one checkpoint; a field is None where `failed` says why.

    Args:
        step: of the checkpoint.
        windows: how many windows of text the loss is a mean of.
        seed: that drew them.
        loss: there, in nats a character.
        shapes: of the parameters, by name.
        constraint: where the weights are in their balls; None without balls.
        directions: how far the loss falls along each.
        verdict: which geometry each layer favours.
        smoothness: how sharply the loss is curved in each of `NORMS`.
        failed: why something is missing, by the name of its field.
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
        """Which loss this is about, in words."""
        return (
            f"At step {self.step}, on {self.windows} windows of the training text drawn with seed "
            f"{self.seed}, where the loss is {self.loss:.4f}."
        )


def measure(learner: Learner, *, windows: int, seed: int, report: Report) -> Measured:
    """Look at a trial in memory, in the type of its parameters and without autocast.

    Args:
        learner: restored from a checkpoint.
        windows: how many windows of the training text the loss is a mean of.
        seed: draws them.
        report: called with what is going to be computed.
    """
    model = learner.model
    # Steps of a training begin with 0: no training has seen the windows of this one together.
    ids = batch(
        learner.corpus.train,
        seed=seed,
        step=-1,
        size=windows,
        context=learner.config.model.context,
    ).to(learner.device)
    failed: dict[str, str] = {}

    def attempt(name: str, what: str, make: Callable[[], T]) -> T | None:
        report(what)
        try:
            return make()
        except ValueError as error:
            failed[name] = str(error)
            return None

    loss = float(model.loss(ids).detach())
    constraint = None
    if has_ball(learner.optimizer):
        constraint = attempt(
            "constraint", "balls", lambda: constraint_report(model, learner.optimizer)
        )
    directions = attempt(
        "directions",
        "directions",
        lambda: compare_directions(lambda: model.loss(ids), model, optimizer=learner.optimizer),
    )
    verdict = attempt(
        "verdict",
        "verdict of each layer",
        lambda: compare(model, lambda model, ids: model.loss(ids), ids),
    )
    matrices = dict(model.named_parameters())
    if directions is not None:
        matrices = {name: matrices[name] for name in directions.layers}
    curved = attempt(
        "smoothness",
        "smoothness",
        lambda: {
            name: smoothness(
                lambda: model.loss(ids), matrices, norm, steps=CLIMB, restarts=0, tolerance=1e-2
            )
            for name, norm in NORMS.items()
        },
    )
    return Measured(
        step=learner.step,
        windows=windows,
        seed=seed,
        loss=loss,
        shapes={name: tuple(p.shape) for name, p in model.named_parameters()},
        constraint=constraint,
        directions=directions,
        verdict=verdict,
        smoothness=curved,
        failed=failed,
    )
