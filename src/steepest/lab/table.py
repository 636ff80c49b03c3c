"""The reproductions that there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steepest._common.errors import invalid
from steepest.lab.depth_variance import DEPTH_VARIANCE
from steepest.lab.directional_sharpness import DIRECTIONAL_SHARPNESS
from steepest.lab.experiment import Reproduction
from steepest.lab.lr_transfer import LR_TRANSFER
from steepest.lab.quadratics.figures import QUADRATICS
from steepest.lab.spectral_constraint import SPECTRAL_CONSTRAINT
from steepest.lab.warm_start import WARM_START

REPRODUCTIONS: Mapping[str, Reproduction[Any]] = {
    r.name: r
    for r in (
        LR_TRANSFER,
        DEPTH_VARIANCE,
        WARM_START,
        SPECTRAL_CONSTRAINT,
        DIRECTIONAL_SHARPNESS,
        QUADRATICS,
    )
}


def find(name: str) -> Reproduction[Any]:
    """The reproduction of a name.

    Raises:
        ValueError: there is no such reproduction.
    """
    if name not in REPRODUCTIONS:
        raise invalid("NAME", name, f"choose from {', '.join(REPRODUCTIONS)}")
    return REPRODUCTIONS[name]
