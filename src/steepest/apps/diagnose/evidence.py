"""The material of the findings: the records of a run, and figures computed at its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from steepest._common.files import Record
from steepest.apps.train.config import Config, OptimizerConfig
from steepest.apps.train.trial import diverged
from steepest.diagnostics import ConstraintReport, DirectionReport, Verdict

Confidence = Literal["certain", "likely", "a hint"]

FIXED_LENGTH = ("muon", "torch-muon", "descent", "scion", "lion", "sign", "normalized-sgd")
"""Optimizers of `steepest train` whose steps are as long as lr says, whatever the gradient."""
MUON = ("muon", "torch-muon")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that a user may want to change, or a reason not to.

    Args:
        what: the matter, a sentence without its full stop.
        confidence: how sure that is.
        why: the reason for the confidence.
        advice: the change to make, or the reason why none is.
        evidence: the title of the part of the page that shows it.
        change: whether there is something to change.
    """

    what: str
    confidence: Confidence
    why: str
    advice: str
    evidence: str
    change: bool = True


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that the rules see of one run.

    Args:
        folder: the folder of its files, as a user would write it.
        metrics: the records of the run.
        monitor: the records of the monitor.
        config: the settings; None for a run of the user's own code.
        optimizer: the name of the optimizer in `config`; empty without one.
        verdict: the step that suits each layer, where it was computed.
        directions: the fall of the loss along each direction, likewise.
        constraint: the weights in their balls, likewise.
        hidden: the layers whose weights are hidden matrices, as the routing sees them.
        tables: the layers that are embeddings or heads.
        sides: the smaller side of each layer's matrix.
        skipped: the number of updates that the optimizer left out.
    """

    folder: str = "RUN"
    metrics: Sequence[Record] = ()
    monitor: Sequence[Record] = ()
    config: Config | None = None
    optimizer: str = ""
    verdict: Verdict | None = None
    directions: DirectionReport | None = None
    constraint: ConstraintReport | None = None
    hidden: frozenset[str] = frozenset()
    tables: frozenset[str] = frozenset()
    sides: Mapping[str, int] = field(default_factory=dict)
    skipped: int = 0

    @property
    def settings(self) -> OptimizerConfig | None:
        """The settings of the optimizer."""
        return None if self.config is None else self.config.optimizers.get(self.optimizer)

    @property
    def last(self) -> int:
        """The newest step of any record; 0 without one."""
        return max((int(r["step"]) for r in (*self.metrics, *self.monitor)), default=0)

    @property
    def diverged(self) -> Record | None:
        """The record whose loss is not a number, if there is one."""
        return next(filter(diverged, self.metrics), None)

    @property
    def finished(self) -> bool:
        """Whether the run has taken all of its steps."""
        return self.config is not None and self.last >= self.config.steps and not self.diverged

    @property
    def validation(self) -> list[tuple[int, float]]:
        """Step and validation loss of every evaluation."""
        return [(int(r["step"]), r["val_loss"]) for r in self.metrics if r.get("val_loss")]

    def smaller_lr(self, factor: float = 3.0) -> str:
        """The advice to lower lr, as a flag where the run has flags."""
        if self.settings is None:
            return f"lower lr, by a factor of {factor:g} to begin with"
        return f"try --lr {self.optimizer}={self.settings.lr / factor:.2g}"
