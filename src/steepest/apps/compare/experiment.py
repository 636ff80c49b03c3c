"""The comparison as an experiment: its cells, its tables and its picture."""

from __future__ import annotations

from steepest.apps.compare.picture import draw
from steepest.apps.compare.results import comparison, curves, finals, timing, tuning
from steepest.apps.compare.settings import CompareSettings
from steepest.apps.compare.stages import expected, first_cells, later_cells, measure
from steepest.apps.reproduce.framework.experiment import Experiment, FollowUp

COMPARISON: Experiment[CompareSettings] = Experiment(
    name="compare",
    title="Every optimizer, tuned with one budget",
    cells=first_cells,
    follow_up=FollowUp(cells=later_cells, expected=expected),
    measure=measure,
    tables={
        "comparison": comparison,
        "finals": finals,
        "curves": curves,
        "tuning": tuning,
        "timing": timing,
    },
    pictures={"comparison": draw},
    parallel=True,
)
