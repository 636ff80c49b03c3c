"""Rules on single layers: the warnings of the monitor, rates apart, growth, momentum, balls."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from statistics import median

from steepest._common.files import Record
from steepest.apps.diagnose import titles
from steepest.apps.diagnose.evidence import MUON, Confidence, Evidence, Finding
from steepest.apps.diagnose.records import LayerHistory, grid
from steepest.diagnostics import monitor_warnings

# Ours, each with its reason.
APART = 10.0
"""Update over weight of an embedding or a head against that of the hidden matrices: their tuned
rates keep it within a factor of three over all of a run."""
PER_BLOCK = 2.0
"""Growth of the residual stream per block: a sum of equal parts grows by √2 at most, after the
first block."""
BLOCKS = 3
"""Blocks from which on a growth per block means something."""
FEW = 2.0
"""A nuclear rank below it: one direction has nearly all of the momentum."""
WIDE = 8
"""Matrices with a smaller side below it have low rank by their shape."""
FULL = 0.95
"""The share of its radius from which on a ball holds a weight back."""

SEEN: tuple[str, ...] = (
    *("non-finite gradient", "dead gradient", "no gradient", "lr below rounding", "left out"),
    "activations",
)
"""Causes that a monitor reads off and does not infer."""
INFERRED: tuple[str, ...] = ("misaligned", "polar error", "large lr", "large adamw_lr", "small lr")


def monitored(e: Evidence) -> Iterator[Finding]:
    """The warnings of the monitor, one for each cause; what it has read off comes first."""
    for cause, found in sorted(_causes(e.monitor).items(), key=lambda pair: _place(pair[0])):
        bare = [{"step": step, "findings": [{**one, "remedy": ""}]} for step, one in found]
        ((step, text),) = monitor_warnings(bare)
        _, worst = max(found, key=lambda pair: pair[1].get("badness") or 0.0)
        yield _of_monitor(f"Step {step}: {text}", cause, worst.get("remedy") or "")
    # Records of older versions have lines alone, with the remedy in them.
    lines = [r for r in e.monitor if not r.get("findings")]
    for step, text in monitor_warnings(lines):
        what, _, remedy = text.partition("; ")
        yield _of_monitor(f"Step {step}: {what}", "", remedy)


def _of_monitor(what: str, cause: str, remedy: str) -> Finding:
    confidence: Confidence = (
        "certain" if cause in SEEN else "likely" if cause in INFERRED else "a hint"
    )
    return Finding(
        what=what,
        confidence=confidence,
        why="the monitor has read it off the step"
        if cause in SEEN
        else "the monitor infers it from the steps that it observed",
        advice=remedy or "look at this layer in the sections below: its ranks, updates and outputs",
        evidence=titles.WARNINGS,
    )


def _place(cause: str) -> int:
    order = (*SEEN, *INFERRED)
    return order.index(cause) if cause in order else len(order)


def _causes(monitor: Sequence[Record]) -> dict[str, list[tuple[int, Record]]]:
    """Each cause with the steps and the findings that name it."""
    found: dict[str, list[tuple[int, Record]]] = {}
    for record in monitor:
        for one in record.get("findings") or ():
            found.setdefault(str(one["cause"]), []).append((int(record["step"]), one))
    return found


def table_rate(e: Evidence) -> Iterator[Finding]:
    """Embeddings and heads that learn much faster or slower than the hidden matrices."""
    settings, ratios = e.settings, grid(e.monitor, "update_ratio")
    if settings is None or settings.adamw_lr is None or ratios is None:
        return
    rows = dict(zip(ratios.layers, ratios.values, strict=True))
    hidden = [rows[name] for name in rows if name in e.hidden]
    if not hidden:
        return
    for name in sorted(e.tables & rows.keys()):
        pairs = zip(rows[name], zip(*hidden, strict=True), strict=True)
        apart = [
            own / median(others)
            for own, others in pairs
            if own > 0 and all(math.isfinite(o) and o > 0 for o in others)
        ]
        typical = median(apart) if apart else 1.0
        if 1 / APART <= typical <= APART:
            continue
        more = typical > 1
        lr = settings.adamw_lr / 3 if more else settings.adamw_lr * 3
        factor = typical if more else 1 / typical
        yield Finding(
            what=f"A step changes {name} {factor:.2g} times as {'much' if more else 'little'} as "
            "the hidden matrices, each against its own size",
            confidence="a hint",
            why="rates may differ for good reason, but rarely by more than a factor of ten",
            advice=f"try --adamw-lr {e.optimizer}={lr:.2g}",
            evidence=titles.UPDATES,
        )


def stream(outputs: LayerHistory) -> tuple[str, float, float, int] | None:
    """The newest RMS after the first and the last of numbered blocks.

    Returns:
        The name that the blocks share, the two numbers, and how many blocks lie between them; None
        where fewer than `BLOCKS` do.
    """
    groups: dict[str, dict[int, float]] = {}
    for name, value in outputs.last().items():
        found = re.fullmatch(r"(.*?)\.?(\d+)", name)
        if found and value > 0:
            groups.setdefault(found[1], {})[int(found[2])] = value
    longest = max(groups.items(), key=lambda pair: len(pair[1]), default=None)
    if longest is None or max(longest[1]) - min(longest[1]) < BLOCKS:
        return None
    name, values = longest
    first, last = min(values), max(values)
    return name, values[first], values[last], last - first


def growth(e: Evidence) -> Finding | None:
    """The residual stream grows from block to block by more than sums do."""
    outputs = grid(e.monitor, "rms_out")
    if outputs is None or (found := stream(outputs)) is None:
        return None
    name, start, end, between = found
    factor = (end / start) ** (1 / between)
    if factor <= PER_BLOCK:
        return None
    return Finding(
        what=f"Activations grow by a factor of {factor:.2g} per block in {name}, from {start:.3g} "
        f"to {end:.3g}",
        confidence="likely",
        why="adding branches of equal size makes them grow by less",
        advice="scale down what each block adds, or normalise before it",
        evidence=titles.DEPTH,
    )


def low_rank_momentum(e: Evidence) -> Finding | None:
    """Momentum of one direction, whose polar factor is mostly noise."""
    ranks = grid(e.monitor, "momentum_nuclear_rank")
    if ranks is None or e.optimizer not in MUON:
        return None
    low = {
        name: rank
        for name, rank in ranks.last().items()
        if name in e.hidden and e.sides.get(name, 0) >= WIDE and rank < FEW
    }
    if not low:
        return None
    worst = min(low, key=low.__getitem__)
    return Finding(
        what=f"The momentum of {counted(len(low), 'layer')} is essentially one direction (nuclear "
        f"rank {low[worst]:.2f} of {e.sides[worst]} in {worst}), while Muon steps along all "
        "directions equally",
        confidence="a hint",
        why="what a polar factor adds to a matrix of low rank may be signal or noise",
        advice="compare with a larger --batch, or with --optimizer adamw",
        evidence=titles.RANKS,
    )


def balls(e: Evidence) -> Finding | None:
    """Weights at the boundary of the ball in which decay keeps them."""
    if e.constraint is None:
        return None
    full = [row for row in e.constraint if FULL <= row.filled < math.inf]
    if not full:
        return None
    worst = max(full, key=lambda row: row.filled)
    flag = (
        ""
        if e.settings is None
        else f": --weight-decay {e.optimizer}={e.settings.weight_decay / 2:g}"
    )
    return Finding(
        what=f"Weight decay holds {counted(len(full), 'weight')} back: {worst.name} is at "
        f"{worst.filled:.2f} of its radius",
        confidence="certain",
        why="decoupled decay bounds the norm by 1/weight_decay",
        advice=f"if you do not want that bound, halve the weight decay{flag}",
        evidence=titles.BALLS,
    )


def counted(count: int, word: str) -> str:
    """A number with its noun.

    Examples:
        >>> counted(1, "layer"), counted(3, "layer")
        ('1 layer', '3 layers')
    """
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
