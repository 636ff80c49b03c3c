"""What `steepest plan` predicts beside what others have published, in a table of docs/plan.md.

python tools/plan_published.py          print it
python tools/plan_published.py --write  put it into the page

The page is compared with what this prints, and every row that is off by more than `FAR` has to say
why.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from steepest.apps.plan import Plan, plan
from steepest.apps.plan.blocks import latent_experts, transformer
from steepest.apps.plan.costs import Cost, timed
from steepest.apps.plan.dtensor import newton_schulz
from steepest.apps.plan.flops import polar_flops
from steepest.apps.plan.hardware import DEVICES
from steepest.apps.plan.memory import CONTEXT
from steepest.apps.plan.models import Model, experts, linear

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "plan.md"
BEGIN, END = "<!-- published: tools/plan_published.py -->", "<!-- end of published -->"
DEVICES_BEGIN, DEVICES_END = "<!-- devices: tools/plan_published.py -->", "<!-- end of devices -->"

sys.path[:0] = [str(ROOT / "tools")]
from preset_table import between  # noqa: E402

FAR = 1.5
"""Predictions off by more than this factor have a reason."""

GIB = 2**30

TITAN = (
    "[torchtitan](https://github.com/pytorch/torchtitan/blob/31a17bfdb70bab6f62a13d21816a5339b911d6e3"
    "/benchmarks/llama3_h100_202412_torchtitan.md)"
)
TRAINY = (
    "[torchtitan](https://github.com/pytorch/torchtitan/blob/1af29373a02c4beb237c2de02793931ce53b48d8"
    "/benchmarks/llama3-8b_h200_202506_trainy-whitefiber.md)"
)
DION3 = "Dion3 (Amsel et al., 13 August 2026)"
MEGATRON = (
    "[NVIDIA](https://developer.nvidia.com/blog/"
    "advancing-emerging-optimizers-for-accelerated-llm-training-with-nvidia-megatron/)"
)
MOONLIGHT = (
    "Moonlight, arXiv 2502.16982: 1 to 3 %, as [a reproduction](https://huggingface.co/blog/"
)
MOONLIGHT += (
    "bird-of-paradise/reproducing-and-validating-distributed-muon) quotes it, which found 1.1 %"
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A prediction and a published figure.

    Args:
        what: the quantity.
        run: the run that it belongs to.
        predict: the prediction.
        published: the figure.
        unit: its unit.
        source: the place where it was published.
        reason: the difference in what is compared; needed beyond `FAR`.
        least: the lower end of a published range; None for one figure.
    """

    what: str
    run: str
    predict: Callable[[], float]
    published: float
    unit: str
    source: str
    reason: str = ""
    least: float | None = None

    def ratio(self) -> float:
        """Prediction over figure; 1 within a published range."""
        found = self.predict()
        if self.least is not None and self.least <= found <= self.published:
            return 1.0
        low = self.published if self.least is None or found > self.published else self.least
        return found / low


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
    """Muon of that model on four GH200s, state in bfloat16."""
    # GH200 data sheet: the peak of an H100, 96 GB.
    return plan(seven_billion(), mesh="fsdp=4", dtype=torch.bfloat16)


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


FLOAT8 = "the published run has Float8 products, which the plan has not"
MEMORY = "reserved memory, AdamW"
SPEED = "tokens/s and device"
STEP = "step of Muon"

