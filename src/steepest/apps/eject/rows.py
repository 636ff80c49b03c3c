"""The rows of the table as an ejected file has them: blocks, hyper-parameters, formula."""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

import steepest
from steepest._common.errors import invalid
from steepest.apps.eject.blocks import averages, slots
from steepest.apps.eject.blocks.row import Direction, Row
from steepest.norms import Lp, Norm, Scaled, Schatten
from steepest.optim import PRESETS, Preset

SLOTS: Mapping[str, tuple[Mapping[str, Callable[..., object]], str]] = {
    "before": (slots.BEFORE, "before"),
    "after": (slots.AFTER, "after"),
    "retraction": (slots.RETRACTION, "retract"),
}
"""Each slot of a row: the blocks by the class that fills it, and their name in a file."""

IN_WORDS: Mapping[Direction, str] = {
    "gradient": "the Euclidean norm",
    "unit": "the Euclidean norm",
    "sign": "the ℓ∞ norm",
    "polar": "the spectral norm",
    "layers": "a norm for each kind of layer",
}
"""The norm of each direction."""


@dataclass(frozen=True)
class Ejected:
    """A row of the table with what its file is made of.

    Args:
        name: The name of the row.
        preset: The row.
        row: The answers to the questions of the blocks.
        blocks: The functions for `average`, `before`, `after` and `retract`, of those it has.
        values: The default of each hyper-parameter that it may have; none for a learning rate that
            has to be given.
    """

    name: str
    preset: Preset
    row: Row
    blocks: Mapping[str, Callable[..., object]]
    values: Mapping[str, object]

    @property
    def stacked(self) -> bool:
        """Whether parameters of one shape are computed together."""
        return self.row.direction in ("polar", "layers")


def ejected(name: str, *, half: bool = False) -> Ejected:
    """The row of a name.

    Args:
        name: A key of `PRESETS`.
        half: Whether polar factors are computed in bfloat16.

    Raises:
        ValueError: a norm or an object in a slot for which there is no block.
    """
    preset, kind = PRESETS[name], getattr(steepest, name)
    blocks: dict[str, Callable[..., object]] = {}
    if preset.betas is not None:
        blocks["average"] = averages.two_weights
    elif preset.momentum:
        blocks["average"] = averages.nesterov if preset.nesterov else averages.heavy_ball
    values, taken = library_values(kind), {"lr", "weight_decay", "momentum", "nesterov", "betas"}
    for slot, (known, called) in SLOTS.items():
        filler = getattr(preset, slot, None)
        if filler is not None:
            block = known.get(type(filler).__name__)
            if block is None:
                raise invalid(slot, filler, f"{type(filler).__name__} has no block to eject yet")
            if shared := taken & vars(filler).keys():
                raise invalid(slot, filler, f"{sorted(shared)} is read by another block: rename it")
            blocks[called] = block
            taken |= vars(filler).keys()
            values.update(vars(filler))
    direction = _direction(kind, preset)
    row = Row(
        direction=direction,
        average="average" in blocks,
        dual=preset.scale == "dual" and direction == "polar",
        shaped=issubclass(kind, steepest.Muon),
        adamw=direction == "polar",
        half=half,
        before="before" in blocks,
        after="after" in blocks,
        retraction="retract" in blocks,
    )
    return Ejected(name, preset, row, blocks, values)


def _direction(kind: type, preset: Preset) -> Direction:
    """The kind of direction that a row asks for."""
    norm: Norm = preset.norm
    if issubclass(kind, steepest.Scion) and isinstance(norm, Scaled):
        return "layers"
    if isinstance(norm, Schatten) and norm.p == math.inf:
        return "polar"
    if isinstance(norm, Lp) and norm.p == 2:
        return "gradient" if preset.scale == "dual" else "unit"
    if isinstance(norm, Lp) and norm.p == math.inf and preset.scale == "unit":
        return "sign"
    raise invalid("norm", norm, "there is no block for its direction yet")


def library_values(kind: Callable[..., Any]) -> dict[str, object]:
    """The hyper-parameters of an optimizer of the library by default: those of its groups."""
    layers = OrderedDict(embed=nn.Embedding(2, 2), hidden=nn.Linear(2, 2), head=nn.Linear(2, 2))
    model = nn.Sequential(layers)
    arguments = inspect.signature(kind).parameters
    values: dict[str, object] = {}
    try:
        groups = kind(model).param_groups
    except ValueError:  # without a learning rate
        groups = kind(model, lr=1.0).param_groups
        values["lr"] = inspect.Parameter.empty
    values = {**groups[0], **values}
    if groups[-1]["adamw"]:
        own = ("lr", "betas", "weight_decay")
        values.update((f"adamw_{key}", groups[-1][key]) for key in own)
    if "head_scale" in arguments:
        values["head_scale"] = arguments["head_scale"].default
    return values


def formula(one: Ejected, parts: Mapping[str, list[str]]) -> list[str]:
    """The lines of a step.

    Args:
        one: The row.
        parts: The lines of each of its blocks.
    """
    row = one.row
    u = "u" if row.average or row.before else "grad"
    directions: Mapping[Direction, list[str]] = {
        "gradient": [],
        "unit": [f"d = {u}/‖{u}‖₂"],
        "sign": [f"d = sign({u})"],
        "polar": [f"d = UVᵀ, the polar factor of {u} = UΣVᵀ"],
        "layers": [
            "d = √(m/n)·UVᵀ, the polar factor of u = UΣVᵀ, for a hidden matrix of m × n",
            "d = head_scale/n·sign(u) for the head, of n inputs",
            "d = u over its root mean square, each row of an embedding and each other tensor",
        ],
    }
    lines = list(parts.get("average", []))
    if row.before:
        lines += [] if row.average else ["u = grad"]
        lines += parts["before"]
    lines += directions[row.direction]
    lines += [f"d ← ⟨{u}, d⟩·d"] if row.dual else []
    d = u if row.direction == "gradient" else "d"
    if row.after:
        lines += [f"d = {u}"] if d != "d" else []
        lines, d = [*lines, *parts["after"]], "d"
    factor = "shape_factor(m, n)·" if row.shaped else ""
    moved = [f"W ← (1 − lr·weight_decay)·W − lr·{factor}{d}"]
    return lines + (parts["retract"] if row.retraction else moved)
