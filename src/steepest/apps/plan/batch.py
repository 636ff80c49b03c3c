"""The tokens of a training step, and how a device takes them forward."""

from __future__ import annotations

import math
from dataclasses import dataclass

from steepest._common.errors import invalid
from steepest.apps.plan.mesh import Mesh

AT_ONCE = 8192
"""Tokens that a device, or the devices of one tensor parallel group, take forward at a time, unless
a number of sequences is asked for."""

RECOMPUTE = ("none", "selective", "full")
"""The ways to recompute activations in the backward pass, the fastest first."""


@dataclass(frozen=True, kw_only=True)
class LocalBatch:
    """Tokens of a step, and how they are taken.

    Args:
        tokens: the tokens of a step.
        length: the tokens of a sequence.
        sequences: the sequences that a device, or the devices of one tensor parallel group, take
            forward at a time.
        recompute: the activations that the backward pass computes again: those of "full" blocks; in
            a "selective" way all but the result of attention and of every second product of a
            block; or "none".

    Raises:
        ValueError: a number below 1, or an unknown way to recompute.
    """

    tokens: int
    length: int
    sequences: int
    recompute: str = "none"

    def __post_init__(self) -> None:
        for name in ("tokens", "length", "sequences"):
            if getattr(self, name) < 1:
                raise invalid(name, getattr(self, name), "give a whole number >= 1")
        if self.recompute not in RECOMPUTE:
            raise invalid("recompute", self.recompute, f"choose from {', '.join(RECOMPUTE)}")

    def share(self, mesh: Mesh) -> float:
        """Tokens of a step for one device, or for the devices of one tensor parallel group."""
        return self.tokens / (mesh.replicate * mesh.fsdp)

    def at_once(self, mesh: Mesh) -> float:
        """Those of them that are taken at a time."""
        return min(self.share(mesh), self.sequences * self.length)

    def rounds(self, mesh: Mesh) -> int:
        """The number of times that this takes."""
        return math.ceil(self.share(mesh) / self.at_once(mesh))
