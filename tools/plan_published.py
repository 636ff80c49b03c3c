"""Predictions of `steepest plan` beside what others have published, in a table of docs/plan.md.

python tools/plan_published.py          print it
python tools/plan_published.py --write  put it into the page

The page is compared with what this prints, and every row that is off by more than `FAR` has to say
why.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from steepest.apps.plan import plan
from steepest.apps.plan.hardware import DEVICES

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "plan.md"
BEGIN, END = "<!-- published: tools/plan_published.py -->", "<!-- end of published -->"
CONSTANTS_BEGIN = "<!-- constants: tools/plan_published.py -->"
CONSTANTS_END = "<!-- end of constants -->"
DEVICES_BEGIN, DEVICES_END = "<!-- devices: tools/plan_published.py -->", "<!-- end of devices -->"

sys.path[:0] = [str(ROOT / "tools")]
from plan_constants import constants  # noqa: E402
from preset_table import between  # noqa: E402
from published_runs import (  # noqa: E402
    DION3,
    gb300,
    gh200,
    h200,
    kimi,
    moonlight,
    more_than_adamw,
    reserved,
    sft,
    share,
    speed,
    standard,
    titan,
)

FAR = 1.5
"""Predictions off by more than this factor have a reason."""

TITAN = (
    "[torchtitan](https://github.com/pytorch/torchtitan/blob/31a17bfdb70bab6f62a13d21816a5339b911d6e3"
    "/benchmarks/llama3_h100_202412_torchtitan.md)"
)
TRAINY = (
    "[torchtitan](https://github.com/pytorch/torchtitan/blob/1af29373a02c4beb237c2de02793931ce53b48d8"
    "/benchmarks/llama3-8b_h200_202506_trainy-whitefiber.md)"
)
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
    text = between(text, DEVICES_BEGIN, DEVICES_END, devices())
    return between(text, CONSTANTS_BEGIN, CONSTANTS_END, constants())


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(f"{table()}\n\n{devices()}\n\n{constants()}")
