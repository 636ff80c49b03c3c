"""DeepSpeed: its engine without ZeRO, and the refusal of what ZeRO makes of the parameters."""

import pytest

pytest.importorskip("deepspeed")

from tests.frameworks import processes
from tests.frameworks.checks import check_falls


@pytest.mark.parametrize("optimizer", ["Muon", "Lion"])
def test_an_engine_without_zero_trains(optimizer):
    for rank in processes.run("deepspeed_run", "0", optimizer):
        check_falls(rank["losses"], by=0.02)


@pytest.mark.parametrize("stage", ["1", "2", "3"])
@pytest.mark.parametrize("optimizer", ["Muon", "NormalizedSGD", "Lion"])
def test_zero_is_refused_by_name(stage, optimizer):
    for rank in processes.run("deepspeed_run", stage, optimizer):
        assert "ZeRO" in rank["refused"]
        assert "fully_shard" in rank["refused"]


def test_a_model_that_zero_has_made_is_refused_by_name():
    for rank in processes.run("deepspeed_run", "3", "Muon", "init"):
        assert "ZeRO of DeepSpeed, stage 3" in rank["refused"]
