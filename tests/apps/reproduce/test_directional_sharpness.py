"""directional-sharpness: what a look measures, the correlations, and what is concluded."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from steepest.apps.reproduce.data.digits import CLASSES, PIXELS
from steepest.apps.reproduce.directional_sharpness.claims import CLAIMS, NETWORKS
from steepest.apps.reproduce.directional_sharpness.experiment import (
    DIRECTIONAL_SHARPNESS,
    OPTIMIZERS,
    cells,
)
from steepest.apps.reproduce.directional_sharpness.networks import (
    DirectionRecorder,
    SharpnessSettings,
    hidden,
    measure,
    reach,
)
from steepest.apps.reproduce.directional_sharpness.tables import (
    advantages,
    correlation,
    correlations,
    decreases,
    exponent,
    layers,
    ranks,
    sharpnesses,
    spearman,
)
from steepest.apps.reproduce.framework.claims import UNDECIDED as LEFT_OPEN
from steepest.apps.reproduce.framework.training import classifier
from steepest.diagnostics import spectrum
from tests.apps.reproduce.toy import at_scale
from tests.matrices import naive_polar

TINY = SharpnessSettings(
    seeds=(0,),
    steps=2,
    batch=8,
    windows=2,
    layers=1,
    width=8,
    looks=(0, 2),
    look_digits=16,
    look_windows=1,
)


def test_a_look_is_what_a_dense_hessian_gives() -> None:
    """Every direction, in one layer and in all of them; and the ranks, by their formulas."""
    torch.manual_seed(0)
    model = classifier(6, 4, seed=0).double()
    x = torch.randn(30, PIXELS, dtype=torch.float64)
    y = torch.randint(CLASSES, (30,))

    def loss() -> Tensor:
        return torch.nn.functional.cross_entropy(model(x), y)

    watch = DirectionRecorder(model, loss, torch.optim.SGD(model.parameters(), lr=0.1))
    assert watch.look(3)
    weights = {name: layer.weight for name, layer in hidden(model).items()}
    assert list(weights) == ["layer1", "layer2", "layer3", "layer4"]
    grads = dict(zip(weights, torch.autograd.grad(loss(), list(weights.values())), strict=True))
    chosen = {
        "gradient": lambda g: -g,
        "sign": lambda g: -g.sign(),
        "muon": lambda g: -naive_polar(g),
    }
    rows = {(r["direction"], r["layer"]): r for r in watch.rows}
    assert {direction for direction, _ in rows} == {*chosen, "newton-schulz"}
    for direction, make in chosen.items():
        for layer in ("layer2", ""):
            moved = [layer] if layer else list(weights)
            d = [make(grads[k]) for k in moved]
            slopes = torch.autograd.grad(loss(), [weights[k] for k in moved], create_graph=True)
            along = sum((s * v).sum() for s, v in zip(slopes, d, strict=True))
            products = torch.autograd.grad(along, [weights[k] for k in moved])
            curve = sum(float((h * v).sum()) for h, v in zip(products, d, strict=True))
            slope = float(along.detach())
            found = rows[direction, layer]
            assert found["correlation"] == pytest.approx(slope, rel=1e-9)
            assert found["sharpness"] == pytest.approx(curve, rel=1e-9)
            assert found["decrease"] == pytest.approx(slope**2 / (2 * curve), rel=1e-9)
    (rank,) = [r for r in watch.ranks if r["layer"] == "layer2"]
    sigma = torch.linalg.svdvals(grads["layer2"])
    assert rank["nuclear"] == pytest.approx(float(sigma.sum() ** 2 / sigma.square().sum()))
    p = sigma / sigma.sum()
    assert rank["effective"] == pytest.approx(float(torch.exp(-(p * p.log()).sum())))
    inputs = torch.relu(model.layer1(x)).detach()
    assert rank["input"] == pytest.approx(reach(spectrum(inputs), 6))
    assert watch.losses == [{"step": 3, "loss": pytest.approx(float(loss().detach()))}]


def test_the_reach_of_inputs_stops_at_the_outputs() -> None:
    x = torch.diag(torch.tensor([4.0, 2.0, 1.0])).repeat(2, 1)
    found = spectrum(x)
    assert reach(found, 3) == reach(found, 7) == pytest.approx((16 + 4 + 1) / 16)
    assert reach(found, 2) == pytest.approx((16 + 4) / 16)


def test_a_loss_that_is_not_finite_ends_the_looks() -> None:
    model = classifier(8, 4, seed=0)
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    batch = torch.ones(4, PIXELS)
    watch = DirectionRecorder(
        model, lambda: model(batch).sum(), torch.optim.SGD(model.parameters(), lr=0.1)
    )
    assert not watch.look(5)
    assert watch.found() == {"losses": [{"step": 5, "loss": None}], "rows": [], "ranks": []}


@pytest.fixture(scope="module")
def measured() -> list[dict[str, Any]]:
    """The results of every cell of a small version."""
    return [{**c.key, **measure(TINY, c.key)} for c in cells(TINY)]


@pytest.mark.parametrize("network", NETWORKS)
def test_a_training_depends_on_nothing_but_its_key(
    network: str, measured: list[dict[str, Any]]
) -> None:
    free, first, _ = [r for r in measured if r["network"] == network]
    key = {"network": network, "optimizer": "adamw", "seed": 0}
    torch.manual_seed(99)
    assert {**key, **measure(TINY, key)} == first
    assert [look["step"] for look in first["losses"]] == [0, 2]
    assert first["losses"][-1]["loss"] < first["losses"][0]["loss"]
    adam = [r for r in first["rows"] if r["direction"] == "adam"]
    assert {r["step"] for r in adam} == {0, 2}
    assert {r["direction"] for r in free["rows"]} == {"gradient", "sign", "muon", "newton-schulz"}
    # The start is the same whatever trains, up to the direction that only AdamW has.
    assert [r for r in free["rows"] if r["step"] == 0] == [
        r for r in first["rows"] if r["step"] == 0 and r["direction"] != "adam"
    ]


@pytest.mark.parametrize("looks", [(), (4, 2), (0, 0), (-1, 2), (0, 5)])
def test_looks_out_of_order_are_refused(looks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="looks"):
        SharpnessSettings(steps=4, looks=looks)


def test_a_rank_correlation_against_its_definition() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.integers(5, size=40).astype(float), draw.normal(size=40)

    def naive(v: np.ndarray) -> list[float]:
        return [np.mean([int(a < b) + int(a <= b) for a in v]) for b in v]

    assert spearman(x, y) == pytest.approx(np.corrcoef(naive(x), naive(y))[0, 1])
    assert spearman(x, np.exp(x)) == pytest.approx(1)
    assert math.isnan(spearman(x, np.ones(40)))
    assert ranks(np.array([2.0, 7.0, 2.0, 1.0])).tolist() == [2.5, 4, 2.5, 1]


def scattered(spread: float, slope: float = 1.0) -> list[dict[str, Any]]:
    """Points whose layers have offsets of their own, of this size, in both columns."""
    draw = np.random.default_rng(1)
    off = {layer: spread * draw.normal(size=2) for layer in "abcdef"}
    return [
        {
            "optimizer": optimizer,
            "seed": seed,
            "layer": layer,
            "step": step,
            "nuclear": math.exp(off[layer][0] + (x := draw.normal())),
            "advantage": math.exp(off[layer][1] + slope * x),
        }
        for optimizer in OPTIMIZERS
        for seed in range(4)
        for layer in off
        for step in (0, 1, 2)
    ]


def test_the_interval_is_that_of_six_layers_not_of_many_points() -> None:
    value, low, high = loose = correlation(scattered(10), "nuclear")
    assert low < value < high
    # Of as many independent points it would be about 4/√144.
    assert high - low > 0.8
    # What belongs to the layers is gone within them, and without it nothing is left to chance.
    assert correlation(scattered(10), "nuclear", within=True) == pytest.approx((1, 1, 1))
    assert correlation(scattered(0), "nuclear") == pytest.approx((1, 1, 1))
    assert correlation(scattered(0, -1), "nuclear") == pytest.approx((-1, -1, -1))
    assert exponent(scattered(0, -1.5), "nuclear") == pytest.approx(-1.5)
    assert math.isnan(correlation([], "nuclear")[0])
    assert math.isnan(exponent([], "nuclear"))
    # The start counts for nothing.
    later = [r for r in scattered(10) if r["step"] > 0]
    assert correlation(later, "nuclear") == loose


def results(**change: Any) -> list[dict[str, Any]]:
    """Made-up results that agree with every claim but for what is changed."""
    v: Mapping[str, Any] = {
        "flat": 0.1,
        "sign": 2.0,
        "growth": 1.1,
        "adam": 2.0,
        "muon": 3.0,
        "layer": 0.9,
        "power": 1.0,
        "within": 1.0,
        "turns": 1.0,
        "input": 4.0,
        "jordan": 1.1,
        "loss": 1.0,
        "seeds": (0, 1),
        "optimizers": OPTIMIZERS,
        **change,
    }
    return [
        training(v, network, optimizer, seed)
        for network in NETWORKS
        for optimizer in v["optimizers"]
        for seed in v["seeds"]
    ]


def row(name: str, decrease: float, curvature: float, **place: Any) -> dict[str, Any]:
    """A made-up row, of a direction of length 2; with a negative decrease it has no minimum."""
    sharpness = math.copysign(4 * curvature, decrease)
    return {
        **place,
        "direction": name,
        "correlation": -math.sqrt(2 * sharpness * decrease),
        "sharpness": sharpness,
        "norm": 2.0,
        "decrease": decrease if decrease > 0 else None,
    }


def look(v: Mapping[str, Any], gains: Mapping[str, float], **place: Any) -> list[dict[str, Any]]:
    """The made-up rows of a layer, in which the gradient has a best decrease of 1."""
    rows = [row(name, gain, v["flat"], **place) for name, gain in gains.items()]
    return [row("gradient", 1.0, 1.0, **place), *rows]


def training(v: Mapping[str, Any], network: str, optimizer: str, seed: int) -> dict[str, Any]:
    """One made-up training of five layers; nr(G)/st(A) is below 1 in two of them."""
    rows: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for i, step in enumerate((0, 1, 2, 4, 8)):
        gains = {"sign": v["sign"] * v["growth"] ** i, "muon": v["muon"]}
        if optimizer == "adamw":
            gains["adam"] = v["adam"]
        rows += look(v, gains, step=step, layer="")
        change, sign = 1 + 0.05 * i + 0.01 * seed, 1.0
        for layer, size in enumerate((1.0, 2.0, 16.0, 32.0, 64.0)):
            ahead = v["layer"] * (size / 4) ** v["power"] * change ** (sign * v["within"])
            gains = {"muon": ahead, "newton-schulz": ahead * v["jordan"]}
            place = {"step": step, "layer": f"blocks.{layer}.fc"}
            rows += look(v, gains, **place)
            rank = size * change
            found.append({**place, "nuclear": rank, "effective": rank, "input": v["input"]})
            sign *= v["turns"]
    return {
        "network": network,
        "optimizer": optimizer,
        "seed": seed,
        "losses": [{"step": 0, "loss": v["loss"]}],
        "rows": rows,
        "ranks": found,
    }


BROKEN: Mapping[str, Mapping[str, Any]] = {
    "flatter": {"flat": 2.0},
    "sign": {"sign": 0.5},
    "adam": {"adam": 0.9},
    "grows": {"growth": 1.0},
    "muon": {"muon": 0.9},
    "layers": {"layer": 0.1},
    "predicts": {"power": -1.0},
    "nuclear-rank": {"power": -1.0},
    "within": {"within": -1.0},
    "ratio": {"power": -1.0},
    "bound": {"layer": 1.1},
    "newton-schulz": {"jordan": 1.3},
}

UNDECIDED: Sequence[tuple[Mapping[str, Any], set[str]]] = (
    ({"loss": None}, set(BROKEN)),
    ({"optimizers": ("muon",)}, {"adam"}),
    ({"optimizers": ("adamw",), "seeds": (0,)}, {"nuclear-rank", "within", "ratio"}),
    ({"sign": -1.0}, {"grows"}),
    ({"input": 0.1}, {"predicts"}),
    ({"turns": -1.0}, {"within"}),
    ({"power": 0.0, "within": 0.0}, {"nuclear-rank", "within", "ratio"}),
    (
        {"layer": -1.0},
        {"predicts", "nuclear-rank", "within", "ratio", "bound", "newton-schulz"},
    ),
)


def verdicts(
    found: Sequence[dict[str, Any]], wanted: Collection[str] = BROKEN
) -> dict[str, set[str]]:
    """The verdicts of the claims of these names, which the name of a network may follow."""
    names: dict[str, set[str]] = {}
    found = at_scale(found, DIRECTIONAL_SHARPNESS.full)
    for claim in CLAIMS:
        name = claim.id.removesuffix("-text").removesuffix("-images")
        if name in wanted:
            names.setdefault(name, set()).add(str(claim.judge(found)["verdict"]))
    return names


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steepest.apps.reproduce.directional_sharpness.tables.DRAWS", 50)


def test_every_claim_can_agree() -> None:
    assert verdicts(results()) == {name: {"agrees"} for name in BROKEN}


def test_every_claim_can_differ() -> None:
    for name, change in BROKEN.items():
        assert verdicts(results(**change), [name]) == {name: {"differs"}}


def test_every_claim_can_be_undecided() -> None:
    for change, names in UNDECIDED:
        found = verdicts(results(**change))
        assert {k for k, v in found.items() if v == {LEFT_OPEN}} == names, change
    assert set().union(*(names for _, names in UNDECIDED)) == set(BROKEN)


def test_a_sharpness_below_zero_bounds_no_decrease() -> None:
    claim = next(c for c in CLAIMS if c.id == "muon-text")
    found = claim.judge(at_scale(results(muon=-1.0), DIRECTIONAL_SHARPNESS.full))
    assert found["verdict"] == "agrees"
    assert "no minimum" in found["measured"]


def test_tables_and_pictures() -> None:
    found = results()
    assert len(advantages(found)) == 2 * 3 * 2 * 5 * 5
    assert len(decreases(found)) == len(sharpnesses(found)) == 2 * 5 * (3 * 3 + 1)
    first = next(r for r in sharpnesses(found) if r["direction"] == "sign")
    assert first["curvature"] == pytest.approx(0.1)
    assert first["equal"] == pytest.approx(1 / (2 * 2.0))
    assert decreases(found)[0]["decrease"] == 1
    assert {r["decrease"] for r in decreases(results(muon=-1.0)) if r["direction"] == "muon"} == {
        None
    }
    (text, _) = layers(found)
    assert (text["layer"], text["ahead"], text["input"]) == ("fc", pytest.approx(0.6), 4.0)
    assert text["advantage"] == pytest.approx(
        median(r["advantage"] for r in advantages(found) if r["step"] > 0)
    )
    assert {r["low"] > 0 for r in correlations(found)} == {True}
    for name, draw in DIRECTIONAL_SHARPNESS.pictures.items():
        assert all(axes.has_data() for axes in draw(DIRECTIONAL_SHARPNESS.tables[name](found)).axes)


def test_tables_and_claims_are_made_of_what_is_measured(measured: list[dict[str, Any]]) -> None:
    assert len(measured) == len(NETWORKS) * len(OPTIMIZERS)
    assert all(make(measured) for make in DIRECTIONAL_SHARPNESS.tables.values())
    assert all(claim.judge(measured)["measured"] for claim in CLAIMS)
