"""spectral-constraint: the quadratic, what is seen of the networks, and what is concluded."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from steepest import maps
from steepest.apps._figures import png
from steepest.apps.reproduce.framework.claims import UNDECIDED
from steepest.apps.reproduce.spectral_constraint import networks as nets
from steepest.apps.reproduce.spectral_constraint import toy as toy
from steepest.apps.reproduce.spectral_constraint.claims import slope
from steepest.apps.reproduce.spectral_constraint.experiment import (
    SPECTRAL_CONSTRAINT,
    ConstraintSettings,
    cells,
    measure,
)
from steepest.apps.reproduce.spectral_constraint.tables import (
    APPROACH,
    ENDS,
    NETWORK,
    SMALL,
    TOY,
    approaches,
    networks,
    small_steps,
    spectra,
    toys,
    trained,
)
from tests.apps.reproduce.toy import at_scale

TINY = ConstraintSettings(
    seeds=(0,),
    steps=6,
    batch=8,
    windows=2,
    layers=1,
    width=8,
    context=16,
    rates=(0.1,),
    every=3,
    toy_steps=20,
    small_steps=20,
    far_steps=20,
)


@pytest.fixture
def quadratic() -> toy.Quadratic:
    return toy.Quadratic.of(0, 0.1, 0.4)


@pytest.mark.slow
def test_outside_the_run_ends_on_the_sphere_as_a_kkt_point() -> None:
    *_, last = toy.constrained("outside", seed=0, steps=2000, every=400)["rows"]
    assert abs(last["norm"] - toy.RADIUS) <= 1e-6
    assert abs(last["relative"]) < 1e-8


@pytest.mark.slow
def test_inside_the_optimum_is_reached() -> None:
    rows = toy.constrained("inside", seed=0, steps=1000, every=10)["rows"]
    assert rows[-1]["gap"] <= 3
    assert rows[-1]["norm"] == pytest.approx(0.8 * toy.RADIUS, abs=3 * toy.rate(1000))
    assert slope(rows) <= -0.5


def test_the_quadratic_is_what_it_says(quadratic: toy.Quadratic) -> None:
    x = torch.randn(20, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x.requires_grad_()
    d = x - quadratic.optimum
    loss = 0.5 * (d * (quadratic.a @ d)).sum()
    (grad,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(quadratic.grad(x.detach()), grad, rtol=1e-12, atol=1e-12)
    assert quadratic.value(x.detach()) == pytest.approx(loss.item(), rel=1e-12)
    sigma = torch.linalg.svdvals(quadratic.optimum)
    assert sigma[[0, -1]].tolist() == pytest.approx([0.4, 0.1])
    curvature = torch.linalg.eigvalsh(quadratic.a)
    assert curvature[[0, -1]].tolist() == pytest.approx([1, toy.CONDITION])


def smooth(x: Tensor) -> Tensor:
    """Σ√(σ² + δ²)."""
    return (torch.linalg.svdvals(x).square() + toy.DELTA**2).sqrt().sum()


def conjugate(y: Tensor) -> Tensor:
    """−δΣ√(1 − y²)."""
    return -toy.DELTA * (1 - torch.linalg.svdvals(y).square()).clamp(min=0).sqrt().sum()


def test_score_and_lyapunov_function_against_their_definitions(quadratic: toy.Quadratic) -> None:
    """With m the average of the negative gradients, as the flow has it."""
    gamma, eta, decay = 2.0, 1e-2, toy.DECAY
    beta = 1 - eta * gamma
    run = toy.LionKRun(
        quadratic,
        0.1 * quadratic.optimum.flip(0),
        K=maps.SmoothNuclear(toy.DELTA),
        lr=eta,
        momentum=beta,
    )
    x, m = run.x.clone(), torch.zeros_like(run.x)
    for _ in range(30):
        grad = quadratic.grad(x)
        gap = smooth(-grad) + conjugate(decay * x) + (decay * x * grad).sum()
        assert run.score()[0] == pytest.approx(gap.item(), rel=1e-9)
        assert run.score()[1] == pytest.approx(torch.linalg.svdvals(grad).sum().item())
        h = gamma * quadratic.value(x) + (gamma / decay + 1) * conjugate(decay * x)
        h = h + smooth(m) - (m * decay * x).sum()
        assert run.lyapunov(gamma) == pytest.approx(h.item() / gamma, rel=1e-9)
        run.step()
        m = m + eta * (-gamma * grad - gamma * m)
        u, s, vt = torch.linalg.svd(m, full_matrices=False)
        x = x + eta * ((u * (s / (s**2 + toy.DELTA**2).sqrt())) @ vt - decay * x)
        torch.testing.assert_close(run.x, x, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_the_lyapunov_function_never_rises_though_the_loss_does() -> None:
    found = toy.small_steps(seed=0, steps=900, lr=5e-3, every=100)
    assert found["rise"] <= 1e-12
    assert found["loss_rises"] > 0


@pytest.mark.parametrize("name", toy.MAPS)
@pytest.mark.parametrize("decay", ["explicit", "implicit", "cautious"])
def test_only_cautious_decay_leaves_the_bound(name: str, decay: str) -> None:
    lr, steps = 0.02, 40
    found = toy.approach(name, decay, seed=0, steps=steps, lr=lr, every=1)
    way = [r["distance"] for r in found["rows"]]
    factor = 1 / (1 + lr * toy.DECAY) if decay == "implicit" else 1 - lr * toy.DECAY
    assert way[0] == pytest.approx(toy.FAR - 1)
    excess = max(b - factor * a for a, b in pairwise(way))
    assert found["excess"] == pytest.approx(excess, abs=1e-12)
    assert found["rows"][-1]["bound"] == pytest.approx(way[0] * factor**steps)
    assert (excess <= 1e-9) == (decay != "cautious")
    assert (way[-1] > factor**steps * way[0] + 1e-9) == (decay == "cautious")


@pytest.mark.parametrize("network", ["images", "text"])
def test_a_training_depends_on_nothing_but_its_key(network: str) -> None:
    key = {"network": network, "map": "Nuclear", "decay": "explicit", "rate": 0.1, "seed": 0}
    first = nets.measure(TINY, key)
    torch.manual_seed(99)
    assert nets.measure(TINY, key) == first
    assert nets.measure(TINY, {**key, "seed": 1}) != first
    assert [r["step"] for r in first["rows"]] == [0, 3, 6]
    assert first["radius"] == 1 / nets.DECAYS["Nuclear"]
    assert first["rows"][-1]["largest"] == pytest.approx(max(first["sigma"]["end"]), abs=1e-4)
    assert first["rows"][-1]["largest"] < first["rows"][0]["largest"]
    assert first["excess"] <= 1e-6
    free = nets.measure(TINY, {**key, "decay": "none"})
    assert free["rows"][0] == first["rows"][0]
    assert free["rows"][-1]["largest"] > first["rows"][-1]["largest"]


NAIVE = {
    "Nuclear": lambda w: torch.linalg.matrix_norm(w, ord=2),
    "L1": lambda w: w.abs().max(),
    "Frobenius": torch.linalg.matrix_norm,
    "GroupRows": lambda w: w.norm(dim=1).max(),
    "Schatten-4": lambda w: torch.linalg.svdvals(w).pow(4 / 3).sum() ** 0.75,
    "SmoothNuclear": lambda w: torch.linalg.matrix_norm(w, ord=2),
    "Nuclear, Jordan": lambda w: torch.linalg.matrix_norm(w, ord=2),
}


@pytest.mark.parametrize("name", nets.MAPS)
def test_what_is_looked_at_is_the_norm_of_every_hidden_matrix(name: str) -> None:
    model = nets.images(0)
    radius = 1 / nets.DECAYS[name]
    watched = nets.ConstraintRecorder(
        model, nets.MAPS[name], radius=radius, rate=0.1, decays=True, every=1
    )
    *hidden, _ = [p.detach().flatten(1) for p in model.parameters()]
    ratios = [float(NAIVE[name](w)) / radius for w in hidden]
    (row,) = watched.rows
    assert (row["largest"], row["smallest"]) == pytest.approx((max(ratios), min(ratios)), rel=1e-5)
    upper = nets.MAPS[name].gradient_bound(8, 9, torch.float32)
    assert row["allowed"] == pytest.approx(max(ratios) / upper, rel=1e-5)
    assert (upper > 1.1) == (name == "Nuclear, Jordan")


def test_a_matrix_that_is_too_far_outside_is_noticed() -> None:
    model = nets.images(0)
    watched = nets.ConstraintRecorder(
        model, nets.MAPS["Frobenius"], radius=0.5, rate=0.1, decays=True, every=1
    )
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    watched.optimizer.step()
    assert watched.excess <= 1e-6
    with torch.no_grad():
        next(model.parameters()).mul_(1.2)
    watched.optimizer.step()
    assert watched.excess > 0.1


def results(**change: Any) -> list[dict[str, Any]]:
    """Made-up results that agree with every claim but for what is changed."""
    v: Mapping[str, Any] = {
        "norm": 0.5,
        "score": 1e-9,
        "partly": 1e-9,
        "gap": 1.0,
        "power": -1.0,
        "rise": 0.0,
        "loss_rises": 200,
        "excess": 0.0,
        "distance": 0.0,
        "cautious": 1.0,
        "allowed": 0.9,
        "over": 0.0,
        "free": 2.0,
        "end": 1.1,
        "loss": 1.0,
        "bare": 2.0,
        **change,
    }
    found: list[dict[str, Any]] = []
    for case in toy.OPTIMA:
        relative = v["partly"] if case == "partly outside" else v["score"]
        row = {"norm": v["norm"], "relative": relative, "gap": v["gap"], "loss": 1.0}
        rows = [
            {"t": t, **row, "score": 1.0, "lyapunov": 1.0, "best": (t + 1e-9) ** v["power"]}
            for t in range(0, 101, 10)
        ]
        found.append({"experiment": TOY, "case": case, "seed": 0, "rows": rows})
    rows = [{"t": t, "loss": 3.0 - t, "lyapunov": 3.0 - t} for t in (0.0, 1.0)]
    small = {"rise": v["rise"], "loss_rises": v["loss_rises"], "rows": rows}
    found.append({"experiment": SMALL, "seed": 0, **small})
    for name in toy.MAPS:
        for decay in ("explicit", "implicit", "cautious"):
            end = v["cautious"] if decay == "cautious" else v["distance"]
            rows = [{"t": t, "distance": d, "bound": 1.0} for t, d in ((0, 3.0), (5, end))]
            place = {"experiment": APPROACH, "map": name, "decay": decay, "seed": 0}
            found.append({**place, "excess": v["excess"], "rows": rows})
    for network in ("images", "text"):
        for name in nets.MAPS:
            for decay, ratio, loss in (
                ("explicit", v["allowed"], v["loss"]),
                ("none", v["free"], v["bare"]),
            ):
                for rate, worse in ((0.06, 0.0), (0.12, 0.5)):
                    found.append(training(v, network, name, decay, rate, ratio, loss, worse))
    return found


def training(
    v: Mapping[str, Any],
    network: str,
    name: str,
    decay: str,
    rate: float,
    ratio: float,
    loss: float | None,
    worse: float,
) -> dict[str, Any]:
    """One made-up training."""
    end = v["end"] if name == "Nuclear, Jordan" else ratio
    first = {"step": 0, "largest": 2.0, "smallest": 1.0, "allowed": 2.0, "outside": 1.0}
    last = {"step": 5, "largest": end, "smallest": 0.5, "allowed": ratio, "outside": 0.5}
    return {
        "experiment": NETWORK,
        "network": network,
        "map": name,
        "decay": decay,
        "rate": rate,
        "seed": 0,
        "radius": 0.5,
        "initial": 3.0,
        "accuracy": None,
        "loss": None if loss is None else loss + worse,
        "excess": v["over"],
        "rows": [first, last],
        "sigma": {"start": [2.0, 1.0], "end": [end, 0.5]},
    }


BROKEN: Mapping[str, Mapping[str, Any]] = {
    "norm": {"norm": 0.5 + 2e-6},
    "kkt": {"score": 2e-8},
    "kkt-partly": {"partly": 2e-8},
    "inside": {"gap": 3.1},
    "rate": {"power": -0.44},
    "lyapunov": {"rise": 2e-12},
    "loss-rises": {"loss_rises": 99},
    "contracts-explicit": {"excess": 2e-9},
    "contracts-implicit": {"excess": 2e-9},
    "arrives": {"distance": 2e-6},
    "cautious": {"cautious": 0.0},
    "ball-images": {"allowed": 1.02},
    "ball-text": {"allowed": 1.02},
    "follows": {"over": 2e-5},
    "free": {"free": 1.0},
    "inexact": {"end": 1.0},
    "learns-images": {"loss": 3.0},
    "learns-text": {"loss": 3.0},
    "helps-images": {"bare": 1.0},
    "helps-text": {"bare": 1.0},
}


def verdicts(found: list[dict[str, Any]]) -> dict[str, str]:
    """Of results of the size that the documentation has."""
    large = at_scale(found, SPECTRAL_CONSTRAINT.full)
    return {claim.id: str(claim.judge(large)["verdict"]) for claim in SPECTRAL_CONSTRAINT.claims}


def test_every_claim_can_agree() -> None:
    assert set(verdicts(results()).values()) == {"agrees"}
    assert set(BROKEN) == {claim.id for claim in SPECTRAL_CONSTRAINT.claims}


@pytest.mark.slow
@pytest.mark.parametrize("claim", BROKEN)
def test_every_claim_can_differ(claim: str) -> None:
    assert verdicts(results(**BROKEN[claim]))[claim] == "differs"


def test_a_divergence_decides_nothing_about_the_loss() -> None:
    found = verdicts(results(loss=None))
    undecided = {name for name, verdict in found.items() if verdict == UNDECIDED}
    names = ("ball", "learns", "helps")
    assert undecided == {f"{a}-{b}" for a in names for b in ("images", "text")}


def test_tables_and_pictures() -> None:
    found = results()
    assert len(toys(found)) == 3 * 11
    assert len(small_steps(found)) == 2
    both = [*found, *({**r, "seed": 1} for r in results(distance=0.5))]
    ends = [r["distance"] for r in approaches(both) if (r["decay"], r["t"]) == ("explicit", 5)]
    assert ends == [0.5] * len(toy.MAPS)
    rows = trained(found)
    assert len(rows) == 2 * len(nets.MAPS) * 4
    assert {r["rate"] for r in rows if r["best"]} == {0.06}
    assert len(networks(found)) == 2 * len(nets.MAPS) * 2 * 2
    assert {r["when"] for r in spectra(found)} == {"start", *ENDS.values()}
    for name, draw in SPECTRAL_CONSTRAINT.pictures.items():
        table = SPECTRAL_CONSTRAINT.tables[name](found)
        figure = draw(table)
        assert all(axes.has_data() for axes in figure.axes)
    # All of them are drawn by the same functions, which take their time.
    assert png(draw(table)) == png(figure)


def test_every_kind_of_cell_is_measured() -> None:
    kinds = {c.key["experiment"]: c.key for c in cells(TINY)}
    assert set(kinds) == {TOY, SMALL, APPROACH, NETWORK}
    for key in kinds.values():
        assert measure(TINY, key)["rows"]
