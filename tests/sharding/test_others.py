"""Other people's set-ups: each does as one process, or is refused in one line on all ranks."""

from __future__ import annotations

import pytest

from tests.sharding.others import ROWS, measure
from tools.foreign_meshes import as_stated, said

pytestmark = pytest.mark.xdist_group("dist")


def cases() -> list[object]:
    """Every row on every number of processes; those that are not fast are for `-m slow`."""
    return [
        pytest.param(
            place,
            world,
            id=f"{row.topic}, {row.title}, {world}",
            marks=[] if row.fast and world == min(row.worlds) else pytest.mark.slow,
        )
        for place, row in enumerate(ROWS)
        for world in row.worlds
    ]


@pytest.mark.parametrize(("place", "world"), cases())
def test_a_row_does_what_the_table_says(place: int, world: int) -> None:
    result = measure(place, world)
    assert as_stated(result), said(result)
    assert not any("\n" in line for line in result.lines)
