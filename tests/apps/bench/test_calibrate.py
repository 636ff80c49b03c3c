"""A measured table of costs: what is measured for which field, and how."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from steepest.apps._machine import cpu_name
from steepest.apps.bench.calibrate import (
    BLOCKS,
    NARROW,
    RATIOS,
    SLOW,
    calibrate,
    costs,
    seconds,
)
from steepest.polar import Auto, CostTable
from steepest.polar.processors import processor_class
from tests.apps.bench.tiny import Clock


def test_every_field_of_the_table_is_measured() -> None:
    assert {f.name for f in fields(CostTable)} == {*BLOCKS, *RATIOS, "source"}
    assert set(NARROW) < set(BLOCKS)


def test_the_fastest_but_one_counts_and_the_first_call_does_not() -> None:
    clock, times = Clock(), iter([1e-6, 9.0, 3.0, 1.0, 2.0, 4.0])

    def operation() -> None:
        clock.now += next(times)

    # Calls as long as these are repeated three times only.
    assert seconds(operation, clock) == 3.0
    assert list(times) == [2.0, 4.0]


def test_costs_are_those_of_one_matrix() -> None:
    clock, asked = Clock(), []

    def build(m: int, batch: int):
        asked.append((m, batch))

        def operation() -> None:
            clock.now += batch * 0.5

        return operation

    assert costs(build, [8, 2048], clock) == ((8, 0.5), (2048, 0.5))
    assert asked == [(8, 128), (2048, 2)]


@pytest.mark.parametrize(
    ("unit", "single", "sizes"),
    [
        # What float32 takes is not a limit to it.
        (2 * SLOW, None, (1, 2, 3, 4)),
        # Slower than float32 and than the limit; but one size alone makes no costs.
        (2 * SLOW, {1: 0.0, 2: 0.0, 3: 0.0, 4: 0.0}, (1, 2)),
        (2 * SLOW, {1: 0.0, 2: 9.0, 3: 0.0, 4: 0.0}, (1, 2, 3)),
        # Faster than float32, or than the limit.
        (2 * SLOW, {1: 9.0, 2: 9.0, 3: 9.0, 4: 9.0}, (1, 2, 3, 4)),
        (0.2 * SLOW, {1: 0.0, 2: 0.0, 3: 0.0, 4: 0.0}, (1, 2, 3, 4)),
    ],
)
def test_a_slow_type_is_not_measured_to_the_end(
    unit: float, single: dict[int, float] | None, sizes: tuple[int, ...]
) -> None:
    clock = Clock()

    def build(m: int, batch: int):
        def operation() -> None:
            clock.now += batch * m * unit

        return operation

    found = costs(build, [1, 2, 3, 4], clock, single=single)
    assert tuple(m for m, _ in found) == sizes


@pytest.mark.parametrize("name", BLOCKS)
def test_the_operations_do_what_they_are_called(name: str) -> None:
    out = BLOCKS[name](8, 3)()
    first = out if isinstance(out, torch.Tensor) else out[0]  # type: ignore[index]
    assert first.shape[0] == 3
    other = {"eigh": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
    assert first.dtype == other.get(name, torch.float32)


def test_a_table_that_auto_can_use() -> None:
    said: list[str] = []
    table = calibrate(sizes=(4, 8), say=said.append)
    assert said == [f.name for f in fields(CostTable) if f.name != "source"]
    for name in BLOCKS:
        assert [m for m, _ in getattr(table, name)] == [4, 8]
    threads = f"--calibrate --threads {torch.get_num_threads()}`"
    kind = processor_class(torch.device("cpu"))
    for part in ("measured", threads, cpu_name(), f"class {kind}", torch.__version__, "202"):
        assert part in table.source
    assert CostTable.from_json(table.to_json()) == table
    q = Auto(table=table)(torch.eye(8))
    assert float((q - torch.eye(8)).abs().max()) < 0.05
