"""The verdict: sentences from rows that are known."""

from __future__ import annotations

from dataclasses import replace

from steepest.apps.bench.measure import Result
from steepest.apps.bench.verdict import lines, verdict, verdicts
from tests.apps.bench.tiny import made_up

FLOOR = "steepest.Muon takes 2.00 times the floor, two products in float32 (2.00 ms)."


def with_speeds(**speeds: float) -> Result:
    """The made-up result with other speeds, by the last word of a name."""
    made = made_up()
    rows = tuple(
        replace(r, speed=speeds[key], ms=20.0 / speeds[key], floors=10.0 / speeds[key])
        if (key := r.name.split(".")[0]) in speeds
        else r
        for r in made.rows
    )
    return replace(made, rows=rows)


def test_this_library_is_the_fastest() -> None:
    assert verdict(made_up()) == [
        "steepest.Muon is the fastest: 5.00 times as fast as torch.optim.Muon.",
        FLOOR,
        "Errors: 0.044 of steepest.Muon, 0.35 of torch.optim.Muon.",
    ]
    assert lines([made_up()])[0].startswith("GPT, width 128, 4 blocks, steps: steepest.Muon is")


def test_somebody_else_is() -> None:
    first, second, third, _ = verdict(with_speeds(slow=8.0))
    assert first == (
        "slow is the fastest: 8.00 times as fast as torch.optim.Muon and 1.60 times as fast as "
        "steepest.Muon."
    )
    assert second == "steepest.Muon is 5.00 times as fast as torch.optim.Muon."
    assert third.startswith("slow takes 1.25 times and steepest.Muon takes 2.00 times the floor")


def test_slower_than_torch_is_said() -> None:
    first, second, *_ = verdict(with_speeds(steepest=0.5))
    assert first == "torch.optim.Muon is the fastest: 2.00 times as fast as steepest.Muon."
    assert second == (
        "steepest.Muon is slower than torch.optim.Muon here: it takes 2.00 times as long."
    )
    # Behind both.
    first, second, *_ = verdict(with_speeds(steepest=0.5, slow=2.0))
    assert first.startswith("slow is the fastest: 2.00 times as fast as torch.optim.Muon and 4.00")
    assert "steepest.Muon is slower than torch.optim.Muon" in second


def test_a_hair_s_breadth_decides_nothing() -> None:
    first, *rest = verdict(with_speeds(steepest=1.02))
    assert first == "steepest.Muon is the fastest: about as fast as torch.optim.Muon."
    assert not any("slower" in sentence for sentence in rest)
    first, *rest = verdict(with_speeds(steepest=0.98))
    assert first == "torch.optim.Muon is the fastest: about as fast as steepest.Muon."
    assert not any("slower" in sentence for sentence in rest)


def test_the_floor_has_the_name_of_its_type() -> None:
    assert "two products in bfloat16" in " ".join(
        verdict(replace(made_up(), floor_type="bfloat16"))
    )
    without = replace(made_up(), rows=made_up().rows[:-1])
    assert "floor" not in " ".join(verdict(without))


def test_a_single_measurement_is_said() -> None:
    made = made_up()
    slow = replace(made, patience=60.0, rows=(replace(made.rows[0], once=True), *made.rows[1:]))
    assert verdict(slow)[-1] == (
        "One step only, as it took longer than the patience of 60 s: torch.optim.Muon. Every "
        "factor over torch.optim.Muon comes from that one time."
    )
    rows = (*made.rows[:4], replace(made.rows[4], once=True), made.rows[5])
    assert verdict(replace(made, rows=rows))[-1].endswith("the patience: slow.")


def test_without_a_baseline_there_is_a_fastest_by_its_time() -> None:
    made = made_up()
    rows = tuple(replace(r, speed=None) for r in made.rows[1:])
    first, *_ = verdict(replace(made, rows=rows))
    assert first == "steepest.Muon is the fastest."
    assert verdict(replace(made, rows=made.rows[2:4])) == ["No contender has a time."]


def test_the_default_method_stands_for_the_library() -> None:
    made = made_up(bench="methods")
    rows = (made.rows[0], replace(made.rows[1], name="Auto(error=0.05)"), made.rows[5])
    assert verdict(replace(made, rows=rows))[0].startswith("Auto(error=0.05) is the fastest: 5.00")


def test_as_plain_data() -> None:
    made = made_up()
    assert verdicts([made]) == [{"set": "gpt-128", "bench": "steps", "sentences": verdict(made)}]
