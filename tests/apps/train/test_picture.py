"""The picture shows every optimizer in both panels."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from numpy.typing import NDArray

from steepest.apps.train.picture import COLOURS, draw, limits
from steepest.apps.train.report import Curve, Report, SummaryRow

pytestmark = pytest.mark.usefixtures("drawn")

STEPS = tuple(range(0, 101, 5))


def curve(rate: float, *, spread: float = 0.0) -> Curve:
    losses = tuple(1.5 + 2.5 * np.exp(-rate * s) for s in STEPS)
    return Curve(
        steps=STEPS,
        seconds=tuple(0.1 * s for s in STEPS),
        losses=losses,
        low=tuple(v - spread for v in losses),
        high=tuple(v + spread for v in losses),
        finished=True,
    )


def row(name: str) -> SummaryRow:
    return SummaryRow(
        optimizer=name,
        steps=100,
        val_loss=1.5,
        seconds=10.0,
        step_ms=100.0,
        optimizer_ms=10.0,
        steps_to_baseline=None,
        seconds_to_baseline=None,
    )


def report(*, seeds: int = 1, spread: float = 0.0) -> Report:
    return Report(
        rows=(row("muon"), row("adamw")),
        runs=(),
        curves=(curve(0.1, spread=spread), curve(0.03, spread=spread)),
        baseline="adamw",
        seeds=seeds,
    )


def pixels(what: Report) -> NDArray[np.float64]:
    image = imread(io.BytesIO(draw(what)), format="png")
    return np.asarray(image, dtype=np.float64)[..., :3]


def amount(image: NDArray[np.float64], colour: str) -> int:
    return int((np.abs(image - to_rgb(colour)).max(axis=-1) < 0.02).sum())


def test_both_panels_show_every_optimizer() -> None:
    image = pixels(report())
    middle = image.shape[1] // 2
    for half in (image[:, :middle], image[:, middle:]):
        for name in ("muon", "adamw"):
            assert amount(half, COLOURS[name]) > 200


def test_only_the_untrained_model_may_be_above_the_panel() -> None:
    curves = report().curves
    low, high = limits(curves)
    assert all(low < v < high for c in curves for v in c.losses[1:])
    assert high < max(c.losses[0] for c in curves)


def test_several_seeds_have_a_band() -> None:
    def pink(what: Report) -> int:
        image = pixels(what)
        mixed = 0.2 * np.array(to_rgb(COLOURS["muon"])) + 0.8
        return int((np.abs(image - mixed).max(axis=-1) < 0.02).sum())

    assert pink(report(seeds=3, spread=0.2)) > 5000
    assert pink(report(seeds=1, spread=0.2)) < 500


@pytest.mark.parametrize("points", [1, 2])
def test_a_short_curve_can_be_drawn(points: int) -> None:
    short = tuple(
        replace(
            c,
            steps=c.steps[:points],
            seconds=c.seconds[:points],
            losses=c.losses[:points],
            low=c.low[:points],
            high=c.high[:points],
            finished=False,
        )
        for c in report().curves
    )
    assert pixels(replace(report(), curves=short)).std() > 0.05


def test_the_same_figures_give_the_same_picture() -> None:
    assert draw(report()) == draw(report())
