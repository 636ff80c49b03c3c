"""Turns: who runs when, what is timed, and what becomes of one that fails."""

from __future__ import annotations

import gc
from collections import Counter
from itertools import count

import pytest
import torch
from torch import Tensor

from steepest.apps.bench.rounds import Times, message, paired_ratio, quartiles, take_turns
from tests.apps.bench.tiny import Clock, Fake

NAMES = ("a", "b", "c", "d")


def turns(
    *, rounds: int = 5, warmup: int = 2, seed: int = 0, fails: int | None = None
) -> tuple[Times, list[tuple[str, float]]]:
    """Four contenders, of which c may fail; the matrices of a round hold its number."""
    clock, log, numbers = Clock(), [], count()
    runners = {
        name: Fake(
            name, clock, [i + k / 10 for k in range(20)], log, fails if name == "c" else None
        )
        for i, name in enumerate(NAMES, start=1)
    }

    def fresh() -> list[Tensor]:
        return [torch.full((2, 2), float(next(numbers)))]

    times = take_turns(runners, fresh, rounds=rounds, warmup=warmup, seed=seed, clock=clock)
    return times, log


def test_everyone_runs_once_a_round_on_the_same_new_matrices() -> None:
    _, log = turns()
    assert len(log) == 7 * 4
    for number in range(7):
        rows = log[4 * number : 4 * number + 4]
        assert sorted(name for name, _ in rows) == list(NAMES)
        assert {value for _, value in rows} == {number}


def test_the_order_changes_and_follows_from_the_seed() -> None:
    def orders(seed: int) -> list[str]:
        _, log = turns(rounds=30, seed=seed)
        names = [name for name, _ in log]
        return ["".join(names[i : i + 4]) for i in range(0, len(names), 4)]

    assert orders(0) == orders(0) != orders(1)
    assert len(set(orders(0))) > 8
    # Nobody has the place after the copy of the matrices for himself.
    assert min(Counter(order[0] for order in orders(0)).values()) >= 2


def test_only_the_run_is_timed_and_the_warm_up_is_left_out() -> None:
    times, _ = turns(rounds=3, warmup=2)
    assert times.failures == {}
    for i, name in enumerate(NAMES, start=1):
        assert times.seconds[name] == pytest.approx([i + 0.2, i + 0.3, i + 0.4])


@pytest.mark.parametrize("fails", [0, 1, 4, 6])
def test_one_that_raises_is_out_and_the_others_go_on(fails: int) -> None:
    times, log = turns(fails=fails)
    assert times.failures == {"c": "RuntimeError: this contender is broken"}
    assert list(times.seconds) == ["a", "b", "d"]
    assert all(len(s) == 5 for s in times.seconds.values())
    counts = Counter(name for name, _ in log)
    assert [counts[name] for name in NAMES] == [7, 7, fails, 7]


def test_the_collector_is_off_while_the_clock_runs() -> None:
    seen = []

    class Watching(Fake):
        def load(self, matrices: object) -> None:
            seen.append(gc.isenabled())

        def run(self) -> None:
            seen.append(gc.isenabled())
            raise RuntimeError

    assert gc.isenabled()
    clock = Clock()
    take_turns({"x": Watching("x", clock, [1], [])}, list, rounds=1, warmup=0, seed=0, clock=clock)
    assert seen == [True, False]
    assert gc.isenabled()


def test_ctrl_c_is_no_failure_of_a_contender() -> None:
    class Stopped(Fake):
        def run(self) -> None:
            raise KeyboardInterrupt

    clock = Clock()
    with pytest.raises(KeyboardInterrupt):
        take_turns(
            {"x": Stopped("x", clock, [1], [])}, list, rounds=1, warmup=0, seed=0, clock=clock
        )
    assert gc.isenabled()


def test_ratios_are_paired() -> None:
    # The machine is three times slower in the last two rounds, for both.
    theirs, ours = [4.0, 4.0, 4.0, 12.0, 12.0], [1.0, 2.0, 2.0, 6.0, 6.0]
    assert paired_ratio(ours, theirs) == 2.0
    assert paired_ratio(theirs, ours) == 0.5


def test_quartiles() -> None:
    assert quartiles([5.0, 1.0, 2.0, 3.0, 4.0]) == (2.0, 4.0)
    assert quartiles([7.0]) == (7.0, 7.0)


def test_messages_are_one_line() -> None:
    assert message(ValueError("a\n  b")) == "ValueError: a b"
    assert message(KeyError()) == "KeyError"
    assert len(message(ValueError("long " * 100))) < 250
