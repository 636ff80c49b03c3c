"""depth-variance: the network, what is measured on it, and what is concluded."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from steepest import norms
from steepest.apps.reproduce.data.digits import load_digits
from steepest.apps.reproduce.depth_variance.experiment import (
    CLAIMS,
    DEPTH_VARIANCE,
    DepthSettings,
    chosen,
    depths,
    draw,
    layers,
    measure,
)
from steepest.apps.reproduce.depth_variance.network import Plain, probe, project, sort_pairs
from steepest.apps.reproduce.framework.claims import UNDECIDED
from tests.apps.reproduce.toy import at_scale

TINY = DepthSettings(seeds=(0,), steps=6, batch=32, depths=(2, 3), width=16)


def row(size: float, **more: float) -> dict[str, float]:
    return {"rms": size, "gain": 1.0, "largest_gain": 1.0, "norm": 1.0, **more}


def result(name: str, depth: int = 2, *, sizes: tuple[float, ...] = (1, 1, 1), **more: Any) -> Any:
    """A made-up training whose hidden layers end with these RMS; the head comes on top."""
    return {
        "optimizer": name,
        "depth": depth,
        "lr": 0.5,
        "seed": 0,
        "loss": 1.0,
        "accuracy": 0.5,
        "moved": 0.1,
        "path": 0.2,
        "init": [row(1.0)] * (depth + 2),
        "trained": [*(row(s) for s in sizes), row(50.0)],
        **more,
    }


def verdict(claim: str, *results: Any) -> str:
    """Of results of the size that the documentation has."""
    (found,) = [c for c in CLAIMS if c.id == claim]
    return str(found.judge(at_scale(results, DEPTH_VARIANCE.full))["verdict"])


def test_sorting_pairs_permutes_the_entries_of_a_row() -> None:
    x = torch.randn(5, 8)
    y = sort_pairs(x)
    torch.testing.assert_close(y.sort().values, x.sort().values)
    assert bool((y[:, :4] >= y[:, 4:]).all())
    assert not torch.equal(x, y)


def test_the_hidden_layers_start_as_isometries() -> None:
    rows = probe(Plain(depth=5, width=16, seed=0), load_digits().held_images)
    assert len(rows) == 7
    for hidden in rows[1:-1]:
        for key in ("gain", "largest_gain", "norm"):
            assert hidden[key] == pytest.approx(1, abs=1e-5)
        assert hidden["rms"] == pytest.approx(rows[0]["rms"], rel=1e-5)


def test_a_probe_is_what_the_forward_pass_does() -> None:
    model, x = Plain(depth=2, width=16, seed=0), torch.randn(50, 784)
    with torch.no_grad():
        for scale, weight in zip((1.0, 2.0, 0.5, 3.0), model.parameters(), strict=True):
            weight.mul_(scale)
        rows, logits = probe(model, x), model(x)
    assert rows[-1]["rms"] == pytest.approx(logits.square().mean().sqrt().item())
    w = model.enter.weight.detach()
    y = x @ w.T
    assert rows[0]["norm"] == pytest.approx(math.sqrt(784 / 16) * torch.linalg.svdvals(w)[0].item())
    assert rows[0]["gain"] == pytest.approx(
        (y.square().mean().sqrt() / x.square().mean().sqrt()).item()
    )
    each = (y.norm(dim=1) / 4) / (x.norm(dim=1) / 28)
    assert rows[0]["largest_gain"] == pytest.approx(each.max().item())
    assert [r["gain"] for r in rows[1:3]] == pytest.approx([2.0, 0.5])


def test_projecting_clips_singular_values_and_nothing_else() -> None:
    model = Plain(depth=2, width=16, seed=0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape))
    before = [w.detach().clone() for w in model.parameters()]
    project(model)
    norm = norms.Operator("rms", "rms")
    for old, new in zip(before, model.parameters(), strict=True):
        assert norm(new.detach()).item() <= 1 + 1e-5
        out, into = old.shape
        u, s, v = torch.linalg.svd(old, full_matrices=False)
        naive = u @ torch.diag(s.clamp(max=math.sqrt(out / into))) @ v
        assert torch.linalg.matrix_norm(naive - new.detach(), 2).item() < 1e-4


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon", "muon-ball"])
def test_a_training_keeps_the_inequalities(name: str) -> None:
    key = {"optimizer": name, "depth": 3, "lr": 0.05 if "muon" in name else 1e-3, "seed": 0}
    r = measure(TINY, key)
    assert r == measure(TINY, key)
    assert [len(r[stage]) for stage in ("init", "trained")] == [5, 5]
    assert r["init"] != r["trained"]
    assert r["moved"] > 0
    assert r["path"] == pytest.approx(sum(key["lr"] * (1 - t / 6) for t in range(6)))
    full = {**key, **r}
    assert verdict("bound", full) == verdict("isometry", full) == "agrees"
    if name == "muon":
        assert verdict("path", full) == "agrees"
        assert r["moved"] > 0.2 * r["path"]
    if name == "muon-ball":
        assert verdict("ball", full) == "agrees"


def test_a_training_that_diverges_is_none() -> None:
    r = measure(TINY, {"optimizer": "sgd", "depth": 2, "lr": 1e30, "seed": 0})
    assert (r["loss"], r["moved"], r["trained"]) == (None, None, [])
    full = {"optimizer": "sgd", "depth": 2, "lr": 1e30, "seed": 0, **r}
    assert verdict("sgd-leaves", full) == UNDECIDED
    assert depths([full])[0]["norm"] is None
    assert {x["stage"] for x in layers([full])} == {"init"}


def test_the_learning_rate_with_the_lowest_mean_loss_counts() -> None:
    table = {0.1: (1.0, 3.0), 0.2: (1.5, 1.7), 0.4: (0.1, None)}
    results = [
        result("sgd", lr=lr, seed=s, loss=loss)
        for lr, losses in table.items()
        for s, loss in enumerate(losses)
    ]
    assert [(r["lr"], r["seed"]) for r in chosen(results)] == [(0.2, 0), (0.2, 1)]
    gone = [{**r, "loss": None, "trained": []} for r in results]
    assert {r["lr"] for r in chosen(gone)} == {0.1}


def test_every_check_can_fail() -> None:
    above = result("muon-ball", trained=[row(1.0, largest_gain=1.001)] * 4)
    assert verdict("bound", above) == "differs"
    assert verdict("ball", above) == "differs"
    assert verdict("ball", result("muon-ball", trained=[row(1.0, norm=1.001)] * 4)) == "differs"
    assert verdict("ball", result("muon-ball")) == "agrees"
    assert verdict("isometry", result("sgd", init=[row(1.0), row(1.001), row(1.0)])) == "differs"
    assert verdict("path", result("muon", moved=0.22)) == "differs"
    assert verdict("path", result("muon", moved=0.21)) == "agrees"
    assert verdict("path", result("muon", moved=None)) == UNDECIDED


@pytest.mark.parametrize(
    ("sizes", "inside"),
    [((1, 1.9, 1), True), ((4, 2.1, 4), True), ((1, 2.1, 1), False), ((1, 1, 0.4), False)],
)
def test_the_band_is_a_factor_of_2_around_the_first(sizes: tuple[float, ...], inside: bool) -> None:
    for name in ("sgd", "adamw", "muon"):
        expected = "differs" if inside else "agrees"
        assert verdict(f"{name}-leaves", result(name), result(name, 4, sizes=sizes)) == expected
    ball = result("muon-ball", sizes=sizes)
    assert verdict("ball-keeps", ball) == ("agrees" if inside else "differs")


def test_tables_and_picture_are_those_of_the_chosen_trainings() -> None:
    results = [result("sgd", sizes=(2, 4, 1)), result("sgd", lr=0.1, loss=0.5, sizes=(2, 3, 8))]
    (summary,) = depths(results)
    assert (summary["lr"], summary["smallest"], summary["largest"]) == (0.1, 1, 4)
    table = layers(results)
    assert [(x["stage"], x["layer"]) for x in table] == [
        (stage, i) for stage in ("init", "trained") for i in range(4)
    ]
    (line,) = draw(table).axes[0].lines
    assert list(line.get_xdata()) == [0, 0.5, 1]
    assert list(line.get_ydata()) == [1, 1.5, 4]


def test_more_seeds_are_drawn_as_their_mean() -> None:
    pair = [result("sgd", seed=s, sizes=(1, a, 1)) for s, a in ((0, 2.0), (1, 3.0))]
    (line,) = draw(layers(pair)).axes[0].lines
    assert list(line.get_ydata()) == [1, 2.5, 1]
