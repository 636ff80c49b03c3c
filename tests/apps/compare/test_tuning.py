"""The grid: as many settings for every row, the row's own among them, and what follows the best."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from steepest._common.errors import invalid
from steepest.apps.compare.settings import SIZES, CompareSettings
from steepest.apps.compare.tuning import (
    REFINEMENTS,
    SHRINK,
    best,
    decays,
    edges,
    grid,
    ladder,
    refined,
    takes_decay,
)
from steepest.apps.train.config import OptimizerConfig
from steepest.apps.train.optimizers import RECIPES, Recipe

STANDARD = SIZES["standard"]


def configs(*lrs: float, adamw_lr: float | None = None) -> list[OptimizerConfig]:
    return [OptimizerConfig(lr=lr, weight_decay=0.0, adamw_lr=adamw_lr) for lr in lrs]


@pytest.mark.parametrize("scale", SIZES)
@pytest.mark.parametrize("name", RECIPES)
def test_every_row_has_the_same_number_of_settings(name: str, scale: str) -> None:
    settings = SIZES[scale]
    tried = grid(settings, name)
    assert len(set(tried)) == len(tried) == settings.budget
    losses = dict.fromkeys(tried, 1.0)
    assert len(set(refined(losses)) - losses.keys()) == REFINEMENTS


@pytest.mark.parametrize("name", RECIPES)
def test_the_grid_holds_the_settings_of_the_row(name: str) -> None:
    tuned = RECIPES[name].tuned
    tried = grid(STANDARD, name)
    assert tuned in tried
    assert {c.norm for c in tried} == {tuned.norm}
    assert all(c.lr * c.weight_decay <= 1 for c in tried)
    # All rows reach as far down as up.
    lrs = [c.lr for c in tried]
    assert max(lrs) / tuned.lr == pytest.approx(tuned.lr / min(lrs), rel=1e-3)
    assert max(lrs) == pytest.approx(tuned.lr * (4 if tuned.adamw_lr is None else 2))


def test_a_row_without_an_adamw_rate_has_more_learning_rates() -> None:
    assert len({c.lr for c in grid(STANDARD, "muon")}) == 3
    assert len({c.adamw_lr for c in grid(STANDARD, "muon")}) == 3
    assert len({c.lr for c in grid(STANDARD, "adamw")}) == 9


def test_factors_lie_evenly_around_one() -> None:
    assert ladder(1) == (1.0,)
    assert ladder(2) == pytest.approx((2**-0.5, 2**0.5))
    for points in (3, 6, 9, 18):
        factors = ladder(points)
        ratios = {round(b / a, 9) for a, b in pairwise(factors)}
        assert len(ratios) == 1
        assert factors[0] * factors[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("name", RECIPES)
def test_decays_are_the_rows_own_and_a_common_one(name: str) -> None:
    tuned = RECIPES[name].tuned
    own, other = decays(STANDARD, name)
    assert own == tuned.weight_decay != other
    shrinks = sorted((own * tuned.lr, other * tuned.lr))
    # One of the two is the common one, up to a factor of 2, and the other smaller.
    assert shrinks[0] < SHRINK / 2 <= shrinks[1] <= SHRINK * 2
    assert decays(replace(STANDARD, decays=1), name) == (own,)


def test_a_row_that_refuses_decay_spends_its_runs_on_learning_rates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(model: nn.Module, settings: OptimizerConfig) -> Optimizer:
        if settings.weight_decay:
            raise invalid("weight_decay", settings.weight_decay, "this has none")
        return torch.optim.SGD(model.parameters(), lr=settings.lr)

    row = Recipe(tuned=OptimizerConfig(lr=0.1, weight_decay=0.0, adamw_lr=1e-3), build=build)
    monkeypatch.setitem(RECIPES, "without-decay", row)  # type: ignore[misc]
    assert takes_decay("muon") and not takes_decay("without-decay")
    tried = grid(STANDARD, "without-decay")
    assert len(set(tried)) == STANDARD.budget
    assert {c.weight_decay for c in tried} == {0.0}
    assert len({c.lr for c in tried}) == 6


def test_the_best_is_the_lowest_and_none_is_the_highest() -> None:
    a, b, c = configs(0.1, 0.2, 0.4)
    assert best({a: 2.0, b: 1.0, c: None}) == b
    assert best({a: None, b: 9.0, c: None}) == b
    assert best({a: None, b: None}) == a


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((1.0, 2.0, 3.0), (0.05, 0.025, 0.0125, 0.00625)),
        ((3.0, 2.0, 1.0), (0.8, 1.6, 3.2, 6.4)),
        ((None, 2.0, 1.0), (0.8, 1.6, 3.2, 6.4)),
        ((2.0, 1.0, 2.0), (0.1587, 0.126, 0.252, 0.3175)),
    ],
)
def test_more_learning_rates_lie_beyond_an_edge_or_around_the_best(
    losses: tuple[float | None, ...], expected: tuple[float, ...]
) -> None:
    found = refined(dict(zip(configs(0.1, 0.2, 0.4), losses, strict=True)))
    assert [c.lr for c in found] == pytest.approx(expected, rel=1e-3)


def test_both_learning_rates_are_refined_one_at_a_time() -> None:
    tried = [c for rate in (1e-3, 2e-3, 4e-3) for c in configs(0.1, 0.2, 0.4, adamw_lr=rate)]
    best_one = configs(0.2, adamw_lr=4e-3)[0]
    found = refined({c: 1.0 if c == best_one else 2.0 for c in tried})
    assert [(c.lr, c.adamw_lr) for c in found] == [
        (0.1414, 4e-3),
        (0.2828, 4e-3),
        (0.2, 8e-3),
        (0.2, 1.6e-2),
    ]


def test_an_edge_is_named() -> None:
    a, b, c = configs(0.1, 0.2, 0.4)
    assert edges({a: 1.0, b: 2.0, c: 3.0}) == "smallest lr"
    assert edges({a: 3.0, b: 2.0, c: 1.0}) == "largest lr"
    assert edges({a: 2.0, b: 1.0, c: 3.0}) == ""
    tried = [c for rate in (1e-3, 2e-3) for c in configs(0.1, 0.2, adamw_lr=rate)]
    assert edges(dict(zip(tried, (4.0, 3.0, 2.0, 1.0), strict=True))) == (
        "largest lr, largest AdamW lr"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": (3,)}, "seed=3: give two or more"),
        ({"seeds": (0, 2**31)}, "tuning has those from 2^31"),
        ({"seeds": (1, 1)}, "each once"),
        ({"decays": 3}, "decays=3: give 1 or 2"),
        ({"steps": 0}, "steps=0"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is looked at below
        CompareSettings(**changes)  # type: ignore[arg-type]
    assert words in str(caught.value)
