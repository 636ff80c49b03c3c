"""One bench of one set: the rows that come out of known times and known factors."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from steepest import polar
from steepest.apps.bench import contenders
from steepest.apps.bench.accuracy import spectrum_probe
from steepest.apps.bench.contenders import FLOOR, AbsentError, Contender, Stacks
from steepest.apps.bench.measure import Result, Turns, measure
from steepest.apps.bench.peers import PEERS, Eager, Peer, versions
from steepest.apps.bench.peers import contenders as peer_contenders
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
    rows = [*contenders.methods(None), contenders.floor()]
    result = measure("methods", TINY, rows, probes(), QUICK, data="spectrum")
    errors = {row.name: row.error for row in result.rows}
    assert [r.status for r in result.rows] == ["measured"] * len(rows), result
    assert errors["Svd()"] < 1e-4 and errors["Auto(error=1e-3)"] <= 1e-3
    assert errors["Auto(error=0.05)"] <= 0.05 < errors[contenders.TORCH_ITERATION] < 0.5
    assert errors[FLOOR] is None
    for row in result.rows:
        assert row.ms_low <= row.ms <= row.ms_high


def test_the_errors_of_steps_are_those_of_their_factors() -> None:
    scaled = contenders.optimizer(
        "twice", "", lambda p, lr, decay: torch.optim.Muon(p, lr=2 * lr, weight_decay=decay)
    )
    rows = [*contenders.optimizers(None, [scaled]), contenders.floor()]
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


MISSING = Peer(
    name="nobody", module="no_such_package_here", note="", build=lambda *_: pytest.fail("called")
)
# An installed module that has no Muon.
BROKEN = Peer(
    name="broken", module="json", note="", build=lambda module, p, lr, decay: module.Muon(p)
)
SLOW = Peer(
    name="slow", module="json", note="", slow_start=True, build=lambda *_: pytest.fail("called")
)


def test_a_missing_peer_is_listed_and_a_broken_one_fails() -> None:
    rows = [
        *contenders.optimizers(None, peer_contenders(quick=True, peers=[MISSING, BROKEN, SLOW]))
    ]
    result = measure("steps", SQUARE, rows, [], QUICK, data="spectrum")
    found = {row.name: (row.status, row.message) for row in result.rows}
    assert found["nobody"] == ("absent", "not installed")
    assert found["broken"][0] == "failed" and "AttributeError" in found["broken"][1]
    assert found["slow"] == ("absent", "left out by --quick: it compiles first")
    assert found["steepest.Muon"] == ("measured", "")


def test_every_peer_has_a_version_or_none() -> None:
    assert set(versions()) == {"optimuon", "pytorch_optimizer", "heavyball"}
    assert len({peer.name for peer in PEERS}) == len(PEERS)


def test_the_compiler_is_off_for_the_step_only() -> None:
    class Module:
        class utils:  # noqa: N801
            compile_mode = "max"

    class Step:
        def step(self) -> None:
            seen.append(Module.utils.compile_mode)
            if len(seen) == 2:
                raise RuntimeError

    seen: list[str | None] = []
    eager = Eager(Module, Step())
    eager.step()
    with pytest.raises(RuntimeError):
        eager.step()
    assert seen == [None, None]
    assert Module.utils.compile_mode == "max"


def test_json_and_back() -> None:
    result = made_up()
    text = json.dumps(result.to_json(), allow_nan=False)
    assert Result.from_json(json.loads(text)) == result
