"""The memory of a plan: against peaks that torch's trackers find, and by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from steepest.apps.plan import plan
from steepest.apps.plan.batch import RECOMPUTE
from steepest.apps.plan.blocks import transformer
from steepest.apps.plan.hardware import DEVICES
from steepest.apps.plan.memory import CONTEXT, FRAGMENTATION
from steepest.apps.plan.models import MODELS
from tests.apps.plan.tracked import Sizes, alone, predicted

CLOSE, NEAR = 0.01, 0.11
"""The differences that are allowed at the loss, which is exact up to single numbers, and at moments
whose order of frees a formula does not follow."""


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_the_peak_at_the_loss_is_the_tracked_one(gated: bool, recompute: str) -> None:
    sizes = Sizes(gated=gated, recompute=recompute)
    said, found = predicted(sizes, 1), alone(sizes)
    assert said.moment == "loss"
    assert said.counted == pytest.approx(found["Total"], rel=CLOSE)
    assert said.weights == found["Parameter"]
    assert said.state == pytest.approx(found["Optstate"], rel=CLOSE)
    passing = said.activations + said.logits
    assert passing == pytest.approx(found["Activation"] + found["Temp"], rel=CLOSE)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(
    ("moment", "more"),
    [
        ("backward", {"vocabulary": 64}),
        ("backward", {"vocabulary": 64, "recompute": "selective"}),
        ("end of backward", {"vocabulary": 64, "recompute": "full"}),
        ("step", {"vocabulary": 4096, "sequences": 1, "length": 16}),
    ],
)
def test_the_peaks_at_other_moments(gated: bool, moment: str, more: dict[str, int]) -> None:
    sizes = Sizes(gated=gated, **more)  # type: ignore[arg-type]
    said, found = predicted(sizes, 1), alone(sizes)
    assert said.moment == moment
    assert said.counted == pytest.approx(found["Total"], rel=NEAR)


def test_a_block_of_gpt_is_what_has_been_published() -> None:
    # Korthikanti et al., section 4.1: 34·s·b·h bytes with two masks of dropout, 10 of which and of
    # the other masks stay whole under tensor parallelism without that of sequences.
    kept = transformer(96, 4 * 96).none
    assert 2 * (kept.divided + kept.whole) + 2 * 96 == 34 * 96


def test_llama_on_128_devices_by_hand() -> None:
    found = plan("llama-8b", mesh="fsdp=128", tokens=256 * 8192, sequences=2, recompute="selective")
    memory = found.memory(found["AdamW"])
    numbers, tokens = MODELS["llama-8b"].parameters / 128, 2 * 8192
    # A block and the tables in bfloat16; four kinds of 4096, values and half of the gate; logits.
    block = 2 * 4096**2 + 2 * 1024 * 4096 + 3 * 14336 * 4096 + 2 * 4096
    assert memory.moment == "loss" and memory.gradients == memory.workspace == 0
    assert memory.weights == pytest.approx(4 * numbers, rel=1e-3)
    assert memory.state == pytest.approx(8 * numbers, rel=1e-3)
    assert memory.gathered == pytest.approx(2 * (block + 2 * 128256 * 4096 + 4096))
    assert memory.activations == 2 * tokens * 32 * (4 * 4096 + 1024 + 14336)
    assert memory.logits == tokens * (12 * 128256 + 4 * 4096)
    passing = memory.gathered + memory.activations + memory.logits
    assert memory.margin == pytest.approx(CONTEXT + FRAGMENTATION * passing)
    assert memory.total == pytest.approx(memory.counted + memory.margin)


def test_gradients_are_there_from_the_second_round_on() -> None:
    one, two = (
        plan("llama-8b", mesh="fsdp=8", tokens=8 * 8192 * k, recompute="full") for k in (1, 2)
    )
    first, second = (p.memory(p["AdamW"]) for p in (one, two))
    assert first.moment == second.moment == "loss"
    assert first.gradients == 0 and second.gradients == second.weights


def test_copies_have_buckets_and_autocast_its_copies() -> None:
    copies, lonely = (plan("gpt2", mesh=f"replicate={n}", tokens=8192 * n) for n in (2, 1))
    two, one = (p.memory(p["AdamW"]) for p in (copies, lonely))
    assert two.unsharded == two.weights and one.unsharded == 0
    assert two.gathered == one.gathered == one.weights / 2
    half = plan("gpt2", mesh="replicate=2", tokens=2 * 8192, dtype=torch.bfloat16)
    assert half.memory(half["AdamW"]).gathered == 0


def test_tensor_parallelism_divides_all_but_gathered_inputs() -> None:
    few, many = (
        plan("llama-8b", mesh=f"fsdp=8,tp={tp}", tokens=8 * 8192, recompute="none") for tp in (1, 8)
    )
    one, eight = (p.memory(p["AdamW"]) for p in (few, many))
    whole = 2 * 8192 * 32 * 2 * 4096
    assert eight.activations - whole == pytest.approx((one.activations - whole) / 8)
    assert eight.weights == pytest.approx(one.weights / 8, rel=1e-3)


def test_a_pipeline_keeps_all_rounds_in_flight_and_all_weights() -> None:
    model = MODELS["llama-405b"]
    found = plan(model, mesh="pp=8,fsdp=8,tp=8", tokens=8 * 32 * 8192, sequences=4)
    memory = found.memory(found["AdamW"])
    first = model.stage(8)
    assert first.blocks == 16 and found.batch.rounds(found.task.mesh) == 8
    assert memory.gathered == pytest.approx(2 * first.parameters / 8, rel=1e-3)
    assert memory.unsharded == pytest.approx(2 * memory.gathered)
    assert memory.activations == 2 * 4 * 8192 * 16384 / 8 * 16 * 8
    # Seven rounds of eight wait for the first one to come through.
    training = found.training
    assert training.pipeline == pytest.approx(7 / 8 * (training.products + training.tensor))
    last = model.stage(8, last=True)
    assert (first.vocabulary, last.vocabulary) == (0, 128256)
    assert first.active == 0 and last.active == model.active


def test_the_least_recomputation_that_fits_is_taken() -> None:
    roomy, tight = replace(DEVICES["h100"][0], memory=200e9), DEVICES["h100"][0]
    links = DEVICES["h100"][1]
    ways = [
        plan("llama-8b", mesh="fsdp=8", sequences=2, device=device, links=links).batch.recompute
        for device in (roomy, tight, replace(tight, memory=30e9))
    ]
    assert ways == ["none", "full", "full"]
    too_small = plan("llama-8b", mesh="fsdp=8", device=replace(tight, memory=30e9), links=links)
    assert too_small.limit(too_small["exchange"]) == "memory"


def test_what_fits_is_what_the_parts_add_up_to() -> None:
    found = plan("llama-70b", mesh="fsdp=16")
    for cost in found.costs:
        if not cost.refused:
            parts = found.memory(cost).parts
            assert found.fits(cost) is (sum(parts.values()) <= found.task.device.memory)
    assert not found.fits(found["exchange"])
    text = str(found)
    assert all(f"{name} " in text for name, value in parts.items() if value)


def test_two_blocks_are_gathered_in_the_backward_pass() -> None:
    found = plan("llama-405b", mesh="replicate=8,fsdp=1024,tp=8", recompute="none")
    memory, model = found.memory(found["AdamW"]), MODELS["llama-405b"]
    block = (model.parameters - model.root) / model.blocks / 8
    assert memory.moment == "backward"
    assert memory.gathered == pytest.approx(2 * (2 * block + model.root / 8))
    assert memory.unsharded == pytest.approx(2 * (block + model.root / 16))
