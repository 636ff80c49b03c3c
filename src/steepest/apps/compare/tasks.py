"""The tasks that optimizers are compared on, each as runs that take one step at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from steepest._common.errors import invalid, refusal
from steepest.apps.compare.settings import CompareSettings
from steepest.apps.reproduce.data.digits import CLASSES, PIXELS, POOL, load_digits
from steepest.apps.reproduce.data.text import corpus
from steepest.apps.reproduce.framework.experiment import Settings
from steepest.apps.reproduce.framework.training import classifier, evaluate, training_steps
from steepest.apps.train.config import Config, ModelConfig, OptimizerConfig
from steepest.apps.train.optimizers import recipe
from steepest.apps.train.trial import Trainer, Trial


class TrainingRun(ABC):
    """A model with its optimizer on the way."""

    @abstractmethod
    def step(self) -> bool:
        """Take a step; False if its loss is not finite."""

    @abstractmethod
    def loss(self) -> float:
        """The mean loss on what is held out."""


@dataclass(frozen=True, kw_only=True)
class RunSetup:
    """The part of a run that differs from row to row and from seed to seed.

    Args:
        optimizer: the row of the table of `steepest train`.
        tuned: its settings.
        seed: the seed of the first weights and of the batches.
        steps: the steps that the schedule of the learning rate is made for.
    """

    optimizer: str
    tuned: OptimizerConfig
    seed: int
    steps: int


class TextRun(TrainingRun):
    """The GPT of `steepest train`, as that command trains it."""

    def __init__(self, settings: CompareSettings, setup: RunSetup) -> None:
        config = Config(
            optimizers={setup.optimizer: setup.tuned},
            model=ModelConfig(
                layers=settings.layers,
                width=settings.width,
                heads=settings.heads,
                context=settings.context,
            ),
            steps=setup.steps,
            batch=settings.batch,
            eval_windows=settings.eval_windows,
            spectra=False,
            monitor_every=0,
        )
        trial = Trial(optimizer=setup.optimizer, seed=setup.seed)
        self._trainer = Trainer(trial, config, corpus(settings.context))

    def step(self) -> bool:
        """Take a step on a batch of windows."""
        return self._trainer.train_step()["loss"] is not None

    def loss(self) -> float:
        """Nats per character over the validation windows."""
        return self._trainer.evaluate()


class DigitsRun(TrainingRun):
    """Linear layers with ReLU on small digits, as the reproductions train them."""

    def __init__(self, settings: CompareSettings, setup: RunSetup) -> None:
        self._digits = load_digits(pool=POOL)
        self._model = classifier(settings.digit_width, settings.digit_layers, seed=setup.seed)
        optimizer = recipe(setup.optimizer).build(self._model, setup.tuned)
        size = Settings(steps=setup.steps, batch=settings.digit_batch)
        self._steps = training_steps(self._model, optimizer, self._digits, size, seed=setup.seed)

    def step(self) -> bool:
        """Take a step on a batch of digits."""
        return next(self._steps, False)

    def loss(self) -> float:
        """Nats per digit over those that are held out."""
        loss, _ = evaluate(self._model, self._digits.held_images, self._digits.held_labels)
        return float("nan") if loss is None else loss


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """A model with its data.

    Args:
        start: makes a run.
        steps: the steps of a run.
        flops: the operations of a step, roughly.
        load: reads the data.
    """

    start: Callable[[CompareSettings, RunSetup], TrainingRun]
    steps: Callable[[CompareSettings], int]
    flops: Callable[[CompareSettings], float]
    load: Callable[[CompareSettings], object]

    def cost(self, settings: CompareSettings) -> float:
        """The time of a run, roughly, in milliseconds of a core."""
        # What a step takes however small it is, and 5·10¹⁰ operations in a second.
        return self.steps(settings) * (2.0 + self.flops(settings) / 5e7)


def _text_flops(s: CompareSettings) -> float:
    return 6.0 * s.batch * s.context * 12 * s.layers * s.width**2


def _digits_flops(s: CompareSettings) -> float:
    inner = (s.digit_layers - 1) * s.digit_width
    return 6.0 * s.digit_batch * s.digit_width * (PIXELS + inner + CLASSES)


TASKS: Mapping[str, TrainingTask] = {
    "text": TrainingTask(
        start=TextRun,
        steps=lambda s: s.steps,
        flops=_text_flops,
        load=lambda s: corpus(s.context),
    ),
    "digits": TrainingTask(
        start=DigitsRun,
        steps=lambda s: s.digit_steps,
        flops=_digits_flops,
        load=lambda _: load_digits(pool=POOL),
    ),
}
"""The tasks by the names of `names.TASKS`."""


def check_data(settings: CompareSettings) -> None:
    """Read the data of every task, so that what is missing shows before hours of training.

    Raises:
        ValueError: it is not there.
    """
    for name in settings.tasks:
        try:
            TASKS[name].load(settings)
        except ValueError as error:
            found = refusal(error)
            if found is None or len(settings.tasks) == 1:
                raise
            others = " ".join(f"--task {other}" for other in settings.tasks if other != name)
            raise invalid("task", name, f"{found.remedy}; or without it: {others}") from None
