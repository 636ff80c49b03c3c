"""The code that is calling the library."""

from __future__ import annotations

import sys
from types import FrameType


def callers() -> list[FrameType]:
    """The frames from the function that asks outwards."""
    found: list[FrameType] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        found.append(frame)
        frame = frame.f_back
    return found


def module_of(frame: FrameType) -> str:
    """The name of the module whose code a frame runs; empty if it has none."""
    return str(frame.f_globals.get("__name__", ""))
