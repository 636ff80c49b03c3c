"""transformers.Trainer in two gloo processes: DDP and FSDP2."""

from functools import cache

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from tests.frameworks import processes
from tests.frameworks.checks import check_falls, furthest
from tests.frameworks.scripts.trainer_run import STEPS


@cache
def ranks(kind, optimizer, *words):
    return processes.run("trainer_run", kind, optimizer, *words)


@pytest.mark.row("trainer-ddp")
def test_ddp_trains_and_its_ranks_agree():
    first, second = ranks("ddp", "muon")
    check_falls(first["whole"])
    assert len(first["whole"]) == STEPS
    assert first["sums"] == second["sums"]
    assert first["groups"] >= 3
    assert furthest(first["whole"], first["again"]) == 0.0
    assert not first["divided"]


@pytest.mark.row("trainer-ddp-divided")
def test_a_callback_has_the_ranks_divide_the_work():
    first, second = ranks("ddp", "muon", "divided")
    assert first["divided"]
    assert first["sums"] == second["sums"]
    assert furthest(first["whole"], ranks("ddp", "muon")[0]["whole"]) < 1e-3


@pytest.mark.row("trainer-fsdp2")
def test_fsdp2_saves_and_goes_on_as_with_adamw():
    for optimizer in ("adamw", "muon"):
        first, second = ranks("fsdp2", optimizer)
        assert first["param"] == "DTensor"
        check_falls(first["whole"])
        assert first["sums"] == second["sums"]
        assert furthest(first["whole"], first["again"]) == 0.0, optimizer


@pytest.mark.row("trainer-fsdp2-memory")
def test_no_full_parameter_outlives_the_sharding():
    assert ranks("fsdp2", "muon")[0]["originals"] > 20
    assert ranks("fsdp2", "muon")[0]["alive"] == ranks("fsdp2", "adamw")[0]["alive"] == 0


@pytest.mark.row("trainer-fsdp2")
def test_shards_make_the_steps_of_whole_parameters():
    whole, sharded = (ranks(kind, "muon")[0]["whole"] for kind in ("ddp", "fsdp2"))
    assert furthest(whole, sharded) < 2e-3
