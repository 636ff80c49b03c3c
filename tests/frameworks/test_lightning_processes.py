"""Lightning in two gloo processes: DDP and FSDP2."""

from functools import cache

import pytest

pytest.importorskip("lightning")
pytest.importorskip("transformers")

from tests.frameworks import processes
from tests.frameworks.checks import check_falls, furthest
from tests.frameworks.scripts.lightning_run import HALF


@cache
def ranks(kind):
    return processes.run("lightning_run", kind)


def check(kind, name):
    first, second = (rank[name] for rank in ranks(kind))
    check_falls(first["losses"])
    assert first["sums"] == second["sums"]
    assert len(first["losses"]) == 2 * HALF
    assert furthest(first["losses"][HALF:], first["again"]) == 0.0
    return first


@pytest.mark.row("lightning-ddp")
def test_ddp():
    assert check("ddp", "Recorded")["divided"]


@pytest.mark.row("lightning-ddp-divided")
def test_ddp_divides_the_work_of_an_optimizer_of_the_wrapped_model():
    divided = check("ddp", "Divided")
    assert divided["divided"]
    assert len(divided["losses"]) == 2 * HALF


@pytest.mark.row("lightning-ddp-replicas")
def test_ddp_divides_the_work_once_it_knows_its_replicas():
    assert check("ddp", "Replicas")["divided"]


@pytest.mark.row("lightning-fsdp2")
def test_model_parallel_strategy():
    for name in ("ShardedAdamW", "Sharded"):
        assert check("parallel", name)["param"] == "DTensor"
