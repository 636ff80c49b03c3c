"""The cells of a comparison: times, the grids, what follows from them, and the final runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from statistics import fmean

from torch import Tensor

from steepest._common.errors import invalid
from steepest._common.files import Record
from steepest._common.records import number
from steepest.apps.bench.rounds import take_turns
from steepest.apps.compare.names import TUNING_SEED
from steepest.apps.compare.settings import CompareSettings
from steepest.apps.compare.tasks import TASKS, RunSetup, TrainingRun
from steepest.apps.compare.tuning import REFINEMENTS, TriedLosses, best, grid, refined
from steepest.apps.reproduce.framework.experiment import Cell
from steepest.apps.train.config import OptimizerConfig
from steepest.apps.train.optimizers import recipe

TIME, GRID, REFINE, FINAL = "time", "grid", "refine", "final"
"""The stages, as cells name them."""

TUNED_FIELDS = ("lr", "weight_decay", "adamw_lr")
WARMUP_ROUNDS = 2


def _run_cells(
    settings: CompareSettings,
    stage: str,
    pair: tuple[str, str],
    setups: Iterable[tuple[OptimizerConfig, int]],
) -> list[Cell]:
    """A cell for each setting and seed of a task and a row."""
    task, optimizer = pair
    place = {"task": task, "stage": stage, "optimizer": optimizer}
    return [
        Cell(
            key={**place, **{k: getattr(tuned, k) for k in TUNED_FIELDS}, "seed": seed},
            cost=TASKS[task].cost(settings),
        )
        for tuned, seed in setups
    ]


def _pairs(settings: CompareSettings) -> Iterator[tuple[str, str]]:
    """Every task with every row."""
    return product(settings.tasks, settings.optimizers)


def _tuning_cells(
    settings: CompareSettings, stage: str, pair: tuple[str, str], tried: Iterable[OptimizerConfig]
) -> list[Cell]:
    seeds = range(TUNING_SEED, TUNING_SEED + settings.tuning_seeds)
    return _run_cells(settings, stage, pair, product(tried, seeds))


def first_cells(settings: CompareSettings) -> list[Cell]:
    """The cells that depend on none: the times of all rows on each task, and the grids."""
    steps = settings.round_steps * (settings.rounds + WARMUP_ROUNDS)
    cells = [
        Cell(
            key={"task": task, "stage": TIME, "optimizers": list(settings.optimizers)},
            cost=TASKS[task].cost(replace(settings, steps=steps, digit_steps=steps))
            * len(settings.optimizers),
            alone=True,
        )
        for task in settings.tasks
    ]
    for pair in _pairs(settings):
        cells += _tuning_cells(settings, GRID, pair, grid(settings, pair[1]))
    return cells


def tried_losses(results: Sequence[Record], task: str, optimizer: str) -> TriedLosses:
    """The mean loss of every setting that a row was tuned with, in their order."""
    found: dict[OptimizerConfig, list[float | None]] = {}
    for r in results:
        if r["stage"] in (GRID, REFINE) and (r["task"], r["optimizer"]) == (task, optimizer):
            found.setdefault(config_of(r), []).append(r["loss"])
    return {c: mean_loss(losses) for c, losses in found.items()}


def mean_loss(losses: Sequence[float | None]) -> float | None:
    """The mean over seeds; None if one of them diverged."""
    finite = [loss for loss in losses if loss is not None]
    return fmean(finite) if len(finite) == len(losses) else None


def config_of(cell: Record) -> OptimizerConfig:
    """The settings of a cell's run."""
    tuned = recipe(cell["optimizer"]).tuned
    return replace(tuned, **{k: cell[k] for k in TUNED_FIELDS})


def later_cells(settings: CompareSettings, results: Sequence[Record]) -> list[Cell]:
    """The cells that follow from the grids: more settings of every row, then its final runs."""
    stages = {r["stage"] for r in results}
    if FINAL in stages:
        return []
    cells = []
    for pair in _pairs(settings):
        tried = tried_losses(results, *pair)
        if REFINE in stages:
            cells += _run_cells(settings, FINAL, pair, product([best(tried)], settings.seeds))
        else:
            cells += _tuning_cells(settings, REFINE, pair, refined(tried))
    return cells


def expected(settings: CompareSettings) -> tuple[int, float]:
    """The number of cells after the first ones, and their cost."""
    runs = REFINEMENTS * settings.tuning_seeds + len(settings.seeds)
    runs *= len(settings.optimizers)
    costs = [TASKS[task].cost(settings) for task in settings.tasks]
    return runs * len(costs), runs * sum(costs)


def measure(settings: CompareSettings, cell: Record) -> Record:
    """Train with a setting, or time all rows.

    Returns:
        `loss` after the last step, None if the run diverged; of a final run also `steps` and
        `losses`, the curve. Of times `seconds`: those of a step in each round, by row.

    Raises:
        ValueError: a row that is timed cannot take a step, which shows before the long runs.
    """
    if cell["stage"] == TIME:
        return _timed(settings, cell)
    task = TASKS[cell["task"]]
    steps, tuned = task.steps(settings), config_of(cell)
    setup = RunSetup(optimizer=cell["optimizer"], tuned=tuned, seed=cell["seed"], steps=steps)
    run = task.start(settings, setup)
    if cell["stage"] != FINAL:
        return {"loss": _curve(run, [steps])["loss"]}
    every = max(1, steps // settings.evaluations)
    return _curve(run, sorted({*range(0, steps, every), steps}))


def _curve(run: TrainingRun, looks: Sequence[int]) -> Record:
    """Train to the last of these steps, and evaluate after each of them."""
    losses: list[float | None] = []
    taken = 0
    for step in looks:
        finite = all(run.step() for _ in range(step - taken))
        taken = step
        losses.append(number(run.loss()) if finite else None)
        if losses[-1] is None:
            break
    return {"loss": losses[-1], "steps": list(looks[: len(losses)]), "losses": losses}


class _Turn:
    """A run that takes a few steps whenever it is its turn."""

    def __init__(self, run: TrainingRun, steps: int) -> None:
        self._run, self._steps = run, steps

    def load(self, matrices: Sequence[Tensor]) -> None:
        """Take no matrices: a run has its own data."""

    def run(self) -> None:
        """Take the steps that are timed."""
        for _ in range(self._steps):
            self._run.step()


def _timed(settings: CompareSettings, cell: Record) -> Record:
    """Seconds of a step of each row: all take turns on fresh models, in an order that is drawn."""
    task, size = TASKS[cell["task"]], settings.round_steps
    steps = size * (settings.rounds + WARMUP_ROUNDS)

    def start(name: str) -> _Turn:
        setup = RunSetup(optimizer=name, tuned=recipe(name).tuned, seed=TUNING_SEED, steps=steps)
        return _Turn(task.start(settings, setup), size)

    times = take_turns(
        {name: start(name) for name in cell["optimizers"]},
        list,
        rounds=settings.rounds,
        warmup=WARMUP_ROUNDS,
        seed=TUNING_SEED,
    )
    for name, reason in times.failures.items():
        raise invalid(
            "optimizer", name, f"takes no steps on {cell['task']} ({reason}); leave it out"
        )
    return {"seconds": {name: [t / size for t in found] for name, found in times.seconds.items()}}
