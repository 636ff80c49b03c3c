"""The constants of `steepest plan` that no device sets: their sources, and what they change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, replace

from steepest.apps.plan import Plan, plan
from steepest.apps.plan.costs import Task, timed
from steepest.apps.plan.hardware import Device, Links
from steepest.apps.plan.training import step
from steepest.apps.plan.units import scaled

ASSUMED = "none: an assumption"
SOURCES: Mapping[str, str] = {
    "utilization": "Llama 3 405B on H100s, 38 to 43 %, arXiv 2407.21783, table 4",
    "factors": "4.96e14 flop of standard Newton–Schulz in 897 ms on an H100, Dion3, appendix E",
    "inner_latency": "NCCL, src/graph/tuning.cc",
    "outer_latency": "NCCL, src/graph/tuning.cc",
    "launch": "NCCL, src/graph/tuning.cc",
    "all_to_all": "four H100s, Dion3, appendix D.3",
    "message": ASSUMED,
}
"""The source of every constant: the comment beside it in `hardware.py`, in short."""

SHARES = ("utilization", "factors")
RUNS = {"Llama 8B on 64": ("llama-8b", 64), "Llama 405B on 65 536": ("llama-405b", 65536)}


def defaults() -> dict[str, float]:
    """The constants that no preset sets, by name."""
    named = (f for kind in (Device, Links) for f in fields(kind))
    return {
        f.name: f.default
        for f in named
        if f.default is not MISSING and f.name not in ("node", "source")
    }


def worse(task: Task, name: str) -> Task:
    """The task with a time twice as long, or with half of a share."""
    if name in SHARES:
        half = getattr(task.device, name) / 2
        return replace(task, device=replace(task.device, **{name: half}))
    return replace(task, links=replace(task.links, **{name: 2 * getattr(task.links, name)}))


def longer(found: Plan, name: str) -> str:
    """The shares by which the step of Muon, and a training step, take longer then."""
    task = worse(found.task, name)
    muon = timed(found.costs[0], task.stage).seconds
    whole = step(task, found.batch).seconds + muon
    old = found.costs[0]
    return f"{muon / old.seconds - 1:+.1%}, {whole / found.seconds(old) - 1:+.1%}"


def constants() -> str:
    """The table in Markdown."""
    plans = {text: plan(model, devices=count) for text, (model, count) in RUNS.items()}
    lines = [
        f"| | value | source | {' | '.join(RUNS)} |",
        f"| --- | ---: | --- |{' ---: |' * len(RUNS)}",
    ]
    for name, value in defaults().items():
        shown = f"{value:g}" if name in SHARES else scaled(value, "s")
        cells = (longer(found, name) for found in plans.values())
        lines.append(f"| `{name}` | {shown} | {SOURCES[name]} | {' | '.join(cells)} |")
    sizes = []
    for found in plans.values():
        used = found.memory(found.costs[0])
        sizes.append(f"{scaled(used.total, 'B')}, {scaled(used.total + used.margin, 'B')}")
    text = "1 GB and a tenth of what comes and goes"
    lines.append(f"| `margin` of memory | {text} | {ASSUMED} | {' | '.join(sizes)} |")
    return "\n".join(lines)
