"""transformers.Trainer in two gloo processes: DDP and FSDP2."""

from functools import cache

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from tests.frameworks import processes
from tests.frameworks.checks import check_falls, furthest
from tests.frameworks.scripts.trainer_run import STEPS


@cache
def ranks(kind):
    return processes.run("trainer_run", kind)


def check(kind, way):
    """The first rank's account of a run that learns, keeps its ranks alike and can be resumed."""
    first, second = (rank[way] for rank in ranks(kind))
    check_falls(first["losses"])
    assert len(first["losses"]) == STEPS
    assert first["sums"] == second["sums"]
    # The log of a resumed run begins with that of its checkpoint.
    assert furthest(first["losses"], first["again"]) == 0.0, way
    return first


@pytest.mark.row("trainer-ddp")
def test_ddp_trains_and_its_ranks_agree():
    found = check("ddp", "muon")
    assert found["groups"] >= 3
    assert found["divided"]


@pytest.mark.row("trainer-ddp-divided")
def test_a_callback_has_the_ranks_divide_the_work():
    found = check("ddp", "divided")
    assert found["divided"]
    assert furthest(found["losses"], check("ddp", "muon")["losses"]) < 1e-4


@pytest.mark.row("trainer-fsdp2")
def test_fsdp2_saves_and_goes_on_as_with_adamw():
    for way in ("adamw", "muon"):
        assert check("fsdp2", way)["param"] == "DTensor"


@pytest.mark.row("trainer-fsdp2-memory")
def test_no_full_parameter_outlives_the_sharding():
    for way in ("adamw", "muon"):
        found = check("fsdp2", way)
        assert (found["alive"], found["originals"]) == (0, 21), way


@pytest.mark.row("trainer-fsdp2")
def test_shards_make_the_steps_of_whole_parameters():
    whole, sharded = (check(kind, "muon")["losses"] for kind in ("ddp", "fsdp2"))
    assert furthest(whole, sharded) < 1e-3
