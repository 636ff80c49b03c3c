"""The memory that a plan says a rank of FSDP2 needs, against the peak that torch finds."""

from __future__ import annotations

import pytest

from tests.apps.plan import tracked
from tests.apps.plan.tracked import Sizes, predicted
from tests.sharding.pool import pool

FEW = (
    ("loss", Sizes(gated=True, layers=2)),
    ("backward", Sizes(gated=True, layers=2, vocabulary=64)),
)
MORE = (
    ("loss", Sizes(gated=True)),
    ("loss", Sizes(gated=False)),
    ("loss", Sizes(gated=True, recompute="selective")),
    ("end of backward", Sizes(gated=True, recompute="full")),
    ("backward", Sizes(gated=True, vocabulary=64)),
    # gloo scatters a copy of what it is given, which a device does not: 8 % more.
    ("end of backward", Sizes(gated=True, vocabulary=4096, sequences=1, length=16)),
    ("step", Sizes(gated=True, vocabulary=64, sequences=1, length=16, layers=6)),
)


@pytest.mark.parametrize("cases", [FEW, pytest.param(MORE, marks=pytest.mark.slow)])
def test_a_rank_of_fsdp2_needs_what_the_plan_says(cases: tuple[tuple[str, Sizes], ...]) -> None:
    for moment, sizes in cases:
        said = predicted(sizes, 2)
        for found in pool(2).run(tracked.sharded, sizes):
            assert said.moment == moment, sizes
            assert said.counted == pytest.approx(found["Total"], rel=0.09), sizes
            assert said.weights == found["Sharded Param"], sizes
            if moment == "loss":
                assert said.counted == pytest.approx(found["Total"], rel=0.03), sizes
                passing = found["Activation"] + found["Temp"]
                assert said.activations + said.logits == pytest.approx(passing, rel=0.01)
