"""The records of a monitor as tables: a number for each layer and step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steepest._common.files import Record
from steepest._common.records import is_number

SIGMAS = "weight_sigmas"
Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerHistory:
    """One quantity of every layer at every step.

    Args:
        steps: rising, shape (steps,).
        layers: names in the order of the records.
        values: shape (layers, steps); NaN where a record has none.
    """

    steps: Numbers
    layers: tuple[str, ...]
    values: Numbers

    def last(self) -> dict[str, float]:
        """The newest value of each layer that has one."""
        found = {}
        for name, row in zip(self.layers, self.values, strict=True):
            finite = row[np.isfinite(row)]
            if finite.size:
                found[name] = float(finite[-1])
        return found


@dataclass(frozen=True, eq=False, kw_only=True)
class Curves:
    """Sorted magnitudes of every layer at some steps.

    Args:
        what: a word for the magnitudes, such as "singular values".
        values: layer to step to numbers in falling order.
        limits: the largest magnitude that the ball of a layer allows, where there is one.
    """

    what: str
    values: dict[str, dict[int, Numbers]]
    limits: dict[str, float]


def split(key: str) -> tuple[str, str]:
    """Layer and quantity of a key; a key of the whole record has no layer.

    Examples:
        >>> split("blocks.0/mlp.fc/rms_in"), split("step")
        (('blocks.0/mlp.fc', 'rms_in'), ('', 'step'))
    """
    layer, _, quantity = key.rpartition("/")
    return layer, quantity


def grid(records: Sequence[Record], quantity: str) -> LayerHistory | None:
    """A quantity over layers and steps; None if no record has a number of it.

    Examples:
        >>> found = grid([{"step": 1, "a/x": 2.0}, {"step": 2, "a/x": None, "b/x": 3}], "x")
        >>> found.layers, found.values.tolist()
        (('a', 'b'), [[2.0, nan], [nan, 3.0]])
    """
    rows: dict[str, dict[int, float]] = {}
    for place, record in enumerate(records):
        for key, value in record.items():
            layer, name = split(key)
            if name == quantity and layer and is_number(value):
                rows.setdefault(layer, {})[place] = float(value)
    if not rows:
        return None
    values = np.full((len(rows), len(records)), math.nan)
    for i, row in enumerate(rows.values()):
        values[i, list(row)] = list(row.values())
    seen = np.isfinite(values).any(axis=0)
    steps = np.array([float(r["step"]) for r in records])
    return LayerHistory(steps=steps[seen], layers=tuple(rows), values=values[:, seen])


def sigmas(records: Sequence[Record]) -> Curves | None:
    """The singular values of the weights at every step; None if no record has any."""
    found: dict[str, dict[int, Numbers]] = {}
    for record in records:
        for key, value in record.items():
            layer, name = split(key)
            if name == SIGMAS and isinstance(value, list) and value and all(map(is_number, value)):
                found.setdefault(layer, {})[int(record["step"])] = np.array(value, dtype=float)
    return Curves(what="singular values", values=found, limits={}) if found else None
