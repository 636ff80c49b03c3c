"""lr-transfer: the networks it trains, how it finds the best learning rate, what it concludes."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from steepest.apps._figures import png
from steepest.apps.reproduce.framework.claims import UNDECIDED
from steepest.apps.reproduce.lr_transfer.experiment import (
    CLAIMS,
    LR_TRANSFER,
    TransferSettings,
    best,
    cells,
    losses,
    measure,
    vertex,
)
from steepest.apps.reproduce.lr_transfer.methods import (
    BASELINES,
    HEAD_LR,
    METHODS,
    MUONS,
    network,
)
from steepest.apps.reproduce.lr_transfer.picture import draw, draw_muon
from tests.apps.reproduce.toy import at_scale

TINY = TransferSettings(seeds=(0,), steps=4, batch=16, widths=(8, 16), exponents={"sgd": (-4, -3)})


def curve(name: str, width: int, centre: float, low: int = -6, high: int = 0) -> list[Any]:
    """Results whose ln loss is a parabola in log2 lr around `centre`, two seeds."""
    return [
        {
            "optimizer": name,
            "width": width,
            "lr": 2.0**e,
            "seed": seed,
            "loss": math.exp(0.3 * (e - centre) ** 2 - 2),
            "accuracy": 0.5,
        }
        for seed in (0, 1)
        for e in range(low, high + 1)
    ]


def verdict(claim: str, results: list[Any]) -> str:
    """Of results of the size that the documentation has."""
    (found,) = [c for c in CLAIMS if c.id == claim]
    return str(found.judge(at_scale(results, LR_TRANSFER.full))["verdict"])


def test_the_vertex_is_that_of_the_interpolating_parabola() -> None:
    draw_ = np.random.default_rng(0)
    for _ in range(20):
        low = 2.0 ** draw_.integers(-10, 0)
        step = draw_.choice([2.0, math.sqrt(2)])
        lrs = [low, low * step, low * step**2]
        middle = draw_.uniform(0.1, 1)
        values = [middle * draw_.uniform(1, 3), middle, middle * draw_.uniform(1, 3)]
        a, b, _ = np.polyfit(np.log2(lrs), np.log(values), 2)
        assert vertex(lrs, values) == pytest.approx(2 ** (-b / (2 * a)))
        assert lrs[0] < vertex(lrs, values) < lrs[2]
    assert vertex([1.0, 2.0, 4.0], [1.0, 1.0, 1.0]) == 2.0


@pytest.mark.parametrize("centre", [-3.0, -2.6, -4.45])
def test_the_best_is_found_between_the_points(centre: float) -> None:
    (row,) = best(curve("sgd", 64, centre))
    assert row["lr"] == 2.0 ** round(centre)
    assert row["parabola"] == pytest.approx(2.0**centre)
    assert row["interior"]


def test_seeds_are_averaged_and_a_diverged_one_counts() -> None:
    results = curve("sgd", 64, -3)
    results[0]["loss"] = 4.0
    results[-1]["loss"] = None
    rows = losses(results)
    assert len(rows) == 7
    assert rows[0]["loss"] == pytest.approx((4.0 + results[7]["loss"]) / 2)
    assert (rows[0]["lowest"], rows[0]["highest"]) == tuple(sorted((4.0, results[7]["loss"])))
    assert rows[-1]["loss"] is None
    assert best(results)[0]["parabola"] == pytest.approx(2.0**-3)


def test_a_neighbour_that_diverged_leaves_the_point_of_the_grid() -> None:
    results = [{**r, "loss": None} if r["lr"] > 0.125 else r for r in curve("sgd", 64, -2.8)]
    (row,) = best(results)
    assert (row["lr"], row["parabola"], row["interior"]) == (0.125, None, True)


STAYS = {
    "modular": "modular-stays",
    "muon": "muon-stays",
    "muon-unclamped": "muon-unclamped-stays",
    "muon-transferred": "muon-transferred-stays",
}
MOVES = {"sgd": "sgd-moves", "adamw": "adamw-moves", "muon-matched": "muon-matched-moves"}


@pytest.mark.parametrize(
    ("shift", "stays", "moves"), [(0.9, "agrees", "differs"), (1.1, "differs", "agrees")]
)
def test_the_verdicts_turn_at_a_factor_of_2(shift: float, stays: str, moves: str) -> None:
    assert {*STAYS.values(), *MOVES.values()} == {claim.id for claim in CLAIMS}
    assert {**STAYS, **MOVES}.keys() == METHODS.keys()
    for claims, expected in ((STAYS, stays), (MOVES, moves)):
        for name, claim in claims.items():
            results = curve(name, 64, -3) + curve(name, 1024, -3 - shift)
            assert verdict(claim, results) == expected


def test_seeds_that_do_not_say_the_same_decide_nothing() -> None:
    """Their mean has one best rate, up to a factor of 2; one of them alone has two."""
    turned = [
        {**r, "loss": math.exp(0.3 * (math.log2(r["lr"]) + 3 + shift) ** 2 - 2)}
        for r in curve("sgd", 1024, -3)
        for shift in (1.2 if r["seed"] else -0.1,)
    ]
    assert verdict("sgd-moves", curve("sgd", 64, -3) + turned) == UNDECIDED


@pytest.mark.parametrize("centre", [-6.0, -8.0, 0.0, 3.0])
def test_a_best_at_the_edge_decides_nothing(centre: float) -> None:
    results = curve("modular", 64, -3) + curve("modular", 128, centre)
    (claim,) = [c for c in CLAIMS if c.id == "modular-stays"]
    row = claim.judge(at_scale(results, LR_TRANSFER.full))
    assert row["verdict"] == UNDECIDED
    assert "width 128" in row["measured"]


def test_a_width_that_always_diverges_decides_nothing() -> None:
    gone = [{**r, "loss": None} for r in curve("sgd", 128, -3)]
    assert verdict("sgd-moves", curve("sgd", 64, -3) + gone) == UNDECIDED


def test_the_weights_are_those_of_the_docstring() -> None:
    unit, he = network(METHODS["modular"], 64, 0), network(METHODS["sgd"], 512, 0)
    for weight in unit.parameters():
        values = torch.linalg.svdvals(weight.detach())
        out, into = weight.shape
        torch.testing.assert_close(values, torch.full_like(values, math.sqrt(out / into)))
    for weight in he.parameters():
        spread = weight.detach().square().mean().item()
        assert spread == pytest.approx(2 / weight.shape[1], rel=0.1)
    assert METHODS["adamw"].init is METHODS["sgd"].init
    for method in MUONS.values():
        *hidden, head = network(method, 64, 0).parameters()
        *same, _ = network(METHODS["adamw"], 64, 0).parameters()
        assert not head.any()
        assert all(torch.equal(a, b) for a, b in zip(hidden, same, strict=True))


@pytest.mark.parametrize(
    ("name", "convention", "matrices", "head"),
    [
        ("muon", "original", 1.0, 1 / 4),
        ("muon-unclamped", "spectral_unclamped", 1.0, 1 / 4),
        ("muon-matched", "match_rms_adamw", 1.0, 1.0),
        ("muon-transferred", "match_rms_adamw", 1 / 2, 1 / 4),
    ],
)
def test_the_rates_of_muon_are_those_of_its_row(
    name: str, convention: str, matrices: float, head: float
) -> None:
    model = network(METHODS[name], 256, 0)
    groups = METHODS[name].build(model, 0.5).param_groups
    rates = {p.shape: group["lr"] for group in groups for p in group["params"]}
    assert rates == {
        model.first.weight.shape: 0.5 * matrices,
        model.hidden.weight.shape: 0.5 * matrices,
        model.head.weight.shape: HEAD_LR * head,
    }
    assert [g["adjust_lr_fn"] for g in groups if not g["adamw"]] == [convention]
    assert all(group["weight_decay"] == 0 for group in groups)


def test_the_seed_is_the_only_difference_of_weights() -> None:
    a, b, c = (network(METHODS["sgd"], 16, s) for s in (0, 0, 1))
    pairs = [zip(a.parameters(), other.parameters(), strict=True) for other in (b, c)]
    assert [[torch.equal(*p) for p in pair] for pair in pairs] == [[True] * 3, [False] * 3]


def test_a_cell_depends_on_nothing_but_its_key() -> None:
    keys = [c.key for c in cells(TINY)]
    assert [(k["width"], k["lr"]) for k in keys] == [
        *((8, 2.0**-4), (8, 2.0**-3)),
        *((16, 2.0**-4), (16, 2.0**-3)),
    ]
    forth = [measure(TINY, k) for k in keys]
    torch.manual_seed(99)
    assert [measure(TINY, k) for k in reversed(keys)] == forth[::-1]
    assert all(a != b for a, b in pairwise(forth))


def test_the_loss_is_over_all_training_digits_and_falls() -> None:
    key = {"optimizer": "modular", "width": 32, "lr": 0.5, "seed": 0}
    short, long = (measure(replace(TINY, steps=n, batch=64), key) for n in (1, 20))
    assert long["loss"] < 0.7 < short["loss"]
    assert long["accuracy"] > 0.7


def test_a_training_that_diverges_is_none() -> None:
    key = {"optimizer": "sgd", "width": 8, "lr": 1e30, "seed": 0}
    found = measure(TINY, key)
    assert (found["loss"], found["accuracy"]) == (None, None)


def test_the_grid_is_the_same_for_every_width() -> None:
    for settings in (LR_TRANSFER.full, LR_TRANSFER.quick):
        grids = {}
        for c in cells(settings):
            grids.setdefault((c.key["optimizer"], c.key["width"]), set()).add(c.key["lr"])
        for name in settings.exponents:
            assert len({frozenset(grids[name, w]) for w in settings.widths}) == 1
            assert len(grids[name, settings.widths[0]]) >= 5


def test_the_picture_marks_the_best_and_leaves_out_what_diverged() -> None:
    results = curve("sgd", 64, -3) + curve("modular", 64, -2)
    results[-1]["loss"] = None
    figure = draw(losses(results))
    left, right = figure.axes
    assert [axes.get_title() for axes in figure.axes] == [
        METHODS[n].title for n in ("sgd", "modular")
    ]
    # Crosses where it diverged or ended above the picture, the curve, and its best point.
    assert [len(line.get_xdata()) for line in left.lines] == [0, 7, 1]
    assert [len(line.get_xdata()) for line in right.lines] == [2, 6, 1]
    assert list(left.lines[2].get_xdata()) == [0.125]
    assert png(figure) == png(draw(losses(results)))


def test_each_picture_has_its_optimizers() -> None:
    results = [r for name in METHODS for r in curve(name, 64, -3)]
    for picture, methods in (("loss", BASELINES), ("muon", MUONS)):
        table = LR_TRANSFER.tables[picture](results)
        figure = LR_TRANSFER.pictures[picture](table)
        assert [axes.get_title() for axes in figure.axes] == [m.title for m in methods.values()]
    assert draw_muon(table).axes[0].get_xlabel() == "peak lr at width 64"
    assert {row["optimizer"] for row in LR_TRANSFER.tables["best-lr"](results)} == set(METHODS)
