"""Ejected files as modules, and an optimizer of the library for each to be compared with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import steepest
from steepest import norms
from steepest.apps.eject import rows
from steepest.apps.eject.start import text
from steepest.optim import PRESETS
from steepest.polar import Auto, NewtonSchulz, PolarMethod, Schedule
from steepest.transforms import BalancedRows
from steepest.views import MatrixView

ROWS = {name: rows.ejected(name) for name in PRESETS}
MATRICES = [name for name, one in ROWS.items() if one.row.direction == "polar"]
LAYERS = [name for name, one in ROWS.items() if one.row.direction == "layers"]
ENTRIES = [name for name in ROWS if name not in (*MATRICES, *LAYERS)]
BALANCED = BalancedRows(polar=Auto(error=0.05))
NEEDED = {
    name: {"lr": 0.02} if one.values["lr"] is inspect.Parameter.empty else {}
    for name, one in ROWS.items()
}
"""The arguments that an optimizer cannot do without."""

# Tall, wide, square, a pair of one shape; then fused in three; then what AdamW has.
SHAPES = ((6, 4), (4, 6), (5, 5), (6, 4), (1, 3))
FUSED = ((9, 3), (6, 3))
OTHERS = ((7,), (4, 3), ())


def module(content: str) -> ModuleType:
    """The module that a file of this content would be."""
    made = ModuleType("ejected")
    exec(compile(content, "ejected.py", "exec"), made.__dict__)
    return made


@cache
def ejected(name: str, **options: Any) -> ModuleType:
    """The module that `steepest eject` writes."""
    return module(text(name, **options))


def method(file: ModuleType, dtype: torch.dtype | None = None) -> PolarMethod:
    """The polar method of the library with the steps that a file has."""
    steps = tuple(tuple(map(float, step)) for step in file.SCHEDULE)
    schedule = Schedule(name="file", coefficients=steps, interval=(5e-4, 1.02), source="a file")
    return NewtonSchulz(schedule, dtype)


def params(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> list[nn.Parameter]:
    """Parameters of these shapes, the same in every call."""
    generator = torch.Generator().manual_seed(len(shapes))
    drawn = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return [nn.Parameter(x.to(dtype)) for x in drawn]


def library(name: str, polar: PolarMethod, groups: Any, **options: Any) -> Any:
    """The optimizer of the library."""
    kind: Any = getattr(steepest, name)
    if PRESETS[name].before == BALANCED:
        options["before"] = replace(options.get("before", BALANCED), polar=polar)
    if issubclass(kind, steepest.Muon):
        return kind(groups, polar=polar, **options)
    layers = name in LAYERS
    norm = norms.Operator("rms", "rms", polar=polar) if layers else norms.Spectral(polar=polar)
    return kind(groups, norm=norm, **options)


def pair(
    name: str,
    file: ModuleType,
    dtype: torch.dtype,
    polar: PolarMethod,
    own: Mapping[str, Any],
    theirs: Mapping[str, Any],
) -> tuple[tuple[Any, list[nn.Parameter]], tuple[Any, list[nn.Parameter]]]:
    """The optimizer of a file and that of the library, each with equal parameters.

    Args:
        name: The name of both.
        file: The file.
        dtype: The type of the parameters.
        polar: The polar method of the library's.
        own: The arguments of that of the file.
        theirs: The arguments of that of the library.
    """
    made = []
    for kind in ("file", "library"):
        sets = [params(shapes, dtype) for shapes in (SHAPES, FUSED, OTHERS)]
        views = {"split": 3} if kind == "file" else {"views": MatrixView(split=3)}
        groups = [
            {"params": sets[0]},
            {"params": sets[1], "lr": 0.03, "weight_decay": 0.5, **views},
            {"params": sets[2], "adamw": True},
        ]
        if kind == "file":
            optimizer = getattr(file, name)(groups, **own)
        else:
            optimizer = library(name, polar, groups, **theirs)
        made.append((optimizer, [p for members in sets for p in members]))
    return made[0], made[1]


def gradient(step: int, place: int, like: Tensor) -> Tensor | None:
    """The gradient of a parameter in a step: now and then none, zero, tiny, or zero in a row."""
    generator = torch.Generator().manual_seed(100 * step + place)
    drawn = torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
    if place in (1, 8) and step % 3 == 1:
        return None
    if place == 2:
        return drawn if step < 2 else torch.zeros_like(drawn)
    if place == 3:
        return torch.zeros_like(drawn)
    if place == 0 and step > 5:
        drawn[1] = 0
    return drawn * 1e-20 if place == 5 else drawn


def advance(optimizer: Any, members: Sequence[nn.Parameter], steps: range) -> None:
    """Take steps with the gradients of a list of parameters, under a scheduler."""
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    for step in steps:
        for place, p in enumerate(members):
            p.grad = gradient(step, place, p)
        optimizer.step()
        scheduler.step()


@torch.no_grad()
def largest_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference of two lists of tensors, relative to the largest entry of each."""
    pairs = zip(found, expected, strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
