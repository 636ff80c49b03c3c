"""Muon on simple quadratics: what exact and inexact polar steps do where everything is known.

The problems are ½⟨W − W*, A(W − W*)⟩ in n × n matrices. Looked at are

- 100 initialisations of nine spectra of A, with GD, Adam, and Muon with exact and with
  Newton–Schulz polar factors, with every learning rate, momentum and schedule: `sweep`;
- ½‖W‖², on which exact steps of one length keep the singular values on a grid: `grid`;
- noisy sign descent, the same in one dimension: `scalar`;
- the better of gradient and polar factor with exact line searches: `greedy`;
- errors of the shapes that real schedules have, in n dimensions: `errors`.

Parts are named after the figures and tables of arXiv 2602.11948. Only figures 1 to 5 and 16 are
described well enough to be drawn again; figure 6 is not described at all and shows the grid here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

from steepest._common.errors import invalid
from steepest._common.files import Record
from steepest.apps.reproduce.framework.claims import Claim
from steepest.apps.reproduce.framework.experiment import (
    Cell,
    Part,
    Reproduction,
    Settings,
    says_its_scale,
    sum_of,
)
from steepest.apps.reproduce.names import TITLES
from steepest.apps.reproduce.quadratics import (
    claims,
    errors,
    greedy,
    grid,
    pictures,
    scalar,
    tables,
)
from steepest.apps.reproduce.quadratics.families import FAMILIES, NINE, spectrum
from steepest.apps.reproduce.quadratics.methods import METHODS, MOMENTUM
from steepest.apps.reproduce.quadratics.problem import generator
from steepest.apps.reproduce.quadratics.sweep import sweep

# Of the starts without and with noise: sizes of the noise.
NOISES = (0.0, 0.03, 0.3, 10.0)


@dataclass(frozen=True, kw_only=True)
class QuadraticSettings(Settings):
    """Sizes of all parts; the batch is the number of instances in one cell.

    Args:
        instances: initialisations of each family, and of the greedy choice.
        families: the families of the sweep.
        n: rows and columns of its matrices.
        rates: its learning rates.
        varied: the number of families, the last ones, on which momentum and the vanishing schedule
            are tried too; None means all.
        samples: the samples of the noisy sign descent.
        sigmas: sizes of its noise.
        greedy_n: rows and columns of the greedy choice.
        greedy_steps: its steps.
        small_n: rows and columns where singular values are followed.
        finest: the smallest learning rate with which steps to ε are counted.
        error_n: the side where shapes of errors are compared.
        error_steps: the steps there.
        repeats: instances of everything but the sweep and the greedy choice.

    Raises:
        ValueError: a number below 1, or a family that there is not.
    """

    choices: ClassVar[frozenset[str]] = frozenset({"instances", "families"})

    seeds: tuple[int, ...] = (0,)
    steps: int = 500
    batch: int = 10
    instances: int = 100
    families: tuple[str, ...] = NINE
    n: int = 128
    rates: tuple[float, ...] = (5e-3, 1e-2, 5e-2, 1e-1)
    varied: int | None = None
    samples: int = 10_000
    sigmas: int = 60
    greedy_n: int = 100
    greedy_steps: int = 99
    small_n: int = 16
    finest: float = 1e-3
    error_n: int = 32
    error_steps: int = 400
    repeats: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.instances < 1:
            raise invalid("instances", self.instances, "give a whole number >= 1")
        for family in self.families:
            if family not in FAMILIES:
                raise invalid("family", family, f"choose from {', '.join(FAMILIES)}")
        if len(set(self.families)) < len(self.families):
            raise invalid("family", self.families, "give each one once")


Cells = Callable[[QuadraticSettings], list[Cell]]


def _cells(
    settings: QuadraticSettings, experiment: str, cost: float, keys: Sequence[Record] = ({},)
) -> list[Cell]:
    """A cell for each key and seed."""
    return [
        Cell(key={"experiment": experiment, **key, "seed": seed}, cost=cost)
        for seed in settings.seeds
        for key in keys
    ]


def _pieces(settings: QuadraticSettings) -> list[Record]:
    """The instances in cells of `batch`: their first number and their count."""
    return [
        {"first": first, "count": min(settings.batch, settings.instances - first)}
        for first in range(0, settings.instances, settings.batch)
    ]


def _sweep(schedule: str, momentum: float, methods: Sequence[str] = tuple(METHODS)) -> Cells:
    """Every family, method and rate, in pieces of `batch` instances."""

    def cells(settings: QuadraticSettings) -> list[Cell]:
        found = []
        plain = schedule == "constant" and momentum == 0
        families = settings.families if plain else settings.families[-(settings.varied or 0) :]
        for piece in _pieces(settings):
            rates = [(m, lr) for m in methods for lr in METHODS[m].rates or settings.rates]
            for family, (name, lr) in product(families, rates):
                method = METHODS[name]
                key = {
                    "family": family,
                    "method": name,
                    "momentum": momentum if momentum in method.momenta else 0.0,
                    "schedule": schedule,
                    "lr": lr,
                    **piece,
                }
                work = (settings.n / 128) ** 3 * method.cost * 1e-3
                cost = settings.steps * (3e-4 + piece["count"] * work)
                found += _cells(settings, tables.SWEEP, cost, [key])
        return found

    return cells


def _spectra(settings: QuadraticSettings) -> list[Cell]:
    return _cells(settings, tables.SPECTRA, 1e-3, [{"family": f} for f in settings.families])


def _hitting(settings: QuadraticSettings) -> list[Cell]:
    sizes = [{"index": i, "sigma": s} for i, s in enumerate(scalar.sigmas(settings.sigmas))]
    cost = 5e-6 * settings.samples
    return [
        *_cells(settings, tables.HITTING, cost, sizes),
        *_cells(settings, tables.STARTS, cost, [{"sigma": s} for s in NOISES]),
    ]


def _greedy(settings: QuadraticSettings) -> list[Cell]:
    work = settings.greedy_steps * (settings.greedy_n / 100) ** 3
    return [
        cell
        for piece in _pieces(settings)
        for cell in _cells(settings, tables.GREEDY, 4e-3 * work * piece["count"], [piece])
    ]


def _grid(settings: QuadraticSettings) -> list[Cell]:
    return _cells(settings, tables.GRID, 0.5, [{"way": way} for way in grid.WAYS])


def _reach(settings: QuadraticSettings) -> list[Cell]:
    ways = [("Muon", lr) for lr in grid.rates(settings.finest)] + [("GD", grid.GD_LR)]
    return [
        cell
        for method, lr in ways
        for cell in _cells(settings, tables.REACH, 5e-3 / lr, [{"method": method, "lr": lr}])
    ]


def _errors(settings: QuadraticSettings) -> list[Cell]:
    keys = [
        {"family": family, "profile": profile, "sigma": sigma}
        for family, (profile, sigma) in product(errors.PROBLEMS, errors.cases())
    ]
    cost = settings.error_steps * settings.repeats * (settings.error_n / 32) ** 2 * 6e-4
    return _cells(settings, tables.ERRORS, cost, keys)


def _carry_out(settings: QuadraticSettings, cell: Record) -> Record:
    """The numbers of one cell."""
    experiment, seed = cell["experiment"], cell["seed"]
    few = range(settings.repeats)
    if experiment == tables.SWEEP:
        return sweep(cell, n=settings.n, steps=settings.steps)
    if experiment == tables.SPECTRA:
        values = spectrum(cell["family"], settings.n, generator(seed, 0))
        return {"curvatures": values.tolist()}
    if experiment == tables.HITTING:
        samples = settings.samples
        return scalar.hitting(index=cell["index"], sigma=cell["sigma"], samples=samples, seed=seed)
    if experiment == tables.STARTS:
        samples, cap = settings.samples // 5, 100 * scalar.CAP
        return scalar.starts(sigma=cell["sigma"], samples=samples, cap=cap, seed=seed)
    if experiment == tables.GREEDY:
        n, steps = settings.greedy_n, settings.greedy_steps
        starts = range(cell["first"], cell["first"] + cell["count"])
        return greedy.greedy(n=n, steps=steps, instances=starts, seed=seed)
    if experiment == tables.GRID:
        steps = math.ceil(10 / grid.ALPHA)
        return grid.follow(cell["way"], n=settings.small_n, steps=steps, instances=few, seed=seed)
    if experiment == tables.REACH:
        return grid.reach(
            cell["method"], cell["lr"], n=settings.small_n, instances=few[:3], seed=seed
        )
    case = cell["family"], cell["profile"], cell["sigma"]
    n, steps = settings.error_n, settings.error_steps
    return errors.errors(*case, n=n, steps=steps, instances=few, seed=seed)


@says_its_scale
def measure(settings: QuadraticSettings, cell: Record) -> Record:
    """Carry out one cell, and say how many seconds of a processor that took."""
    start = time.process_time()
    return {**_carry_out(settings, cell), "seconds": round(time.process_time() - start, 3)}


def _decades(schedule: str, momentum: float, *found: Claim) -> Part[QuadraticSettings]:
    table = tables.decades(schedule, momentum)
    return Part(
        cells=_sweep(schedule, momentum), table=table, picture=pictures.draw_decades, claims=found
    )


def _curves(schedule: str, momentum: float, kind: str) -> Part[QuadraticSettings]:
    table = tables.curves(schedule, momentum, kind)
    return Part(cells=_sweep(schedule, momentum), table=table, picture=pictures.draw_curves)


def _everything(settings: QuadraticSettings) -> list[Cell]:
    return [
        cell for name, part in PARTS.items() if name != "times" for cell in part.cells(settings)
    ]


PARTS: dict[str, Part[QuadraticSettings]] = {
    "figure-1": Part(cells=_spectra, table=tables.spectra, picture=pictures.draw_spectra),
    "figure-2": _decades("constant", 0.0, *claims.DECADES_CLAIMS),
    "figure-3": _curves("constant", 0.0, "mean"),
    "figure-4": Part(
        cells=_hitting, table=tables.hitting, picture=pictures.draw_hitting, claims=claims.HITS
    ),
    "figure-5": Part(
        cells=_greedy, table=tables.gaps, picture=pictures.draw_gaps, claims=claims.GREEDY_CLAIMS
    ),
    "figure-6": Part(
        cells=_grid, table=tables.grid, picture=pictures.draw_grid, claims=claims.GRID_CLAIMS
    ),
    "figure-7": _decades("constant", MOMENTUM),
    "figure-8": _decades("vanishing", 0.0),
    "figure-9": _decades("vanishing", MOMENTUM),
    "figure-10": _curves("constant", 0.0, "single"),
    "figure-11": _curves("constant", MOMENTUM, "single"),
    "figure-12": _curves("vanishing", 0.0, "single"),
    "figure-13": _curves("vanishing", MOMENTUM, "single"),
    "figure-14": _curves("constant", 0.0, "median"),
    "figure-15": _curves("vanishing", 0.0, "median"),
    "figure-16": Part(
        cells=_greedy,
        table=tables.choices,
        picture=pictures.draw_choices,
        claims=claims.POLAR_CLAIMS,
    ),
    "table-1": Part(
        cells=_sweep("constant", 0.0), table=tables.wins("constant"), claims=claims.WIN_CLAIMS
    ),
    "table-2": Part(cells=_sweep("vanishing", 0.0), table=tables.wins("vanishing")),
    "reach": Part(
        cells=_reach, table=tables.reach, picture=pictures.draw_reach, claims=claims.REACH_CLAIMS
    ),
    "errors": Part(
        cells=_errors,
        table=tables.errors,
        picture=pictures.draw_errors,
        claims=claims.ERROR_CLAIMS,
    ),
    "times": Part(cells=_everything, table=tables.times),
}

QUADRATICS = Reproduction(
    **sum_of(PARTS),
    parts=PARTS,
    name="quadratics",
    title=TITLES["quadratics"],
    full=QuadraticSettings(),
    quick=QuadraticSettings(
        steps=60,
        batch=6,
        instances=6,
        n=32,
        rates=(1e-2, 1e-1),
        varied=2,
        samples=4000,
        greedy_n=24,
        greedy_steps=20,
        small_n=16,
        finest=1e-2,
        error_n=8,
        error_steps=20,
        repeats=3,
    ),
    measure=measure,
    unit="initialisations at a time",
    scale="paper",
    parallel=True,
    shown=("figure-2", "figure-3", "figure-4", "figure-5", "figure-6", "reach", "errors"),
)
