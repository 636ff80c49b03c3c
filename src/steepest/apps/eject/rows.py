"""The rows of the table as an ejected file has them: blocks, hyper-parameters, formula."""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

from torch import nn

import steepest
from steepest._common.errors import invalid
from steepest.apps.eject.blocks import averages, slots
from steepest.apps.eject.blocks.row import Direction, Row
from steepest.apps.eject.source import described, function_text
from steepest.norms import Lp, Norm, Scaled, Schatten
from steepest.optim import PRESETS, Preset
from steepest.transforms import Composed

KNOWN: Mapping[str, Mapping[str, slots.Block]] = {
    "before": slots.BEFORE,
    "after": slots.AFTER,
    "retraction": slots.RETRACTION,
}
"""The blocks of each slot of a row, by the class of the object that fills it."""

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
        blocks: The blocks in the place of `average`, `pull`, `before`, `after` and `retract`, where
            the row has some, by their names in the file.
        values: The default of each hyper-parameter that it may have; none for a learning rate that
            has to be given.
    """

    name: str
    preset: Preset
    row: Row
    blocks: Mapping[str, Mapping[str, slots.Block]]
    values: Mapping[str, object]

    @property
    def stacked(self) -> bool:
        """Whether parameters of one shape are computed together."""
        return self.row.direction in ("polar", "layers")

    @property
    def is_variant(self) -> bool:
        """Whether it is Muon with other maps beside the polar factor, or another way to step."""
        return bool(self.blocks.keys() - {"average"})

    @property
    def summary(self) -> str:
        """A sentence for the class."""
        if self.is_variant:
            doc = inspect.getdoc(getattr(steepest, self.name)) or ""
            return doc.partition("\n")[0]
        return f"Steepest descent in {IN_WORDS[self.row.direction]}."


def ejected(name: str, *, half: bool = False) -> Ejected:
    """The row of a name.

    Args:
        name: A key of `PRESETS`.
        half: Whether polar factors are computed in bfloat16.

    Raises:
        ValueError: a norm or an object in a slot for which there is no block.
    """
    preset, kind = PRESETS[name], getattr(steepest, name)
    direction = _direction(kind, preset)
    values, blocks = library_values(kind), _blocks(preset)
    if blocks.keys() - {"average"} and direction != "polar":
        raise invalid("norm", preset.norm, "only rows of polar factors have blocks in their slots")
    for slot in KNOWN:
        for filler in _fillers(preset, slot):
            values.update(vars(filler))
    takes = {p for own in blocks.values() for b in own.values() for p in signature(b).parameters}
    row = Row(
        direction=direction,
        average="average" in blocks,
        dual=preset.scale == "dual" and direction == "polar",
        shaped=issubclass(kind, steepest.Muon) and ("retract" not in blocks or "factor" in takes),
        adamw=direction == "polar",
        half=half,
        before="before" in blocks,
        after="after" in blocks,
        states="states" in takes,
        retraction="retract" in blocks,
        pull="pull" in blocks,
    )
    return Ejected(name, preset, row, blocks, values)


def _fillers(preset: Preset, slot: str) -> tuple[Any, ...]:
    """The objects in a slot of a row, one after the other."""
    filler: Any = getattr(preset, slot)
    if filler is None:
        return ()
    return filler.maps if isinstance(filler, Composed) else (filler,)


def _blocks(preset: Preset) -> dict[str, dict[str, slots.Block]]:
    """The blocks of a row by their place."""
    found: dict[str, dict[str, slots.Block]] = {}
    if preset.betas is not None:
        found["average"] = {"average": averages.two_weights}
    elif preset.momentum:
        average = averages.nesterov if preset.nesterov else averages.heavy_ball
        found["average"] = {"average": average}
    read: dict[str, object] = {}
    for slot, known in KNOWN.items():
        for filler in _fillers(preset, slot):
            name = type(filler).__name__
            if name not in known:
                raise invalid(slot, filler, f"there is no block for {name} in this slot yet")
            block = known[name]
            if slot == "retraction":
                found["retract"] = {"retract": block}
                if name in slots.PULL:
                    found["pull"] = {"pull": slots.PULL[name]}
            else:
                found.setdefault(slot, {})[block.__name__] = block
            for key in described(function_text(block))[2].keys() & vars(filler).keys():
                if read.setdefault(key, vars(filler)[key]) != vars(filler)[key]:
                    raise invalid(slot, filler, f"another block reads another {key}: rename one")
    return found


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
    arguments = signature(kind).parameters
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
    lines = [line for place in ("pull", "average") for line in parts.get(place, [])]
    lines += [] if row.average or not row.before else ["u = grad"]
    lines += parts.get("before", [])
    lines += directions[row.direction]
    lines += [f"d ← ⟨{u}, d⟩·d"] if row.dual else []
    lines += parts.get("after", [])
    d = u if row.direction == "gradient" else "d"
    factor = "shape_factor(m, n)·" if row.shaped else ""
    moved = [f"W ← (1 − lr·weight_decay)·W − lr·{factor}{d}"]
    return lines + parts.get("retract", moved)
