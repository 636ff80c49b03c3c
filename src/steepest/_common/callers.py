"""The code that is calling the library."""

from __future__ import annotations

import inspect
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


def owner_of(frame: FrameType) -> object:
    """The object whose method a frame runs; None if it runs none."""
    code = frame.f_code
    if not code.co_flags & inspect.CO_OPTIMIZED or "self" not in code.co_varnames[:1]:
        return None
    # Up to Python 3.12 these are copies, which would keep all variables alive as long as the frame.
    copies = frame.f_locals
    owner = copies.get("self")
    if sys.version_info < (3, 13):
        copies.clear()
    return owner


def module_of(frame: FrameType) -> str:
    """The name of the module whose code a frame runs; empty if it has none."""
    return str(frame.f_globals.get("__name__", ""))
