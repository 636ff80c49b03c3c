"""A measured table of costs: what is measured for which field, and how."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from steepest.apps.bench.calibrate import BLOCKS, RATIOS, calibrate, costs, seconds
from steepest.polar import Auto, CostTable
from tests.apps.bench.tiny import Clock


def test_every_field_of_the_table_is_measured() -> None:
    assert {f.name for f in fields(CostTable)} == {*BLOCKS, *RATIOS}


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


@pytest.mark.parametrize("name", BLOCKS)
def test_the_operations_do_what_they_are_called(name: str) -> None:
    out = BLOCKS[name](8, 3)()
    first = out if isinstance(out, torch.Tensor) else out[0]  # type: ignore[index]
    assert first.shape[0] == 3
    assert first.dtype == (torch.float64 if name == "eigh" else torch.float32)


def test_a_table_that_auto_can_use() -> None:
    said: list[str] = []
    table = calibrate(sizes=(4, 8), say=said.append)
    assert said == [f.name for f in fields(CostTable)]
    assert [m for m, _ in table.product] == [4, 8]
    assert CostTable.from_json(table.to_json()) == table
    q = Auto(table=table)(torch.eye(8))
    assert float((q - torch.eye(8)).abs().max()) < 0.05
