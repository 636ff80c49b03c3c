"""One bench of one set: the rows that come out of known times and known factors."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from steepest import polar
from steepest.apps.bench import contenders
from steepest.apps.bench import floor as floor_module
from steepest.apps.bench.accuracy import spectrum_probe
from steepest.apps.bench.contenders import FLOOR, AbsentError, Contender, Stacks
from steepest.apps.bench.floor import floor_name, floors
from steepest.apps.bench.measure import Result, Turns, measure
from steepest.apps.bench.sets import SETS
from tests.apps.bench.tiny import SQUARE, TINY, Clock, Fake, fake, made_up

QUICK = Turns(rounds=2, warmup=1, seed=0)


def probes(count: int = 4):
    generator = torch.Generator().manual_seed(0)
    return [spectrum_probe(shape, generator) for shape in TINY.shapes[:count]]


def absent(_: list[nn.Parameter], *__: float) -> Fake:
    raise AbsentError("not installed")


def test_rows_from_known_times() -> None:
    clock = Clock()

    def row(name: str, seconds: Sequence[float], fails: int | None = None) -> Contender:
        return fake(name, lambda: Fake(name, clock, seconds, [], fails))

    rows = [
        row("base", [9, 0.004, 0.004, 0.040]),
        row("fast", [9, 0.001, 0.002, 0.020]),
        row("broken", [1.0], fails=2),
        Contender(name="gone", note="a note", start=absent),
        row(FLOOR, [9, 0.0005, 0.0005, 0.005]),
    ]
    turns = Turns(rounds=3, warmup=1, seed=0, clock=clock)
    result = measure("steps", SQUARE, rows, [], turns, data="spectrum")
    base, fast, broken, gone, floor = result.rows
    assert (result.baseline, result.rounds, result.warmup) == ("base", 3, 1)
    assert (base.speed, base.speed_of_medians, base.ms) == (1.0, 1.0, pytest.approx(4.0))
    assert fast.speed == pytest.approx(2.0)  # of 4, 2, 2
    assert fast.speed_of_medians == pytest.approx(2.0)
    assert (fast.ms, fast.ms_low, fast.ms_high) == pytest.approx((2.0, 1.5, 11.0))
    assert fast.floors == pytest.approx(4.0)  # of 2, 4, 4
    assert (floor.floors, floor.speed) == pytest.approx((1.0, 8.0))
    assert (broken.status, broken.message) == ("failed", "RuntimeError: this contender is broken")
    assert (gone.status, gone.message, gone.ms) == ("absent", "not installed", None)


def test_without_a_baseline_there_are_times_and_no_ratios() -> None:
    clock = Clock()
    rows = [
        Contender(name="base", note="", start=absent),
        fake("other", lambda: Fake("other", clock, [1.0], [])),
    ]
    turns = Turns(rounds=2, warmup=0, seed=0, clock=clock)
    base, other = measure("steps", SQUARE, rows, [], turns, data="spectrum").rows
    assert base.status == "absent"
    assert (other.ms, other.speed, other.floors) == (pytest.approx(1000.0), None, None)


def test_the_methods_and_their_errors() -> None:
    rows = contenders.methods(None)
    result = measure("methods", TINY, rows, probes(), QUICK, data="spectrum")
    errors = {row.name: row.error for row in result.rows}
    assert [r.status for r in result.rows] == ["measured"] * len(rows), result.rows
    assert errors["Svd()"] < 1e-4 and errors["Auto(error=1e-3)"] <= 1e-3
    assert errors["Auto(error=0.05)"] <= 0.05 < errors[contenders.TORCH_ITERATION] < 0.5
    for row in result.rows:
        assert row.ms_low <= row.ms <= row.ms_high


def test_the_errors_of_steps_are_those_of_their_factors() -> None:
    scaled = contenders.optimizer(
        "twice", "", lambda p, lr, decay: torch.optim.Muon(p, lr=2 * lr, weight_decay=decay)
    )
    rows = contenders.optimizers(None, [scaled])
    result = measure("steps", TINY, rows, probes(), QUICK, data="spectrum")
    errors = {row.name: row.error for row in result.rows}
    assert 0.05 < errors["torch.optim.Muon"] < 0.5
    assert errors["steepest.Muon"] <= 0.05 and errors["steepest.Muon, error 1e-3"] <= 1e-3
    # No scale is fitted: a step of twice the length is an error of about 1.
    assert 0.5 < errors["twice"] < 1.5


def test_errors_are_measured_where_there_are_probes() -> None:
    rows = contenders.methods(None)[-1:]
    (row,) = measure("methods", TINY, rows, [], QUICK, data="gradients").rows
    assert row.error is None and row.status == "measured"


def test_the_worst_matrix_counts() -> None:
    class Wrong:
        """The exact factor of every matrix but the third, which it makes half as long."""

        def load(self, matrices: Sequence[Tensor]) -> None:
            self.matrices = matrices

        def run(self) -> None:
            self.out = [polar.Svd()(x) for x in self.matrices]
            self.out[2] = self.out[2] / 2

        def factors(self) -> list[Tensor]:
            return self.out

    (row,) = measure("methods", TINY, [fake("wrong", Wrong)], probes(), QUICK, data="spectrum").rows
    assert row.error == pytest.approx(0.5, abs=1e-3)


def test_equal_shapes_and_their_transposes_share_a_stack() -> None:
    matrices = [torch.randn(shape) for shape in TINY.shapes]
    stacks = Stacks(matrices)
    packed = stacks.pack(matrices)
    assert sorted(tuple(x.shape) for x in packed) == [(2, 8, 8), (2, 8, 24), (4, 8, 32)]
    assert all(x.is_contiguous() for x in packed)
    again = stacks.unpack(packed)
    assert all(torch.equal(x, y) for x, y in zip(matrices, again, strict=True))


def test_the_baseline_comes_first_and_what_takes_minutes_is_left_out() -> None:
    assert contenders.methods(None)[0].name == contenders.TORCH_ITERATION
    assert contenders.optimizers(None, [])[0].name == contenders.BASELINE
    assert SETS["square-4096"].block[0][0] > 1024
    svd = next(c for c in contenders.methods(None) if c.name == "Svd()")
    with pytest.raises(AbsentError, match="left out above 1024 rows"):
        svd.start([nn.Parameter(torch.zeros(1025, 1025))], 1.0, 0.0)


def test_the_floor_is_the_faster_type() -> None:
    clock = Clock()
    fast, slow = floor_name(torch.bfloat16), floor_name(torch.float32)
    seconds = {"base": 4.0, slow: 2.0, fast: 1.0}
    rows = [fake(n, lambda n=n, s=s: Fake(n, clock, [s], [])) for n, s in seconds.items()]
    turns = Turns(rounds=3, warmup=1, seed=0, clock=clock)
    result = measure("steps", SQUARE, rows, [], turns, data="spectrum")
    base, floor = result.rows
    assert (floor.name, floor.ms, result.floor_type) == (FLOOR, pytest.approx(1000.0), "bfloat16")
    assert base.floors == pytest.approx(4.0)
    assert floor.note.endswith("; float32: 2e+03 ms")


@pytest.mark.parametrize("slow", [torch.float32, torch.bfloat16], ids=str)
def test_a_type_that_is_emulated_is_no_floor(
    slow: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, torch.device]] = []

    def seconds(side: int, device: torch.device, clock: Clock) -> dict[torch.dtype, float]:
        asked.append((side, device))
        return {t: 40.0 if t == slow else 1.0 for t in (torch.float32, torch.bfloat16)}

    monkeypatch.setattr(floor_module, "corner_seconds", seconds)
    rows = [*contenders.optimizers(None, [])[:1], *floors()]
    result = measure("steps", TINY, rows, probes(), QUICK, data="spectrum")
    assert [r.name for r in result.rows] == ["torch.optim.Muon", FLOOR]
    assert floor_name(slow).endswith(result.floor_type) is False
    assert result.rows[-1].error is None
    assert "40 times as slow in a product of 8 rows" in result.rows[-1].note
    assert asked == [(8, torch.device("cpu"))]


def test_every_type_is_judged_by_a_product() -> None:
    found = floor_module.corner_seconds(8, torch.device("cpu"))
    assert list(found) == [torch.float32, torch.bfloat16]
    assert all(0 < s < 60 for s in found.values())


def test_a_product_ends_when_the_clock_says_so() -> None:
    ticks = itertools.count()
    cpu = torch.device("cpu")
    assert set(floor_module.corner_seconds(8, cpu, lambda: float(next(ticks))).values()) == {1.0}
    # Before and after each of seven products, and before the one that does not count.
    assert next(ticks) == 2 * (1 + 2 * 7)


def test_one_whose_first_step_takes_too_long_has_one_time() -> None:
    clock, logs = Clock(), {name: [] for name in ("base", "other", "compiles")}
    seconds = {"base": [90.0], "other": [9.0, 3.0], "compiles": [90.0, 1.0]}

    def row(name: str) -> Contender:
        again = iter((seconds[name], seconds[name][1:] or seconds[name]))
        made = fake(name, lambda: Fake(name, clock, next(again), logs[name]))
        return replace(made, compiles=name == "compiles")

    turns = Turns(rounds=3, warmup=1, seed=0, clock=clock, patience=60.0)
    result = measure("steps", SQUARE, [row(name) for name in logs], [], turns, data="spectrum")
    base, other, compiled = result.rows
    # Without a matrix of known factor it is the warm-up that tells; who compiles has a step before.
    assert [len(log) for log in logs.values()] == [1, 4, 5]
    assert (base.once, base.ms, base.ms_low, base.speed) == (True, pytest.approx(9e4), base.ms, 1.0)
    assert (other.once, other.speed) == (False, pytest.approx(30.0))
    assert (compiled.once, compiled.speed) == (False, pytest.approx(90.0))
    assert result.patience == 60.0


def test_the_step_whose_error_is_measured_may_be_the_only_one() -> None:
    class Slow:
        """The exact factors, in 100 s."""

        def load(self, matrices: Sequence[Tensor]) -> None:
            self.matrices = matrices

        def run(self) -> None:
            steps.append(len(self.matrices))
            clock.now += 100.0

        def factors(self) -> list[Tensor]:
            return [polar.Svd()(x) for x in self.matrices]

    clock, steps = Clock(), []
    turns = Turns(rounds=3, warmup=1, seed=0, clock=clock, patience=60.0)
    rows = [fake("slow", Slow)]
    (row,) = measure("steps", TINY, rows, probes(), turns, data="spectrum").rows
    assert (row.once, row.ms, row.status) == (True, 1e5, "measured")
    assert row.error is not None and row.error < 1e-4
    assert len(steps) == 1


def test_json_and_back() -> None:
    result = made_up()
    text = json.dumps(result.to_json(), allow_nan=False)
    assert Result.from_json(json.loads(text)) == result