ROWS: Sequence[Row] = (
    Row(
        what=MEMORY,
        run="Llama 8B, fsdp=8, 2 × 8192, selective",
        predict=lambda: reserved(titan("llama-8b", "fsdp=8", 2)),
        published=82.4,
        unit="GiB",
        source=f"{TITAN}, table 1",
        reason="77.0 with torch.compile",
    ),
    Row(
        what=MEMORY,
        run="Llama 8B, fsdp=128, 2 × 8192, selective",
        predict=lambda: reserved(titan("llama-8b", "fsdp=128", 2)),
        published=67.0,
        unit="GiB",
        source=f"{TITAN}, table 3",
        reason="62.0 with torch.compile",
    ),
    Row(
        what=MEMORY,
        run="Llama 8B, H200, fsdp=32, 2 × 8192, selective",
        predict=lambda: reserved(h200()),
        published=47.96,
        unit="GiB",
        source=TRAINY,
        reason="compiled, where the loss keeps fewer copies of the logits, and Float8",
    ),
    Row(
        what=MEMORY,
        run="Llama 70B, fsdp=32,tp=8, 16 × 8192, full",
        predict=lambda: reserved(titan("llama-70b", "fsdp=32,tp=8", 16, recompute="full")),
        published=71.9,
        unit="GiB",
        source=f"{TITAN}, table 4",
        reason="67.6 with asynchronous tensor parallelism",
    ),
    Row(
        what=MEMORY,
        run="Llama 405B, pp=8,fsdp=8,tp=8, 32 × 8192 in 8 rounds, full",
        predict=lambda: reserved(titan("llama-405b", "pp=8,fsdp=8,tp=8", 32, recompute="full")),
        published=82.5,
        unit="GiB",
        source=f"{TITAN}, table 5, 1F1B",
        reason="72.7 for interleaved stages",
    ),
    Row(
        what=SPEED,
        run="Llama 8B, fsdp=8, 2 × 8192, selective",
        predict=lambda: speed(titan("llama-8b", "fsdp=8", 2)),
        published=5762,
        unit="",
        source=f"{TITAN}, table 1",
        reason="6 667 with torch.compile; H100s at 500 of 700 W",
    ),
    Row(
        what=SPEED,
        run="Llama 8B, fsdp=128, 2 × 8192, selective",
        predict=lambda: speed(titan("llama-8b", "fsdp=128", 2)),
        published=5605,
        unit="",
        source=f"{TITAN}, table 3",
        reason="6 514 with torch.compile",
    ),
    Row(
        what=SPEED,
        run="Llama 8B, H200, fsdp=32, 2 × 8192, selective",
        predict=lambda: speed(h200()),
        published=10938,
        unit="",
        source=TRAINY,
        reason=FLOAT8,
    ),
    Row(
        what=SPEED,
        run="Llama 70B, fsdp=32,tp=8, 16 × 8192, full",
        predict=lambda: speed(titan("llama-70b", "fsdp=32,tp=8", 16, recompute="full")),
        published=829,
        unit="",
        source=f"{TITAN}, table 4",
        reason=FLOAT8,
    ),
    Row(
        what=SPEED,
        run="Llama 405B, pp=8,fsdp=8,tp=8, 32 × 8192 in 8 rounds, full",
        predict=lambda: speed(titan("llama-405b", "pp=8,fsdp=8,tp=8", 32, recompute="full")),
        published=100,
        unit="",
        source=f"{TITAN}, table 5, 1F1B",
        reason=f"{FLOAT8}; 128 with interleaved stages",
    ),
    Row(
        what="bytes that reach a device",
        run="7B, fsdp=4, bfloat16",
        predict=lambda: gh200()["exchange"].received / 1e6,
        published=6442,
        unit="MB",
        source=f"{DION3}, table 6",
        reason="the sizes of the model were taken from this figure",
    ),
    Row(
        what=STEP,
        run="7B, 4 GH200s, five standard steps",
        predict=lambda: 1e3 * standard(gh200()).seconds,
        published=360.6,
        unit="ms",
        source=f"{DION3}, table 6",
    ),
    Row(
        what=STEP,
        run="7B, 4 GH200s, Gram form",
        predict=lambda: 1e3 * gh200()["exchange"].seconds,
        published=296.6,
        unit="ms",
        source=f"{DION3}, table 6",
        reason="217.7 with kernels for symmetric products, which torch has not",
    ),
    Row(
        what="share of Muon in a step",
        run="Llama 70B, fine-tuning, fsdp=32, 64 × 2048 tokens",
        predict=lambda: share(sft()),
        published=17,
        unit="%",
        source=f"{DION3}, appendix E: measured factors, computed step",
        reason="theirs has no communication, and divides layers, three for the busiest device",
    ),
    Row(
        what="share of Muon in a step",
        run="Kimi K2, 2 048 H100s, pp=16,replicate=8,fsdp=16",
        predict=lambda: share(kimi()),
        published=1.9,
        unit="%",
        source=f"{DION3}, appendix E: measured factors, computed step",
        reason="theirs has no communication and no bubble",
    ),
    Row(
        what="Muon's step over AdamW's",
        run="Kimi K2, 256 GB300s, pp=4,fsdp=64",
        predict=lambda: more_than_adamw(gb300()),
        published=100 * (1051 / 1029 - 1),
        unit="%",
        source=f"{MEGATRON}, table 1: 1 051 and 1 029 TFLOP/s of the model",
        reason="2 048 sequences a step are a guess, from 51 TFLOP/s for Muon; products in MXFP8",
    ),
    Row(
        what="share of Muon in a step",
        run="Moonlight 16B, 64 H100s, fsdp=64, 4 M tokens",
        predict=lambda: share(plan(moonlight(), mesh="fsdp=64", recompute="full")),
        published=3,
        least=1,
        unit="%",
        source=MOONLIGHT,
        reason="devices and tokens are a guess, as none are given; a quarter of the tokens, 1.1 %",
    ),
)


def _number(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ") if value >= 1000 else f"{value:.3g}"


def table() -> str:
    """The table in Markdown."""
    lines = [
        "| | run | predicted | published | ratio | source | what differs |",
        "| --- | --- | ---: | ---: | ---: | --- | --- |",
    ]
    for row in ROWS:
        found, unit = row.predict(), f" {row.unit}" if row.unit else ""
        said = _number(row.published)
        if row.least is not None:
            said = f"{_number(row.least)} to {said}"
        cells = (row.what, row.run, f"{_number(found)}{unit}", f"{said}{unit}")
        ratio = f"{row.ratio():.2f}"
        lines.append(f"| {' | '.join((*cells, ratio, row.source, row.reason))} |")
    return "\n".join(lines)


def _prefixed(value: float) -> str:
    """A number of a data sheet with all of its digits."""
    for size, prefix in ((1e12, " T"), (1e9, " G")):
        if value >= size:
            return f"{value / size:g}{prefix}"
    return f"{value:g}"


def devices() -> str:
    """The numbers of the presets in Markdown."""
    lines = [
        "| `--device` | `half` | `memory` | `bandwidth` | `node` | `inner` | `outer` | sources |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for device, links in DEVICES.values():
        numbers = (
            device.half,
            device.memory,
            device.bandwidth,
            links.node,
            links.inner,
            links.outer,
        )
        sheets = dict.fromkeys((device.source, links.source))
        names = ("device", "machine")
        sources = ", ".join(f"[{name}]({url})" for name, url in zip(names, sheets, strict=False))
        cells = (f"`{device.name}`", *(_prefixed(n) for n in numbers), sources)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def replaced(text: str) -> str:
    """`text` with the present tables between their marks."""
    text = between(text, BEGIN, END, table())
    return between(text, DEVICES_BEGIN, DEVICES_END, devices())


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(f"{table()}\n\n{devices()}")
