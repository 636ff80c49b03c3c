"""The tables and the picture, from made-up results whose numbers are known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from steepest.apps._figures import plot_style, png
from steepest.apps.compare.picture import draw, limit, window
from steepest.apps.compare.report import chance, markdown, ranked
from steepest.apps.compare.results import (
    MeanLosses,
    comparison,
    curves,
    finals,
    timing,
    tuning,
)
from steepest.apps.compare.stages import FINAL, GRID, TIME
from tests.apps.compare.fakes import Record

STEPS = (0, 10, 20, 30, 40)
# Final losses of three seeds; the curves before are the same for all seeds.
LOSSES: dict[str, tuple[float | None, ...]] = {
    "muon": (1.10, 1.20, 1.40),
    "adamw": (1.52, 1.63, 1.84),
    "scion": (1.00, 1.30, 1.10),
    "sgd": (2.00, None, 2.10),
}
SECONDS = {"muon": [2e-3, 2e-3, 8e-3], "adamw": [1e-3, 1e-3, 4e-3], "scion": [3e-3, 5e-3, 12e-3]}
SETTING = {"weight_decay": 0.0, "adamw_lr": None}


def results(losses: dict[str, tuple[float | None, ...]] = LOSSES) -> list[Record]:
    made: list[Record] = [{"task": "text", "stage": TIME, "seconds": SECONDS}]
    for name, found in losses.items():
        place = {"task": "text", "optimizer": name, **SETTING}
        for lr, loss in ((0.1, 2.0), (0.2, 1.5), (0.4, None)):
            for seed in (7, 8):
                tried = {**place, "stage": GRID, "lr": lr, "seed": seed}
                made.append({**tried, "loss": None if loss is None else loss + seed})
        for seed, loss in enumerate(found):
            line = [4.0, 3.0, 2.0, 1.6, loss]
            line = line if loss is not None else [4.0, None]
            run = {"loss": loss, "steps": list(STEPS[: len(line)]), "losses": line}
            made.append({**place, "stage": FINAL, "lr": 0.2, "seed": seed, **run})
    return made


@pytest.fixture
def rows() -> dict[str, Record]:
    return {r["optimizer"]: r for r in comparison(results())}


def test_means_have_intervals_and_differences_to_the_baseline(rows: dict[str, Record]) -> None:
    adamw = rows["adamw"]
    assert adamw["loss"] == pytest.approx((1.52 + 1.63 + 1.84) / 3)
    # Deviation 0.16258, times 4.3027/√3.
    assert adamw["half_width"] == pytest.approx(0.40387, abs=1e-4)
    # Differences 0.42, 0.43, 0.44: t = 0.43/(0.01/√3).
    assert adamw["difference"] == pytest.approx(0.43)
    t = 43 * math.sqrt(3)
    assert adamw["p"] == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-6)
    # Two rows have a p-value: the smaller one counts twice.
    assert adamw["p_holm"] == pytest.approx(2 * adamw["p"])
    assert rows["scion"]["p_holm"] == pytest.approx(rows["scion"]["p"])
    assert rows["scion"]["difference"] == pytest.approx(-0.1)


def test_the_baseline_is_held_against_nothing(rows: dict[str, Record]) -> None:
    muon = rows["muon"]
    assert [muon[k] for k in ("difference", "p", "p_holm")] == [None] * 3
    assert (muon["steps_to_baseline"], muon["time_ratio"], muon["steps"]) == (40.0, 1.0, 40)


def test_steps_are_interpolated_and_seconds_are_steps_times_the_median(
    rows: dict[str, Record],
) -> None:
    # The mean curve of scion is 4, 3, 2, 1.6, 1.1333; muon ends at 1.2333, adamw at 1.6633.
    scion = rows["scion"]
    assert scion["steps_to_baseline"] == pytest.approx(30 + 10 * (1.6 - 3.7 / 3) / (1.6 - 3.4 / 3))
    assert scion["steps_to_reference"] == pytest.approx(20 + 10 * (2 - 4.99 / 3) / 0.4)
    assert scion["step_ms"] == pytest.approx(5.0)
    assert scion["seconds_to_reference"] == pytest.approx(scion["steps_to_reference"] * 5e-3)
    assert rows["adamw"]["steps_to_baseline"] is rows["adamw"]["seconds_to_baseline"] is None


def test_times_are_medians_and_ratios_are_those_of_rounds() -> None:
    rows = {r["optimizer"]: r for r in timing(results())}
    assert [rows["scion"][k] for k in ("step_ms", "low_ms", "high_ms")] == pytest.approx(
        [5.0, 4.0, 8.5]
    )
    # Per round 1.5, 2.5 and 1.5, where the medians say 2.5.
    assert rows["scion"]["ratio"] == 1.5
    assert rows["adamw"]["ratio"] == 0.5


def test_a_row_that_diverged_has_no_numbers(rows: dict[str, Record]) -> None:
    sgd = rows["sgd"]
    for field in ("loss", "half_width", "difference", "p", "p_holm", "steps_to_baseline"):
        assert sgd[field] is None
    assert sgd["step_ms"] is sgd["time_ratio"] is sgd["seconds_to_reference"] is None


def test_where_the_baseline_diverged_nothing_is_held_against_it() -> None:
    found = comparison(results({**LOSSES, "muon": (1.0, None, 1.0)}))
    assert all(r["p"] is r["difference"] is r["steps_to_baseline"] is None for r in found)
    assert [r["steps_to_reference"] is not None for r in found] == [False, True, True, False]


def test_the_setting_of_a_row_is_the_best_of_what_was_tried(rows: dict[str, Record]) -> None:
    muon = rows["muon"]
    assert (muon["lr"], muon["tried"], muon["tuning_loss"], muon["edge"]) == (0.2, 3, 9.0, "")
    tried = [r for r in tuning(results()) if r["optimizer"] == "muon"]
    assert [(r["lr"], r["loss"], r["chosen"]) for r in tried] == [
        (0.1, 9.5, False),
        (0.2, 9.0, True),
        (0.4, None, False),
    ]


def test_tables_of_seeds_and_curves() -> None:
    assert [r["loss"] for r in finals(results())] == [v for own in LOSSES.values() for v in own]
    line = {r["step"]: r["loss"] for r in curves(results()) if r["optimizer"] == "muon"}
    assert line == pytest.approx({0: 4.0, 10: 3.0, 20: 2.0, 30: 1.6, 40: 3.7 / 3})
    assert len([r for r in curves(results()) if r["optimizer"] == "sgd"]) == 1


@pytest.mark.parametrize(
    ("target", "expected"),
    [(5.0, 0.0), (4.0, 0.0), (3.5, 5.0), (2.5, 18.75), (2.0, None), (None, None)],
)
def test_a_loss_is_reached_where_the_curve_crosses_it_first(
    target: float | None, expected: float | None
) -> None:
    line = MeanLosses(steps=(0, 10, 20, 30), losses=(4.0, 3.0, 2.4285714, 2.9))
    found = line.reaches(target)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-5))
    assert MeanLosses(steps=(), losses=()).reaches(1.0) is None


def test_the_markdown_has_a_line_for_each_row_the_best_first() -> None:
    lines = markdown(comparison(results())).splitlines()
    assert lines[0] == "## text: a character GPT on the King James Bible"
    assert lines[2] == "Runs of 40 steps; means of 3 seeds with their 95 % interval."
    table = [line for line in lines if line.startswith("| ")]
    names = [line.split(" | ")[0].removeprefix("| ") for line in table]
    order = ["optimizer", "---", "scion", "muon", "adamw", "sgd"]
    assert names == [*order, *order]
    assert len({line.count("|") for line in table[:6]}) == 1
    cells = dict(zip(table[0].split(" | "), table[4].split(" | "), strict=True))
    assert cells["val loss"] == "1.663 ± 0.404"
    assert (cells["− muon"], cells["p"], cells["p, Holm"]) == ("+0.430", "< 0.001", "< 0.001")
    assert (cells["steps to muon"], cells["steps to adamw"]) == ("not reached", "28")
    assert cells["seconds to adamw"] == "0.0284"
    assert "diverged" in table[5] and "| – |" in table[5]


def test_small_chances_are_not_zero() -> None:
    assert [chance(p) for p in (0.0, 0.00099, 0.0123, 0.123, 1.0)] == [
        *("< 0.001", "< 0.001", "0.012", "0.12", "1.00")
    ]


def drawn(rows: Sequence[Record]) -> list[str]:
    figure = draw(rows)
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_picture_shows_every_row_and_what_is_beyond_its_axis() -> None:
    rows = comparison(results())
    two = [*rows, *({**r, "task": "digits"} for r in rows)]
    with plot_style():
        figure = draw(two)
        assert len(figure.axes) == 4
        labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
        assert labels == ["scion", "muon", "adamw", "sgd"]
        assert png(figure).startswith(b"\x89PNG")
        far = [{**r, "loss": 9.0} if r["optimizer"] == "scion" else r for r in rows]
        assert drawn(far).count("9 →") == 1 and "diverged" in drawn(far)
        assert drawn(rows).count("not reached") == 2
        lost = [{**r, "loss": None, "steps_to_baseline": None} for r in rows]
        assert drawn(lost).count("diverged") == 4


def test_the_axis_of_losses_ends_behind_both_marks() -> None:
    rows = ranked(comparison(results()))
    losses = {r["optimizer"]: r["loss"] for r in rows}
    assert limit(rows) == losses["adamw"]
    far = [{**r, "loss": 9.0} if r["optimizer"] == "sgd" else r for r in rows]
    assert losses["adamw"] < limit(far) < 2.5
    assert limit([r for r in far if r["optimizer"] == "sgd"]) == 9.0


def test_the_axis_of_losses_has_room_for_intervals_up_to_the_range_of_the_losses() -> None:
    rows = [{"loss": 1.0, "half_width": 0.2}, {"loss": 2.0, "half_width": 0.1}]
    assert window(rows, 2.0) == pytest.approx((0.8, 2.1))
    rows[0]["half_width"] = 7.0
    assert window(rows, 2.0) == pytest.approx((0.0, 3.0))
    # Equal losses have no range: the narrower interval is shown whole.
    assert window([{"loss": 1.0, "half_width": 0.1}], 1.0) == pytest.approx((0.9, 1.1))
    low, top = window([], 1.0)
    assert low <= 1.0 <= top
