"""quadratics: problems, noise, grid and greed against their definitions; parts and processes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim import SGD

from steepest.apps._figures import png
from steepest.apps.reproduce.framework.claims import UNDECIDED
from steepest.apps.reproduce.framework.experiment import Cell
from steepest.apps.reproduce.framework.workers import workers
from steepest.apps.reproduce.quadratics import grid, pictures, scalar, tables
from steepest.apps.reproduce.quadratics.families import FAMILIES, HIGHEST, LOWEST, spectrum
from steepest.apps.reproduce.quadratics.figures import PARTS, QUADRATICS, measure
from steepest.apps.reproduce.quadratics.greedy import best_step, draw, greedy
from steepest.apps.reproduce.quadratics.methods import METHODS, MOMENTUM, muon, nuclear, vanishing
from steepest.apps.reproduce.quadratics.noise import Additive, NoisyPolar, PerSingularValue, Shaped
from steepest.apps.reproduce.quadratics.problem import Problem, descend, generator
from steepest.apps.reproduce.quadratics.sweep import kept, marks, sweep
from steepest.polar import JORDAN, Svd
from tests.apps.reproduce.toy import Invoke, Record, dies
from tests.refusals import assert_refused

CLAIMS = {claim.id: claim for claim in QUADRATICS.claims}


def verdict(name: str, results: list[Record]) -> str:
    """Of results of the size that the documentation has, unless they say another."""
    full = QUADRATICS.full.fixed()
    return str(CLAIMS[name].judge([{"scale": full, **r} for r in results])["verdict"])


def test_spectra_are_what_their_names_say() -> None:
    many = {name: spectrum(name, 2000, np.random.default_rng(0)) for name in FAMILIES}
    for values in many.values():
        assert (values[0], values[-1]) == (HIGHEST, LOWEST)
        assert (np.diff(values) <= 0).all()
    assert (many["max_spiked"][:-1] == HIGHEST).all()
    assert (many["min_spiked"][1:] == LOWEST).all()
    middle = (HIGHEST + LOWEST) / 2
    assert many["uniform"].mean() == pytest.approx(middle, rel=0.05)
    assert many["gaussian"].std() == pytest.approx((HIGHEST - LOWEST) / 6, rel=0.1)
    # The mean of 1 − √u is 1/3.
    assert many["linear_decay_to_max"].mean() == pytest.approx(HIGHEST / 3, rel=0.05)
    outer = {k: ((v < 1) | (v > 9)).mean() for k, v in many.items() if k.startswith("u_")}
    assert outer["u_shaped"] > outer["u_shaped_medium"] > outer["u_shaped_weak"] > 0.2
    assert many["geometric_decay"][10] == pytest.approx(HIGHEST * 0.9**10)
    assert np.log(many["log_uniform"]).mean() == pytest.approx(np.log(0.1), abs=0.2)
    assert np.ptp(np.diff(np.log(many["geometric"]))) < 1e-9


def test_the_problem_is_that_of_the_data() -> None:
    """‖XW − Y‖²/(2·n·d_out) with XᵀX/(n·d_out) = A and Y = XW*."""
    problem = Problem.draw("geometric", 6, seed=1, instances=[2], dtype=torch.float64)
    a, best, w = (x[0] for x in (problem.a, problem.optimum, problem.start.clone()))
    x = torch.linalg.cholesky(a * 36).mT
    w.requires_grad_()
    loss = (x @ w - x @ best).square().sum() / (2 * 36)
    (grad,) = torch.autograd.grad(loss, w)
    seen = {}
    path = descend(
        problem, lambda p: SGD([p], 0.1), steps=1, watch=lambda t, v: seen.update({t: v[0].clone()})
    )
    torch.testing.assert_close(path.loss[0, 0], loss.detach())
    torch.testing.assert_close(path.grad[0, 0], grad.norm())
    torch.testing.assert_close(seen[1], w.detach() - 0.1 * grad)
    curvature = torch.linalg.eigvalsh(a)
    torch.testing.assert_close(curvature[[0, -1]], torch.tensor([LOWEST, HIGHEST]).double())


def test_a_batch_of_one_is_a_slice_of_a_batch() -> None:
    def problem(*instances: int) -> Problem:
        return Problem.draw("log_uniform", 8, seed=0, instances=instances, dtype=torch.float64)

    def noisy(param: torch.nn.Parameter, instances: tuple[int, ...]) -> torch.optim.Optimizer:
        draws = tuple(generator(0, i, 7) for i in instances)
        return muon(param, lr=0.05, polar=NoisyPolar(Svd(), 0.3, Additive(), draws))

    every, one = (0, 1, 2, 3), (2,)
    for whole, alone in zip(
        vars(problem(*every)).values(), vars(problem(*one)).values(), strict=True
    ):
        assert torch.equal(whole[2:3], alone)
    for build in (
        lambda p, instances: METHODS["GD"].build(p, 0.05, 0.0),
        lambda p, instances: METHODS["Adam"].build(p, 0.05, 0.0),
        lambda p, instances: muon(p, lr=0.05, momentum=MOMENTUM),
        lambda p, instances: nuclear(p, sharpness=80.0),
        noisy,
    ):
        found = [
            descend(problem(*i), partial(build, instances=i), steps=20).loss for i in (every, one)
        ]
        torch.testing.assert_close(found[0][:, 2:3], found[1], rtol=1e-10, atol=1e-12)


def test_noise_has_the_stated_shape_and_size() -> None:
    x = torch.randn(3, 40, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = Svd()(x)
    draws = tuple(generator(0, i) for i in range(3))
    assert torch.equal(NoisyPolar(Svd(), 0.0, Additive(), draws)(x), exact)
    error = NoisyPolar(Svd(), 0.5, Additive(), draws)(x) - exact
    size = error.norm(dim=(1, 2)) / exact.norm(dim=(1, 2))
    torch.testing.assert_close(size, torch.full_like(size, 0.5), rtol=0.1, atol=0)
    u, sigma, vh = torch.linalg.svd(x, full_matrices=False)
    core = u.mT @ NoisyPolar(Svd(), 0.1, PerSingularValue(), draws)(x) @ vh.mT
    values = core.diagonal(dim1=-2, dim2=-1)
    assert (core - torch.diag_embed(values)).abs().max() < 1e-12
    assert (values - 1).std() == pytest.approx(0.1, rel=0.3)
    made = u.mT @ NoisyPolar(Svd(), 1.0, Shaped(JORDAN), draws)(x) @ vh.mT
    wanted = JORDAN(sigma / x.norm(dim=(1, 2)).unsqueeze(-1))
    torch.testing.assert_close(made.diagonal(dim1=-2, dim2=-1), wanted, rtol=0, atol=1e-10)
    assert_refused(lambda: NoisyPolar(Svd(), -1.0, Additive(), draws), "sigma=-1.0", ">= 0")
    assert_refused(lambda: NoisyPolar(Svd(), 1.0, Additive(), draws[:1])(x), "draws=1", "3")


def test_hitting_times_are_those_of_the_loop() -> None:
    for seed in range(20):
        draw, s, wanted = np.random.default_rng(seed), scalar.START, 301
        for t in range(301):
            if abs(s) <= scalar.EPSILON:
                wanted = t
                break
            s -= scalar.ALPHA * (np.sign(s) + 0.05 * draw.standard_normal())
        start = np.array([scalar.START])
        found = scalar.hitting_times(start, 0.05, np.random.default_rng(seed), cap=300)
        assert found.tolist() == [wanted]
    assert scalar.starts(sigma=0.0, samples=500, cap=50, seed=0)["wrong"] == 0


def test_the_sweet_spot() -> None:
    found = scalar.hitting(index=0, sigma=0.3, samples=2000, seed=0)
    assert found["from"] <= found["median"] <= found["to"]
    assert abs(found["median"] - 12) <= 1


def test_the_band_of_hitting_times_is_the_central_95_percent_of_the_runs() -> None:
    found = scalar.hitting(index=3, sigma=0.02, samples=1000, seed=1)
    start, draw_ = np.full(1000, scalar.START), np.random.default_rng([1, 3, scalar.STREAM])
    times = np.sort(scalar.hitting_times(start, 0.02, draw_, cap=scalar.CAP).clip(max=scalar.CAP))
    assert times[24] <= found["low"] <= times[25]
    assert times[974] <= found["high"] <= times[975]
    figure = pictures.draw_hitting([found, {**found, "sigma": 0.03}])
    dashed = {line.get_ydata()[0] for line in figure.axes[0].lines if line.get_linestyle() == "--"}
    assert dashed == {scalar.CAP, scalar.START / scalar.ALPHA}


def test_the_greedy_step_is_the_best_one() -> None:
    a, w = draw(8, seed=0, instances=[0, 1])
    grad = a @ w
    step, decrease = best_step(a, grad, Svd()(grad))
    for factor in (0.9, 1.0, 1.1):
        moved = w - factor * step[:, None, None] * Svd()(grad)
        loss = (moved * (a @ moved)).sum(dim=(1, 2)) / 2
        fall = (w * grad).sum(dim=(1, 2)) / 2 - loss
        assert (fall <= decrease * (1 + 1e-12)).all()
        if factor == 1:
            torch.testing.assert_close(fall, decrease)


def test_gaps_of_the_greedy_choice() -> None:
    rows = greedy(n=20, steps=17, instances=range(2), seed=0)["rows"]
    assert all(r["polar"] == 2 for r in rows)
    assert max(rows[-1]["GD"]) < 1e-12 < 1e-2 < min(rows[-1]["greedy"])


def test_every_start_of_the_greedy_choice_has_the_same_problem() -> None:
    a, starts = draw(6, seed=0, instances=range(5))
    same, (third,) = draw(6, seed=0, instances=[2])
    assert a.shape == (6, 6)
    assert torch.equal(a, same) and torch.equal(starts[2], third)
    assert not torch.equal(a, draw(6, seed=1, instances=[2])[0])
    for settings, count in ((QUADRATICS.full, 100), (QUADRATICS.quick, 6)):
        cells = PARTS["figure-5"].cells(settings)
        assert sum(c.key["count"] for c in cells) == count == settings.instances


def test_gaps_and_gains_are_medians_and_the_central_95_percent_of_all_starts() -> None:
    """Of two cells with their starts: the table knows no cells."""
    draw_ = np.random.default_rng(0)
    values = draw_.lognormal(size=(3, 100))
    cells = [
        {
            "experiment": "greedy",
            "seed": 0,
            "first": first,
            "rows": [
                {"step": t, "polar": 50, **dict.fromkeys(("GD", "greedy", "gain"), part.tolist())}
                for t, part in enumerate(values[:, first : first + 50])
            ],
        }
        for first in (0, 50)
    ]
    for table, name in ((tables.gaps, "greedy"), (tables.gaps, "GD"), (tables.choices, "gain")):
        for row, each in zip(table(cells), values, strict=True):
            low, middle, high = np.percentile(each, (2.5, 50, 97.5))
            found = [row[f"{name}{end}"] for end in (" low", "", " high")]
            assert found == pytest.approx([low, middle, high], rel=1e-12)
    assert {row["polar"] for row in tables.choices(cells)} == {1.0}


def test_the_grid_and_what_leaves_it() -> None:
    found = {w: grid.follow(w, n=6, steps=80, instances=range(2), seed=0) for w in grid.WAYS}
    assert found["exact"]["off"] <= 1e-9
    assert found["exact"]["left"] is None
    for lowest, floor in zip(found["exact"]["lowest"], found["exact"]["floor"], strict=True):
        assert lowest >= floor * (1 - 1e-9)
    assert found["momentum, diagonal"]["off"] <= 1e-9
    for way in ("noisy", "Newton–Schulz", "nuclear-norm step", "vanishing lr"):
        assert found[way]["off"] > 1e-3
        assert found[way]["left"] > 0
    assert max(found["nuclear-norm step"]["lowest"]) < 1e-9


def test_the_nuclear_norm_step_has_the_length_of_each_instance() -> None:
    """W − ‖G‖_*/tr A·UVᵀ, with A and G of the instance, whatever else is in the batch."""
    cell = {"family": "uniform", "method": "Muon nuclear", "momentum": 0.0, "lr": 1.0, "seed": 0}
    cell["schedule"] = "constant"
    found = sweep({**cell, "first": 0, "count": 3}, n=8, steps=1)["loss"]
    for i, (first, last) in enumerate(found):
        problem = Problem.draw("uniform", 8, seed=0, instances=[i], dtype=torch.float64)
        (a,), error = problem.a, (problem.start - problem.optimum)[0]
        u, sigma, vh = torch.linalg.svd(a @ error)
        moved = error - sigma.sum() / a.trace() * u @ vh
        for loss, e in ((first, error), (last, moved)):
            assert loss == pytest.approx(float((e * (a @ e)).sum() / 2), rel=1e-4)


def test_steps_kept_and_schedule() -> None:
    assert set(marks(500)) <= set(kept(500))
    assert kept(500)[0] == 0 and kept(500)[-1] == 500
    assert kept(3) == [0, 1, 2, 3]
    rates = [vanishing(t, 10) for t in range(11)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.slow
def test_a_figure_alone_and_then_another(reproduce: Invoke, tmp_path: Path) -> None:
    base = ("quadratics", "--quick", "--jobs", 1, "--out", tmp_path)
    assert reproduce(*base, "--figure", "16", "--instances", 2).exit_code == 0
    assert {p.stem for p in tmp_path.glob("*.png")} == {"figure-5", "figure-16"}
    only = ("--figure", "table-1", "--family", "min_spiked", "--instances")
    assert reproduce(*base, *only, 2).exit_code == 0
    cells = (tmp_path / "cells.jsonl").read_text(encoding="utf-8")
    assert reproduce(*base, *only, 3).exit_code == 0
    longer = (tmp_path / "cells.jsonl").read_text(encoding="utf-8")
    assert longer.startswith(cells) and len(longer) > len(cells)
    claims = json.loads((tmp_path / "claims.json").read_text(encoding="utf-8"))
    verdicts = {c["id"]: c["verdict"] for c in claims}
    assert verdicts["wins-uniform"] == UNDECIDED
    settings = json.loads((tmp_path / "settings.json").read_text(encoding="utf-8"))["settings"]
    assert (settings["instances"], settings["families"]) == (3, ["min_spiked"])


def test_processes_give_the_same_numbers_or_say_that_one_was_killed() -> None:
    """A cell that kills its own process has no result, whoever else is quick."""
    cells = QUADRATICS.only(["figure-2"]).cells(QUADRATICS.quick)[:2]
    work = partial(measure, QUADRATICS.quick)
    found = []
    for jobs in (1, 2):
        with workers(jobs, alone=False) as do:
            results = {str(c.key): r for c, r in do(work, cells)}
            if jobs > 1:
                fatal = [Cell(key={"n": n, "dies": n == 3}, cost=1.0) for n in range(8)]
                with pytest.raises(ChildProcessError, match="the same command goes on"):
                    list(do(dies, fatal))
        found.append({k: {**r, "seconds": 0} for k, r in results.items()})
    assert found[0] == found[1]
    assert len(found[0]) == 2


def test_every_part_has_its_table_and_its_picture() -> None:
    settings = QUADRATICS.quick
    assert [f"figure-{i}" for i in range(1, 17)] + ["table-1", "table-2"] == list(PARTS)[:18]
    for name in ("figure-5", "figure-16"):
        part = PARTS[name]
        results = [{**c.key, **measure(settings, c.key)} for c in part.cells(settings)]
        rows = part.table(results)
        assert len(rows) > 5
        assert all(r.keys() == rows[0].keys() for r in rows)
        assert part.picture is not None
        figure = part.picture(rows)
        assert png(figure).startswith(b"\x89PNG")
        assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)
