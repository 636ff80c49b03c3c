"""Runs that take no time: their loss is a formula of the settings, the seed and the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from typer.testing import Result

from steepest.apps.compare.settings import CompareSettings
from steepest.apps.compare.tasks import RunSetup, TrainingRun, TrainingTask

Invoke = Callable[..., Result]
Record = dict[str, Any]
started: list[RunSetup] = []

BEST = {"muon": 0.04, "adamw": 4e-3, "scion": 0.4}
"""The best learning rates: that of scion is far outside of its grid."""

FASTER = {"muon": 0.0, "adamw": 0.5, "scion": -0.25}
"""What the loss of a row has at its best more than muon's."""

SETTINGS = CompareSettings(
    optimizers=("muon", "adamw", "scion"),
    steps=12,
    digit_steps=12,
    tuning_seeds=2,
    evaluations=4,
    rounds=3,
    round_steps=2,
)


class FakeRun(TrainingRun):
    """1 + 3·2^(−t/3), more with the distance from the best settings, and with the seed."""

    def __init__(self, settings: CompareSettings, setup: RunSetup) -> None:
        started.append(setup)
        self.setup, self.taken = setup, 0

    def step(self) -> bool:
        self.taken += 1
        return self.setup.tuned.lr < 1.0

    def loss(self) -> float:
        tuned, name = self.setup.tuned, self.setup.optimizer
        off = math.log2(tuned.lr / BEST.get(name, 0.04)) ** 2 / 10
        off += 0.1 * (tuned.weight_decay > 0)
        off += 0.0 if tuned.adamw_lr is None else math.log2(tuned.adamw_lr / 8e-3) ** 2 / 10
        noise = 0.01 * (self.setup.seed % 7) * (1 + (name == "scion"))
        return 1 + FASTER.get(name, 1.0) + 3 * 2 ** (-self.taken / 3) + off + noise


FAKE = TrainingTask(
    start=FakeRun, steps=lambda s: s.steps, flops=lambda _: 1.0, load=lambda _: None
)
