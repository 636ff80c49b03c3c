"""The reproductions that there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steepest._common.errors import invalid
from steepest.apps.reproduce.depth_variance.experiment import DEPTH_VARIANCE
from steepest.apps.reproduce.directional_sharpness.experiment import DIRECTIONAL_SHARPNESS
from steepest.apps.reproduce.framework.experiment import Reproduction
from steepest.apps.reproduce.lr_transfer.experiment import LR_TRANSFER
from steepest.apps.reproduce.quadratics.figures import QUADRATICS
from steepest.apps.reproduce.spectral_constraint.experiment import SPECTRAL_CONSTRAINT
from steepest.apps.reproduce.warm_start.experiment import WARM_START

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
