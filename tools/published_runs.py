"""The runs whose figures `tools/plan_published.py` has beside predictions, as plans."""

from __future__ import annotations

from dataclasses import replace

import torch

from steepest.apps.plan import Plan, plan
from steepest.apps.plan.blocks import latent_experts, transformer
from steepest.apps.plan.costs import Cost, timed
from steepest.apps.plan.dtensor import newton_schulz
from steepest.apps.plan.flops import polar_flops
from steepest.apps.plan.hardware import DEVICES
from steepest.apps.plan.memory import CONTEXT
from steepest.apps.plan.models import Model, experts, linear

GIB = 2**30
DION3 = "Dion3 (Amsel et al., 13 August 2026)"

# 96 GB of HBM2e at 2.4 TB/s, 400 Gb/s for each: "Hardware" of the page.
TITAN_H100 = replace(DEVICES["h100"][0], memory=96e9, bandwidth=2.4e12)


def titan(model: str, mesh: str, sequences: int, *, recompute: str = "selective") -> Plan:
    """A run of torchtitan at the end of 2024: sequences of 8192, no gradient accumulation."""
    groups = plan(model, mesh=mesh).task.mesh
    return plan(
        model,
        mesh=mesh,
        device=TITAN_H100,
        links=DEVICES["h100"][1],
        tokens=8192 * sequences * groups.fsdp * groups.replicate,
        sequences=max(1, sequences // groups.pp),
        recompute=recompute,
    )


def h200() -> Plan:
    """The run on four nodes of H200s in June 2025."""
    tokens = 2 * 8192 * 32
    return plan(
        "llama-8b", mesh="fsdp=32", device="h200", tokens=tokens, sequences=2, recompute="selective"
    )


def reserved(found: Plan) -> float:
    """GiB that AdamW's run reserves: all but context and communicators."""
    used = found.memory(found["AdamW"])
    return (used.total - CONTEXT) / GIB


def speed(found: Plan) -> float:
    """Tokens/s of one device with AdamW."""
    return found.tokens / found.seconds(found["AdamW"]) / found.task.mesh.devices


def seven_billion() -> Model:
    """The 7B of Dion3, tables 4 and 6: blocks of 16 · 4096² numbers.

    Table 6 gives 6 442 MB for each of four GPUs, there and back in bfloat16, which is 32 such
    blocks to the byte; the table of sizes, 11 008 for 16 384 and fewer keys, is of another run.
    """
    layers, width, hidden = 32, 4096, 16384
    return Model(
        name="dion3-7b",
        source=DION3,
        weights=(
            linear(4 * layers, width, width),
            linear(2 * layers, hidden, width),
            linear(layers, width, hidden),
        ),
        rest=(2 * 100352 * width, 2 * layers + 3),
        active=100352 * width,
        tokens=2**22,
        blocks=layers,
        added=2 * layers * width,
        block=transformer(width, hidden, keys=width),
        scores=2 * layers * width,
        length=8192,
        vocabulary=100352,
        root=2 * 100352 * width,
    )


def gh200() -> Plan:
    """Muon of that model on four GH200s, state and exchange in bfloat16."""
    half = torch.bfloat16
    # GH200 data sheet: the peak of an H100, 96 GB.
    return plan(seven_billion(), mesh="fsdp=4", dtype=half, exchange_dtype=half)


def standard(found: Plan) -> Cost:
    """Muon's step with five steps of Newton–Schulz in place of the default polar factor."""
    task = found.task.stage
    products = {True: 0.0, False: 0.0}
    for w in task.model.weights:
        for count, m, n in w.parts:
            five = newton_schulz(m, n, 1, 1)
            assert five is not None
            products[True] += w.count * count * five.flops
            products[False] += w.count * count * polar_flops(m, n)
    flops = found["exchange"].flops * products[True] / products[False]
    return timed(replace(found["exchange"], flops=flops), task)


def share(found: Plan) -> float:
    """Percent of a training step that it takes."""
    return 100 * found.share(standard(found))


def sft() -> Plan:
    """Fine-tuning of Llama-3 70B on 32 H100s, 64 sequences of 2048 tokens."""
    return plan("llama-70b", mesh="fsdp=32", tokens=64 * 2048, length=2048, recompute="none")


def kimi() -> Plan:
    """Kimi K2 on 2 048 H100s: 16 stages, experts on 16 devices, 8 copies of each."""
    return plan("moe-1t", mesh="pp=16,replicate=8,fsdp=16", recompute="none")


def gb300() -> Plan:
    """Kimi K2 on 256 GB300s, 4 stages of 64 devices, 2 048 sequences of 4 096 tokens."""
    device = replace(DEVICES["gb200"][0], name="gb300", memory=288e9)
    return plan(
        "moe-1t",
        mesh="pp=4,fsdp=64",
        device=device,
        links=DEVICES["gb200"][1],
        tokens=2048 * 4096,
        length=4096,
        sequences=1,
        recompute="none",
    )


def more_than_adamw(found: Plan) -> float:
    """Percent that a step with Muon takes longer than one with AdamW."""
    adamw = found.seconds(found["AdamW"])
    return 100 * (found.seconds(standard(found)) / adamw - 1)


def moonlight() -> Model:
    """Moonlight's 16B, by its published config.json: 27 blocks, 64 experts of which 6 are taken."""
    layers, width, routed, hidden, taken, heads = 27, 2048, 64, 1408, 6, 16
    vocabulary, moe = 163840, layers - 1
    return Model(
        name="moonlight",
        source="config.json of Moonlight-16B-A3B",
        weights=(
            linear(layers, heads * 192, width),
            linear(layers, 512 + 64, width),
            linear(layers, heads * 256, 512),
            linear(layers, width, heads * 128),
            linear(2, 11264, width),
            linear(1, width, 11264),
            linear(2 * moe, 2 * hidden, width),
            linear(moe, width, 2 * hidden),
            linear(moe, routed, width),
            experts(2 * moe, routed, hidden, width, taken / routed),
            experts(moe, routed, width, hidden, taken / routed),
        ),
        rest=(2 * vocabulary * width + (2 * layers + 1) * width, 3 * layers + 3),
        active=vocabulary * width,
        tokens=2**22,
        blocks=layers,
        added=2 * layers * width,
        sent=moe * taken * width,
        block=latent_experts(width, hidden, taken=taken, heads=heads, ranks=(0, 512), repeated=0.0),
        scores=layers * heads * (192 + 128),
        length=8192,
        vocabulary=vocabulary,
        root=2 * vocabulary * width + width,
    )
